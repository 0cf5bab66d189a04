"""Why the arm does not do what a key asks for: a person at the keyboard sees only that it stands still."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from std_msgs.msg import String

from armature.errors import InvalidValue
from armature.types import GateState, Reason
from armature_ros.announcements import fields_from_msg
from armature_ros.qos import reliable_qos

TOPIC = "control_node/status"
TOLD = (
    Reason.LATCHED,
    Reason.NOT_ARMED,
    Reason.STALE_STATE,
    Reason.TRACKING_ERROR,
    Reason.TCP_BOX,
    Reason.SINGULARITY,
    Reason.POSITION_LIMIT,
)
"""What keeps an arm from moving on, or slows it down until it does, the gravest first; limits of speed are not told."""
STOPPED = (GateState.DISARMED.value, GateState.LATCHED.value)
PERIOD_S = 2.0


class HeldBack:
    """Listens to what `control_node` counts."""

    def __init__(self, node: Node) -> None:
        """`node` is the one that logs it."""
        self._logger = node.get_logger()
        self._counts: dict[str, Any] | None = None
        self._grown: set[str] = set()
        self._state = ""
        node.create_subscription(String, TOPIC, self._on_status, reliable_qos())

    @property
    def reason(self) -> Reason | None:
        """Return what has kept the arm from moving on in the newest tenth of a second."""
        return next((reason for reason in TOLD if reason.name.lower() in self._grown), None)

    @property
    def is_stopped(self) -> bool:
        """Tell whether the arm takes no requests at all: what keys ask for meanwhile must not be made up for later."""
        return self._state in STOPPED

    def tell(self, why: str = "") -> None:
        """Say `why`, or what `control_node` counts, every two seconds at most."""
        why = why or (self.reason.value if self.reason else "")
        if why:
            self._logger.warning(f"held back: {why}", throttle_duration_sec=PERIOD_S)

    def _on_status(self, message: String) -> None:
        try:
            status = fields_from_msg(message, {"state": str, "counts": dict})
        except InvalidValue as error:
            self._logger.error(f"{TOPIC}: {error}; refused", throttle_duration_sec=PERIOD_S)
            return
        self._state, counts = status["state"], status["counts"]
        before = counts if self._counts is None else self._counts
        self._grown = {name for name, count in counts.items() if count != before.get(name, 0)}
        self._counts = counts
