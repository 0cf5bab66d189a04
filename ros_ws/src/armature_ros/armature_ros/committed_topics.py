"""What the arm executes while the policy computes, as `control_node` tells it with every chunk that it takes."""

from __future__ import annotations

import math

from rclpy.node import Node
from std_msgs.msg import Float64
from trajectory_msgs.msg import JointTrajectory

from armature.errors import InvalidValue
from armature.spec import ActionSpec
from armature.types import ActionChunk, CommittedActions
from armature_ros.conversions import chunk_from_msg
from armature_ros.qos import reliable_qos

REPORT_S = 2.0


class CommittedTopics:
    """Keeps the newest message of `control/committed` and of `control/delay`; any thread may read `newest`."""

    def __init__(self, node: Node, spec: ActionSpec) -> None:
        self._node, self._spec = node, spec
        self._rest: ActionChunk | None = None
        self._delay_ns: int | None = None
        node.create_subscription(JointTrajectory, "control/committed", self._on_committed, reliable_qos())
        node.create_subscription(Float64, "control/delay", self._on_delay, reliable_qos())

    @property
    def newest(self) -> CommittedActions | None:
        """Return what was told last; None before, and after an episode has ended."""
        rest, delay_ns = self._rest, self._delay_ns
        if rest is None or delay_ns is None:
            return None
        return CommittedActions(rest.start_ns, rest.period_ns, rest.actions, delay_ns)

    def reset(self) -> None:
        """Forget the actions of the episode before; the delay is the same in the next."""
        self._rest = None

    def _on_committed(self, message: JointTrajectory) -> None:
        try:
            self._rest = chunk_from_msg(message, self._spec)
        except InvalidValue as error:
            self._refuse("control/committed", str(error))

    def _on_delay(self, message: Float64) -> None:
        if 0 <= message.data < math.inf:
            self._delay_ns = round(message.data * 1e9)
        else:
            self._refuse("control/delay", f"{message.data} s")

    def _refuse(self, topic: str, why: str) -> None:
        self._node.get_logger().error(f"{topic}: {why}; refused", throttle_duration_sec=REPORT_S)
