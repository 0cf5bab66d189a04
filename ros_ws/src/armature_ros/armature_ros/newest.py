"""The newest value of a topic, as long as it is fresh: where the arm is, and what it was last told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from armature.errors import InvalidValue
from armature.spec import ActionSpec
from armature_ros.conversions import action_from_msg, measured_from_joint_state
from armature_ros.qos import newest_stream_qos, reliable_qos
from armature_ros.recorded_topics import ACTION_TOPICS
from data_collection.streams import ACTION_EXECUTED

AGE_MAX_S = 0.5


class Newest:
    """Listens to a topic; what cannot be read is refused and said."""

    def __init__(
        self, node: Node, kind: type, topic: str, qos: QoSProfile, read: Callable[[Any], NDArray[np.float64]]
    ) -> None:
        self._node, self.topic, self._read = node, topic, read
        self._value: NDArray[np.float64] | None = None
        self._received_s = 0.0
        node.create_subscription(kind, topic, self._on_message, qos)

    @property
    def value(self) -> NDArray[np.float64] | None:
        """Return the value (D,), None where it is not known or too old."""
        return self._value if time.monotonic() - self._received_s <= AGE_MAX_S else None

    def forget(self) -> None:
        """Know nothing until the next message comes."""
        self._value = None

    def _on_message(self, message: Any) -> None:
        try:
            self._value = self._read(message)
            self._received_s = time.monotonic()
        except InvalidValue as error:
            self._node.get_logger().error(f"{self.topic}: {error}; refused", throttle_duration_sec=2.0)


def newest_state(node: Node, topic: str, spec: ActionSpec) -> Newest:
    """Return where the arm is, in the layout of its action."""
    qos = newest_stream_qos(lockstep=False)
    return Newest(node, JointState, topic, qos, lambda message: measured_from_joint_state(message, spec))


def newest_command(node: Node, spec: ActionSpec) -> Newest:
    """Return what `control_node` last told the arm."""
    topic = ACTION_TOPICS[ACTION_EXECUTED]
    return Newest(node, JointTrajectory, topic, reliable_qos(), lambda message: action_from_msg(message, spec.labels))
