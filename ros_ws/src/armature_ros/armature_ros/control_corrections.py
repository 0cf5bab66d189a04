"""What goes to a residual and what comes of it: base actions out, corrections in, and what was executed of them.

A base action is told once in every period of the actions, not at every tick: corrections are learned for steps of that
length. What the arm was told in the end is told under the stamp of the base action as soon as its correction acts, so
that both mean the same moment of the plan; where none has come until the next base action, what passed without it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from armature.control.chunk_scheduler import ScheduledAction
from armature.control.residual import Corrected, Correction, NewestCorrection
from armature.errors import InvalidValue
from armature.spec import ActionSpec
from armature.types import Command, GateState
from armature_ros.conversions import action_from_msg, action_to_msg, ns_from_time
from armature_ros.diagnostics import StreamMonitor
from armature_ros.qos import latched_qos, reliable_qos

TOPIC = "residual/correction"
HUMAN = "human"
"""Whose a corrected action is in which a person had any weight."""
LATCHED = "latched"
"""Whose it is where the gate latched: neither the policy's nor the residual's."""
AGE_MAX_PERIODS = 1.5
RECORDED_DEPTH = 100


@dataclass(frozen=True)
class BaseAction:
    """What a policy asks for at one time, (D,) in physical units."""

    stamp_ns: int
    value: NDArray[np.float64]
    planned_ns: int
    """Stamp of the observation that the policy has planned it after."""
    policy_id: str


@dataclass
class _Step:
    """One base action that was told."""

    stamp_ns: int
    base: NDArray[np.float64]
    executed: NDArray[np.float64] | None = None
    """What passed, were it at the moment of the base action (D,)."""
    is_driven: bool = False
    """A person had weight in it."""
    is_told: bool = False


class ControlCorrections:
    """The topics between control node and residual, and the correction in force."""

    def __init__(self, node: Node, spec: ActionSpec, tick_ns: int, *, lockstep: bool) -> None:
        """`tick_ns` is the period of the commands."""
        self.residual = NewestCorrection(spec.dim, 0 if lockstep else round(AGE_MAX_PERIODS * spec.period_ns))
        self.policy_id = ""
        """Whose base actions these are."""
        self.monitor = StreamMonitor()
        self._node, self._spec, self._early_ns, self._lockstep = node, spec, tick_ns // 2, lockstep
        self._step: _Step | None = None
        self._base = node.create_publisher(JointTrajectory, "control/base_action", latched_qos())
        self._corrected = node.create_publisher(JointTrajectory, "control/corrected", latched_qos(RECORDED_DEPTH))

    def reset(self) -> None:
        """Forget what was told and what came."""
        self.residual.reset()
        self._step = None

    def ask(self, stamp_ns: int, planned: ScheduledAction) -> None:
        """Tell the base action of a step that begins at `stamp_ns`."""
        self._close()
        self.residual.ask(stamp_ns, planned.chunk_stamp_ns)
        self._step = _Step(stamp_ns, planned.action)
        told = BaseAction(stamp_ns, planned.action, planned.chunk_stamp_ns, self.policy_id)
        self._base.publish(base_action_to_msg(told, self._spec))

    def listen(self, refuse: Callable[[str, InvalidValue], None], on_taken: Callable[[], None]) -> None:
        """Take what comes; `refuse` is told of what is no correction, `on_taken` of one that is."""
        self._refuse, self._on_taken = refuse, on_taken
        self.subscription = self._node.create_subscription(JointTrajectory, TOPIC, self._on_message, reliable_qos())

    def after(self, command: Command, *, is_driving: bool, human: float = 0.0) -> None:
        """Tell what a tick made of the correction, and the next base action where its time has come.

        `human` is the weight of a person in the command.
        """
        corrected = self.residual.last
        if corrected is None or corrected.now_ns != command.stamp_ns:
            return
        if self._lockstep:
            # The base action was told before the tick, and nothing comes after it.
            self._note(corrected, command, human)
            self._close()
        elif not self._is_due(corrected.now_ns):
            self._note(corrected, command, human)
        elif is_driving:
            self.ask(corrected.now_ns, corrected.base)

    def _on_message(self, message: JointTrajectory) -> None:
        stamp_ns = ns_from_time(message.header.stamp)
        self.monitor.on_sample(stamp_ns, time.monotonic_ns())
        try:
            value = action_from_msg(message, self._spec.labels)
            self.residual.offer(Correction(stamp_ns, value, message.header.frame_id))
        except InvalidValue as error:
            self._refuse(TOPIC, error)
            return
        self._on_taken()

    def _is_due(self, now_ns: int) -> bool:
        step = self._step
        return step is None or not 0 <= now_ns - step.stamp_ns < self._spec.period_ns - self._early_ns

    def _note(self, corrected: Corrected, command: Command, human: float) -> None:
        """Note what passes in the step, and tell it once the correction of the step itself acts."""
        step = self._step
        if step is None or step.is_told:
            return
        # The base has moved on since the step began: only what was added to it belongs to the step.
        moved = corrected.base.action - step.base if corrected.now_ns != step.stamp_ns else 0.0
        # What a person asks for has not moved with it.
        step.executed = command.action - (1.0 - human) * moved
        step.is_driven = step.is_driven or human > 0.0
        correction = corrected.correction
        if correction is not None and correction.stamp_ns == step.stamp_ns:
            is_latched = command.state is GateState.LATCHED
            self._publish(step, step.executed, LATCHED if is_latched else correction.source)

    def _close(self) -> None:
        """End the step: what passed without its correction is told now."""
        step = self._step
        if step is not None and not step.is_told and step.executed is not None:
            self._publish(step, step.executed, "")

    def _publish(self, step: _Step, executed: NDArray[np.float64], source: str) -> None:
        step.is_told = True
        self._corrected.publish(self._message(executed, step.stamp_ns, HUMAN if step.is_driven else source))

    def _message(self, action: NDArray[np.float64], stamp_ns: int, frame_id: str) -> JointTrajectory:
        message = action_to_msg(action, self._spec.labels, stamp_ns, self._spec.period_ns)
        message.header.frame_id = frame_id
        return message


def base_action_to_msg(base: BaseAction, spec: ActionSpec) -> JointTrajectory:
    """Return a base action as `control/base_action` carries it: a plan that begins with what the policy has seen.

    Its one point is the action, as long after that as it is due; frame_id is the policy's id.
    """
    message = action_to_msg(base.value, spec.labels, base.planned_ns, base.stamp_ns - base.planned_ns)
    message.header.frame_id = base.policy_id
    return message


def base_action_from_msg(message: JointTrajectory, labels: Sequence[str]) -> BaseAction:
    """Read a base action, inverse of `base_action_to_msg`; raise InvalidValue where it is none, or not finite."""
    value = action_from_msg(message, labels)
    if not np.isfinite(value).all():
        raise InvalidValue(f"base action {value.tolist()} is not finite")
    planned_ns, after = ns_from_time(message.header.stamp), message.points[0].time_from_start
    return BaseAction(planned_ns + ns_from_time(after), value, planned_ns, message.header.frame_id)


def correction_to_msg(correction: Correction, spec: ActionSpec) -> JointTrajectory:
    """Return a correction as `residual/correction` carries it: stamped as the base action, frame_id is its source."""
    message = action_to_msg(correction.value, spec.labels, correction.stamp_ns, spec.period_ns)
    message.header.frame_id = correction.source
    return message
