"""The robot's end of the link to a learner: steps out, acknowledgements and weights in."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

from rclpy.node import Node
from std_msgs.msg import String, UInt8MultiArray

from armature.errors import CheckpointError, InvalidValue
from armature_ros.announcements import fields_from_msg
from armature_ros.qos import latched_qos, reliable_qos
from policies.residual_acting import ResidualActing
from policies.step_link import StepSender

TRANSITIONS, TAKEN, WEIGHTS = "residual/transitions", "residual/taken", "residual/weights"
SEND_PERIOD_S = 0.1
BLOCKS_AT_ONCE = 4
_TOLD = {"log_id": str, "count": int, "asks": bool}


def bytes_to_msg(content: bytes) -> UInt8MultiArray:
    """Return bytes as a message."""
    # Assigning bytes would check every element.
    return UInt8MultiArray(data=array("B", content))


class ResidualLink:
    """Sends what the learner lacks, some blocks at a time, and hands on the weights that it gives out."""

    def __init__(self, node: Node, sender: StepSender, acting: ResidualActing, refuse: Callable[..., object]) -> None:
        """`refuse(topic, error)` is told of what cannot be used."""
        self.sender = sender
        self._acting, self._refuse = acting, refuse
        self._blocks = node.create_publisher(UInt8MultiArray, TRANSITIONS, reliable_qos(BLOCKS_AT_ONCE))
        node.create_subscription(String, TAKEN, self._on_taken, latched_qos(10))
        node.create_subscription(UInt8MultiArray, WEIGHTS, self._on_weights, latched_qos())
        node.create_timer(SEND_PERIOD_S, self._send)

    def _send(self) -> None:
        if not self._blocks.get_subscription_count():
            return
        for _ in range(BLOCKS_AT_ONCE):
            block = self.sender.next_block(time.monotonic())
            if block is None:
                return
            self._blocks.publish(bytes_to_msg(block.to_bytes()))

    def _on_taken(self, message: String) -> None:
        try:
            told = fields_from_msg(message, _TOLD)
            self.sender.acknowledge(told["log_id"], told["count"], time.monotonic(), asks=told["asks"])
        except InvalidValue as error:
            self._refuse(TAKEN, error)

    def _on_weights(self, message: UInt8MultiArray) -> None:
        try:
            self._acting.offer(bytes(message.data))
        except CheckpointError as error:
            self._refuse(WEIGHTS, error)
