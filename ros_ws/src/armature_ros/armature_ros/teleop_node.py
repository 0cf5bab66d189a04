"""Keyboard teleoperation: publishes one-step chunks at a fixed rate, exactly as a policy does.

A key moves the arm while it repeats; without one the target stays; without this node the chunks end and the arm holds.
Episodes are begun and ended from the keyboard too: n, then y (success), x (failure) or Backspace (throw away).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rclpy.executors import Executor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from armature.errors import InvalidValue
from armature.types import ActionChunk
from armature_ros.conversions import chunk_to_msg, joint_state_to_msg, measured_from_joint_state
from armature_ros.jog import HELP, Jog, JogConfig
from armature_ros.keyboard import Keyboard
from armature_ros.parameters import load_config
from armature_ros.qos import newest_stream_qos, reliable_qos
from armature_ros.recorded_topics import OPTIONAL_TOPICS
from armature_ros.robot import RobotConfig, load_robot_spec
from armature_ros.spin import StopRequest, run
from armature_ros.streams import StreamConfig
from armature_ros.teleop_episode import TeleopEpisode
from data_collection.streams import TAKEOVER

CHUNKS_PER_STEP = 2
"""A chunk covers one step of the robot; twice as many leave no gap when one comes late."""
EPISODE_HELP = "n: new episode; y: success; x: failure; Backspace: throw it away; h: help"
STATE_AGE_MAX_S = 0.5


@dataclass(frozen=True)
class TeleopNodeConfig:
    """Parameters of `teleop_node`."""

    streams: dict[str, StreamConfig]
    robot: RobotConfig = field(default_factory=RobotConfig)
    jog: JogConfig = field(default_factory=JogConfig)
    joint_state_topic: str = "joint_states"


class TeleopNode(Node):
    """Reads the keyboard and publishes chunks; one thread does everything."""

    def __init__(self) -> None:
        super().__init__("teleop_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, TeleopNodeConfig)
        self._keyboard = Keyboard()
        self._spec = load_robot_spec(self.config.robot).action
        self._jog = Jog(self._spec, self.config.jog)
        self._measured: NDArray[np.float64] | None = None
        self._measured_s = 0.0
        self._sequence = 0
        self._chunk_publisher = self.create_publisher(JointTrajectory, "chunk", reliable_qos())
        self._takeover_publisher = self.create_publisher(JointState, OPTIONAL_TOPICS[TAKEOVER], reliable_qos())
        self.create_subscription(
            JointState, self.config.joint_state_topic, self._on_joint_state, newest_stream_qos(lockstep=False)
        )
        self._episode = TeleopEpisode(self, on_reset=self._jog.reset)
        self._say_help()

    def loop(self, executor: Executor, stop: StopRequest) -> None:
        """Publish on absolute deadlines until asked to stop."""
        period_s = 1 / (CHUNKS_PER_STEP * self._spec.rate_hz)
        deadline_s = time.monotonic()
        with self._keyboard:
            while not stop.requested:
                executor.spin_once(timeout_sec=max(0.0, deadline_s - time.monotonic()))
                if time.monotonic() < deadline_s:
                    continue
                deadline_s = max(deadline_s, time.monotonic() - period_s) + period_s
                for key in self._keyboard.read():
                    self._press(key)
                self._episode.advance()
                self._publish(period_s)

    def _press(self, key: str) -> None:
        if self._episode.press(key):
            return
        before = self._jog.chosen
        if not self._jog.press(key, time.monotonic()):
            self._say_help()
        elif self._jog.chosen != before:
            self.get_logger().info(f"moving {self._jog.chosen_label}")

    def _publish(self, period_s: float) -> None:
        """Publish the target of one step, and who drives; no target while the state of the arm is not known."""
        now_s, stamp_ns = time.monotonic(), self.get_clock().now().nanoseconds
        is_driving = self._measured is not None and now_s - self._measured_s <= STATE_AGE_MAX_S
        self._takeover_publisher.publish(joint_state_to_msg(("engaged",), np.array([is_driving]), stamp_ns))
        if self._measured is None or not is_driving:
            self._jog.reset()
            return
        action = self._jog.action(now_s, period_s, self._measured)
        self._sequence += 1
        chunk = ActionChunk(stamp_ns, stamp_ns, self._spec.period_ns, action[None], "keyboard", self._sequence)
        self._chunk_publisher.publish(chunk_to_msg(chunk, self._spec.labels))

    def _on_joint_state(self, message: JointState) -> None:
        try:
            self._measured = measured_from_joint_state(message, self._spec)
            self._measured_s = time.monotonic()
        except InvalidValue as error:
            self.get_logger().error(f"{self.config.joint_state_topic}: {error}; refused", throttle_duration_sec=2.0)

    def _say_help(self) -> None:
        self.get_logger().info(f"{HELP[self._spec.kind]}; {EPISODE_HELP}")


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(TeleopNode, TeleopNode.loop, args)


if __name__ == "__main__":
    raise SystemExit(main())
