"""A person at the keyboard watches a policy, takes the arm over and gives it back, and says how an episode went.

t takes over and gives back; meanwhile keys move the arm as in teleoperation, from where it was commanded to be, so that
what it holds stays held. y (success) and x (failure) label the episode for whoever learns from it.
"""

from __future__ import annotations

import time

import numpy as np
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool

from armature_ros.control_takeover import TOPIC, takeover_to_msg
from armature_ros.held_back import HeldBack
from armature_ros.jog import HELP, Jog
from armature_ros.keyboard import Keyboard
from armature_ros.newest import newest_command, newest_state
from armature_ros.parameters import load_config
from armature_ros.qos import reliable_qos
from armature_ros.robot import load_robot_spec
from armature_ros.spin import StopRequest, deadlines, run
from armature_ros.teleop_node import TeleopNodeConfig

MESSAGES_PER_STEP = 2
"""A device that is silent for a few steps has let go: one late message must not look like that."""
SWITCH_KEY = "t"
LABEL_KEYS = {"y": True, "x": False}
LABEL_SERVICE = "residual_node/label"
KEYS = f"{SWITCH_KEY}: take over, give back; y: success; x: failure; h: help"


class TakeoverNode(Node):
    """Reads the keyboard and says who drives; one thread does everything."""

    def __init__(self) -> None:
        super().__init__("takeover_node", automatically_declare_parameters_from_overrides=True)
        config = load_config(self, TeleopNodeConfig)
        self._keyboard = Keyboard()
        self._spec = load_robot_spec(config.robot).action
        self._jog = Jog(self._spec, config.jog)
        self._is_engaged = False
        self._state = newest_state(self, config.joint_state_topic, self._spec)
        self._command = newest_command(self, self._spec)
        self._held_back = HeldBack(self)
        self._publisher = self.create_publisher(JointState, TOPIC, reliable_qos())
        self._labels = self.create_client(SetBool, LABEL_SERVICE)
        self._say_help()

    def loop(self, executor: Executor, stop: StopRequest) -> None:
        """Say who drives on absolute deadlines, until asked to stop."""
        period_s = 1 / (MESSAGES_PER_STEP * self._spec.rate_hz)
        with self._keyboard:
            for _ in deadlines(period_s, executor, stop):
                for key in self._keyboard.read():
                    self._press(key)
                self._publish(period_s)

    def _press(self, key: str) -> None:
        if key == SWITCH_KEY:
            self._give_back("the policy drives") if self._is_engaged else self._take_over()
        elif key in LABEL_KEYS:
            self._label(success=LABEL_KEYS[key])
        # A key that was pressed while the policy drove must not move the arm later.
        elif not self._is_engaged or not self._jog.press(key, time.monotonic()):
            self._say_help()
        elif key in ("left", "right") or key.isdecimal():
            self.get_logger().info(f"moving {self._jog.chosen_label}")

    def _take_over(self) -> None:
        if self._command.value is None or self._state.value is None:
            self.get_logger().error("cannot take over: neither the arm nor control_node says where it is")
            return
        self._jog.begin(self._command.value)
        self._is_engaged = True
        self.get_logger().info(f"YOU DRIVE, moving {self._jog.chosen_label}; {SWITCH_KEY}: give back")

    def _give_back(self, why: str) -> None:
        self._is_engaged = False
        self.get_logger().info(why)

    def _publish(self, period_s: float) -> None:
        measured = self._state.value
        if self._is_engaged and measured is None:
            self._give_back("the arm is silent: given back")
        action = np.zeros(self._spec.dim)
        if self._is_engaged and measured is not None:
            if self._jog.is_moving(time.monotonic()):
                self._held_back.tell()
            if self._held_back.is_stopped:
                self._jog.release()
            action = self._jog.action(time.monotonic(), period_s, measured, self._command.value)
        stamp_ns = self.get_clock().now().nanoseconds
        self._publisher.publish(takeover_to_msg(action, self._spec.labels, stamp_ns, engaged=self._is_engaged))

    def _label(self, *, success: bool) -> None:
        if not self._labels.service_is_ready():
            self.get_logger().warning(f"nobody takes a label: {LABEL_SERVICE} is not there")
            return
        self._labels.call_async(SetBool.Request(data=success)).add_done_callback(self._on_labelled)

    def _on_labelled(self, answer: Future) -> None:
        response = answer.result()
        said = f"label: {response.message}"
        self.get_logger().info(said) if response.success else self.get_logger().error(said)

    def _say_help(self) -> None:
        self.get_logger().info(f"{KEYS}; {HELP[self._spec.kind]}")


def main(args: list[str] | None = None) -> int:
    """Run the node; return the exit code."""
    return run(TakeoverNode, TakeoverNode.loop, args)


if __name__ == "__main__":
    raise SystemExit(main())
