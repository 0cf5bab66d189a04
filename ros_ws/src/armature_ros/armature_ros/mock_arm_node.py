"""An arm that is where it is told to be: stands in for a driver, to try a graph without hardware and without physics.

It speaks what a ros2_control arm speaks: joint states at a fixed rate, trajectories in. Between commands it moves as
the last one says; when none comes for `command_max_age_s` it stops by itself, as a driver does, and what was stamped
longer ago it refuses: what waited in a queue while it hung may be of another time.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
from rclpy.executors import Executor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from armature.errors import ConfigError, InvalidValue
from armature_ros.conversions import action_from_msg, joint_state_to_msg, ns_from_time
from armature_ros.diagnostics import Diagnostics
from armature_ros.parameters import load_config
from armature_ros.qos import reliable_qos, stream_qos
from armature_ros.robot import RobotConfig, load_robot_spec
from armature_ros.spin import StopRequest, run
from armature_ros.streams import StreamConfig


@dataclass(frozen=True)
class MockArmNodeConfig:
    """Parameters of `mock_arm_node`."""

    start: tuple[float, ...]
    """Where it is at the beginning, in the layout of the action: joints [rad], gripper opening [m]."""
    robot: RobotConfig = field(default_factory=RobotConfig)
    streams: dict[str, StreamConfig] = field(default_factory=dict[str, StreamConfig])
    rate_hz: float = 100.0
    joint_state_topic: str = "joint_states"
    command_topic: str = "arm_controller/joint_trajectory"
    command_max_age_s: float = 0.2

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("rate_hz", "command_max_age_s"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ConfigError(f"{name} is {getattr(self, name):g}, must be above 0 and finite")


class MockArmNode(Node):
    """Moves in straight lines from command to command, each for as long as the command says."""

    def __init__(self) -> None:
        super().__init__("mock_arm_node", automatically_declare_parameters_from_overrides=True)
        self.config = load_config(self, MockArmNodeConfig)
        spec = load_robot_spec(self.config.robot).action
        if spec.kind != "joint_position" or len(self.config.start) != spec.dim:
            raise ConfigError(f"start has {len(self.config.start)} values, the action '{spec.kind}' has {spec.dim}; "
                              "only arms that take joint positions can be stood in for")  # fmt: skip
        self._labels = spec.labels
        self._from = self._to = np.array(self.config.start)
        self._begin_ns = self._end_ns = time.monotonic_ns()
        self._stops = 0
        self._refused = 0
        self._is_commanded = False
        self._publisher = self.create_publisher(
            JointState, self.config.joint_state_topic, stream_qos(1, reliable=True, latched=False)
        )
        self.create_subscription(JointTrajectory, self.config.command_topic, self._on_command, reliable_qos())
        Diagnostics(self, lambda: {"arm": {"stops": str(self._stops), "refused": str(self._refused)}})
        self.get_logger().info(f"ready, {self.config.rate_hz:g} Hz")

    def loop(self, executor: Executor, stop: StopRequest) -> None:
        """Publish where the arm is, on absolute deadlines, until asked to stop."""
        period_ns = round(1e9 / self.config.rate_hz)
        deadline_ns = time.monotonic_ns()
        while not stop.requested:
            if (left_ns := deadline_ns - time.monotonic_ns()) > 0:
                executor.spin_once(timeout_sec=left_ns / 1e9)
                continue
            self._publish(time.monotonic_ns())
            deadline_ns = max(deadline_ns + period_ns, time.monotonic_ns())

    def _publish(self, now_ns: int) -> None:
        if self._is_commanded and now_ns - self._begin_ns > self.config.command_max_age_s * 1e9:
            self._is_commanded, self._stops = False, self._stops + 1
            self.get_logger().error(f"no command for {self.config.command_max_age_s} s: the arm stopped by itself")
        stamp_ns = self.get_clock().now().nanoseconds
        self._publisher.publish(joint_state_to_msg(self._labels, self._position(now_ns), stamp_ns))

    def _position(self, now_ns: int) -> np.ndarray:
        share = (now_ns - self._begin_ns) / max(self._end_ns - self._begin_ns, 1)
        return self._from + min(max(share, 0.0), 1.0) * (self._to - self._from)

    def _on_command(self, message: JointTrajectory) -> None:
        try:
            target = action_from_msg(message, self._labels)
            self._require_young(ns_from_time(message.header.stamp))
        except InvalidValue as error:
            self._refused += 1
            self.get_logger().error(f"{self.config.command_topic}: {error}; refused", throttle_duration_sec=2.0)
            return
        now_ns = time.monotonic_ns()
        self._from, self._to = self._position(now_ns), target
        self._begin_ns, self._end_ns = now_ns, now_ns + ns_from_time(message.points[0].time_from_start)
        self._is_commanded = True

    def _require_young(self, stamp_ns: int) -> None:
        """Raise InvalidValue on a command of long ago; one without a stamp is of now."""
        age_s = (self.get_clock().now().nanoseconds - stamp_ns) / 1e9
        if stamp_ns and age_s > self.config.command_max_age_s:
            raise InvalidValue(f"stamped {age_s:.3f} s ago, more than {self.config.command_max_age_s} s")


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(MockArmNode, MockArmNode.loop, args, shares_memory=False)


if __name__ == "__main__":
    raise SystemExit(main())
