"""The newest state of the arm, as long as it is fresh."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import JointState

from armature.errors import InvalidValue
from armature.spec import ActionSpec
from armature_ros.conversions import measured_from_joint_state
from armature_ros.qos import newest_stream_qos

AGE_MAX_S = 0.5


class NewestState:
    """Listens to joint states; what cannot be read is refused and said."""

    def __init__(self, node: Node, topic: str, spec: ActionSpec) -> None:
        self._node, self._topic, self._spec = node, topic, spec
        self._measured: NDArray[np.float64] | None = None
        self._received_s = 0.0
        node.create_subscription(JointState, topic, self._on_joint_state, newest_stream_qos(lockstep=False))

    @property
    def value(self) -> NDArray[np.float64] | None:
        """Return the state (D,) in the layout of the action, None where it is not known or too old."""
        return self._measured if time.monotonic() - self._received_s <= AGE_MAX_S else None

    def forget(self) -> None:
        """Know nothing until the next joint state comes."""
        self._measured = None

    def _on_joint_state(self, message: JointState) -> None:
        try:
            self._measured = measured_from_joint_state(message, self._spec)
            self._received_s = time.monotonic()
        except InvalidValue as error:
            self._node.get_logger().error(f"{self._topic}: {error}; refused", throttle_duration_sec=2.0)
