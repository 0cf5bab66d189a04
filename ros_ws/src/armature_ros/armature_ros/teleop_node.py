"""Keyboard teleoperation: publishes one-step chunks at a fixed rate, exactly as a policy does.

A key moves the arm while it repeats; without one the target stays; without this node the chunks end and the arm holds.
Episodes are begun and ended from the keyboard too: n, then y (success), x (failure) or Backspace (throw away).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from rclpy.executors import Executor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from armature.types import ActionChunk
from armature_ros.control_takeover import ENGAGED
from armature_ros.conversions import chunk_to_msg, joint_state_to_msg
from armature_ros.held_back import HeldBack
from armature_ros.jog import HELP, Jog, JogConfig
from armature_ros.keyboard import Keyboard
from armature_ros.newest import newest_command, newest_state
from armature_ros.parameters import load_config
from armature_ros.qos import reliable_qos
from armature_ros.recorded_topics import OPTIONAL_TOPICS
from armature_ros.robot import RobotConfig, load_robot_spec
from armature_ros.spin import StopRequest, deadlines, run
from armature_ros.streams import StreamConfig
from armature_ros.teleop_episode import TeleopEpisode
from data_collection.streams import TAKEOVER

CHUNKS_PER_STEP = 2
"""A chunk covers one step of the robot; twice as many leave no gap when one comes late."""
EPISODE_HELP = "n: new episode; y: success; x: failure; Backspace: throw it away; h: help"


@dataclass(frozen=True)
class TeleopNodeConfig:
    """Parameters of `teleop_node` and `takeover_node`."""

    streams: dict[str, StreamConfig]
    robot: RobotConfig = field(default_factory=RobotConfig)
    jog: JogConfig = field(default_factory=JogConfig)
    joint_state_topic: str = "joint_states"
    recorder: bool = False
    """Of teleop_node: the graph has a recorder, without which no episode is to begin."""
    simulator: bool = False
    """Of teleop_node: the same of a simulator."""


class TeleopNode(Node):
    """Reads the keyboard and publishes chunks; one thread does everything."""

    def __init__(self) -> None:
        super().__init__("teleop_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, TeleopNodeConfig)
        self._keyboard = Keyboard()
        self._spec = load_robot_spec(self.config.robot).action
        self._jog = Jog(self._spec, self.config.jog)
        self._sequence = 0
        self._chunk_publisher = self.create_publisher(JointTrajectory, "chunk", reliable_qos())
        self._takeover_publisher = self.create_publisher(JointState, OPTIONAL_TOPICS[TAKEOVER], reliable_qos())
        self._state = newest_state(self, self.config.joint_state_topic, self._spec)
        # What displaces a tool is told to the arm in joints.
        self._command = None if self._spec.kind == "tcp_delta" else newest_command(self, self._spec)
        self._held_back = HeldBack(self)
        beside = {"recorder_node": self.config.recorder, "sim_node": self.config.simulator, "control_node": True}
        expected = [name for name, is_there in beside.items() if is_there]
        self._episode = TeleopEpisode(self, expected, on_reset=self._forget)
        self._say_help()

    def loop(self, executor: Executor, stop: StopRequest) -> None:
        """Publish on absolute deadlines until asked to stop."""
        period_s = 1 / (CHUNKS_PER_STEP * self._spec.rate_hz)
        with self._keyboard:
            for _ in deadlines(period_s, executor, stop):
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
        measured, stamp_ns = self._state.value, self.get_clock().now().nanoseconds
        is_driving = np.array([measured is not None])
        self._takeover_publisher.publish(joint_state_to_msg((ENGAGED,), is_driving, stamp_ns))
        if self._jog.is_moving(time.monotonic()):
            self._held_back.tell("nobody says where the arm is" if measured is None else "")
        if measured is None:
            self._jog.reset()
            return
        if self._held_back.is_stopped:
            self._jog.release()
        commanded = None if self._command is None else self._command.value
        action = self._jog.action(time.monotonic(), period_s, measured, commanded)
        self._sequence += 1
        chunk = ActionChunk(stamp_ns, stamp_ns, self._spec.period_ns, action[None], "keyboard", self._sequence)
        self._chunk_publisher.publish(chunk_to_msg(chunk, self._spec.labels))

    def _forget(self) -> None:
        """Begin where the arm is from now on: what was heard so far may be of where a reset has moved it away from."""
        self._state.forget()
        if self._command is not None:
            self._command.forget()
        self._jog.reset()

    def _say_help(self) -> None:
        self.get_logger().info(f"{HELP[self._spec.kind]}; {EPISODE_HELP}")


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(TeleopNode, TeleopNode.loop, args)


if __name__ == "__main__":
    raise SystemExit(main())
