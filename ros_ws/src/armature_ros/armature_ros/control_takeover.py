"""A person at the robot: what they ask for comes in, who drove at each tick goes out.

A device says both in one message, so that no action can be taken for that of another moment: a JointState with every
element of the action by name, as a leader arm has them, and `engaged` beside them, 1 while the person drives.
Nothing ever waits for one, in lockstep neither: a tick goes on with what was said last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import JointState

from armature.control.control_path import ControlPath
from armature.control.takeover import Driven
from armature.errors import InvalidValue
from armature.spec import ActionSpec
from armature_ros.conversions import joint_state_to_msg, ns_from_time, positions_from_joint_state
from armature_ros.diagnostics import StreamMonitor
from armature_ros.qos import latched_qos, reliable_qos
from armature_ros.recorded_topics import OPTIONAL_TOPICS
from data_collection.streams import TAKEOVER

TOPIC = "takeover"
ENGAGED = "engaged"
RECORDED_DEPTH = 100


def takeover_to_msg(action: NDArray[np.float64], labels: Sequence[str], stamp_ns: int, *, engaged: bool) -> JointState:
    """Return what a device says at `stamp_ns`: an action (D,) named by `labels`, and whether it is to be done."""
    return joint_state_to_msg((*labels, ENGAGED), np.append(action, float(engaged)), stamp_ns)


def takeover_from_msg(message: JointState, labels: Sequence[str]) -> tuple[bool, NDArray[np.float64]]:
    """Return whether a person drives, and what they ask for (D,).

    Raises InvalidValue on names that are missing or named twice, on values that are not finite, and where `engaged` is
    neither 0 nor 1. To let go `engaged` alone is enough: that must never fail for the sake of an action.
    """
    engaged = float(positions_from_joint_state(message, (ENGAGED,))[0])
    if engaged not in (0.0, 1.0):
        raise InvalidValue(f"{ENGAGED} is {engaged}. Valid: 0, 1")
    if engaged == 0.0:
        return False, np.full(len(labels), np.nan)
    action = positions_from_joint_state(message, labels)
    if not np.isfinite(action).all():
        faulty = [label for label, value in zip(labels, action, strict=True) if not np.isfinite(value)]
        raise InvalidValue(f"action is not finite at {', '.join(faulty)}")
    return True, action


class ControlTakeover:
    """The topics between a person's device and the control node."""

    def __init__(
        self,
        node: Node,
        spec: ActionSpec,
        path: ControlPath,
        clock: Callable[[], int] | None,
        ages_ns: tuple[int, int],
        refuse: Callable[[str, InvalidValue], None],
    ) -> None:
        """`clock()` tells the time of the stamps; None: in lockstep the newest joint state's is.

        A message is taken when its stamp is at most `ages_ns` behind and ahead of that; `refuse` is told of the others.
        """
        self.monitor = StreamMonitor()
        self._spec, self._path, self._clock, self._refuse = spec, path, clock, refuse
        self._behind_ns, self._ahead_ns = ages_ns
        self._flag = node.create_publisher(JointState, OPTIONAL_TOPICS[TAKEOVER], latched_qos(RECORDED_DEPTH))
        self.subscription = node.create_subscription(JointState, TOPIC, self._on_message, reliable_qos())

    def tell(self, stamp_ns: int) -> None:
        """Tell whether a person drives at the tick of `stamp_ns`."""
        engaged = np.array([self._path.human > 0.0])
        self._flag.publish(joint_state_to_msg((ENGAGED,), engaged, stamp_ns))

    def _on_message(self, message: JointState) -> None:
        received_ns, stamp_ns = time.monotonic_ns(), ns_from_time(message.header.stamp)
        self.monitor.on_sample(stamp_ns, received_ns)
        try:
            engaged, action = takeover_from_msg(message, self._spec.labels)
            self._require_time(stamp_ns)
        except InvalidValue as error:
            self._refuse(TOPIC, error)
            return
        self._path.take_person(Driven(stamp_ns, stamp_ns if self._clock is None else received_ns, engaged, action))

    def _require_time(self, stamp_ns: int) -> None:
        now_ns = self._now_ns()
        if now_ns is None:
            raise InvalidValue("no joint state has told the time yet")
        if not -self._ahead_ns <= now_ns - stamp_ns <= self._behind_ns:
            limits = f"at most {self._behind_ns / 1e9:g} s behind and {self._ahead_ns / 1e9:g} s ahead are taken"
            raise InvalidValue(f"stamp is {(now_ns - stamp_ns) / 1e9:g} s behind the clock, {limits}")

    def _now_ns(self) -> int | None:
        if self._clock is not None:
            return self._clock()
        measured = self._path.measured
        return None if measured is None else measured.stamp_ns
