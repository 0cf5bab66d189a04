"""What others may ask of the control node: arming, stopping, beginning an episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from std_srvs.srv import Trigger

from armature.types import Reason

if TYPE_CHECKING:
    from armature_ros.control_node import ControlNode


class ControlServices:
    """The services of a control node."""

    def __init__(self, node: ControlNode) -> None:
        self._node = node
        for name, handle in (
            ("reset", self._reset),
            ("arm", self._arm),
            ("disarm", self._disarm),
            ("stop", self._stop),
        ):
            node.create_service(Trigger, f"~/{name}", _answering(handle))

    def _reset(self) -> tuple[bool, str]:
        if self._node.config.lockstep and self._node.episode is None:
            return False, "no episode was announced on `episode`"
        if self._node.loop is not None and not self._node.path.is_at_rest:
            self._node.path.disarm()
            return False, "the arm comes to rest first"
        return True, str(self._node.reset())

    def _arm(self) -> tuple[bool, str]:
        node, topic, command_topic = self._node, self._node.config.joint_state_topic, self._node.config.command_topic
        if not node.is_active:
            return False, "control_node is not active: activate it first"
        if not node.joint_state_subscription.get_publisher_count():
            return False, f"nobody publishes {topic}"
        if not node.outputs.has_listener():
            return False, f"nobody listens to {command_topic}"
        if node.outputs.count_writers() != 1:
            return False, f"{node.outputs.count_writers()} nodes publish {command_topic}, must be control_node alone"
        if node.path.is_armed:
            return True, "is armed already"
        if not (node.config.lockstep or node.path.is_at_rest):
            return False, "the arm comes to rest first"
        node.path.arm()
        return True, f"armed from the next message on {topic}, if one comes within a second"

    def _disarm(self) -> tuple[bool, str]:
        self._node.path.disarm()
        return True, "the arm comes to rest and holds"

    def _stop(self) -> tuple[bool, str]:
        self._node.path.latch(Reason.OPERATOR)
        return True, "the arm comes to rest and holds until it is armed anew"


def _answering(
    handle: Callable[[], tuple[bool, str]],
) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
    def answer(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = handle()
        return response

    return answer
