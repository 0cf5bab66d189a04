"""What goes to a residual and what comes of it: base actions out, corrections in, and what was executed of them.

A base action is told once in every period of the actions, not at every tick: corrections are learned for steps of that
length. What the arm was told in the end is told under the stamp of the base action as soon as its correction acts, so
that both mean the same moment of the plan; where none has come until the next base action, what passed without it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from armature.control.residual import Corrected, Correction, NewestCorrection
from armature.spec import ActionSpec
from armature.types import Command
from armature_ros.conversions import action_from_msg, action_to_msg, ns_from_time
from armature_ros.qos import latched_qos

AGE_MAX_PERIODS = 1.5
RECORDED_DEPTH = 100


@dataclass
class _Step:
    """One base action that was told."""

    stamp_ns: int
    base: NDArray[np.float64]
    executed: NDArray[np.float64] | None = None
    """What passed, were it at the moment of the base action (D,)."""
    is_told: bool = False


class ControlCorrections:
    """The topics between control node and residual, and the correction in force."""

    def __init__(self, node: Node, spec: ActionSpec, tick_ns: int, *, lockstep: bool) -> None:
        """`tick_ns` is the period of the commands."""
        self.residual = NewestCorrection(spec.dim, 0 if lockstep else round(AGE_MAX_PERIODS * spec.period_ns))
        self.policy_id = ""
        """Whose base actions these are."""
        self._spec, self._early_ns, self._lockstep = spec, tick_ns // 2, lockstep
        self._step: _Step | None = None
        self._base = node.create_publisher(JointTrajectory, "control/base_action", latched_qos())
        self._corrected = node.create_publisher(JointTrajectory, "control/corrected", latched_qos(RECORDED_DEPTH))

    def reset(self) -> None:
        """Forget what was told and what came."""
        self.residual.reset()
        self._step = None

    def ask(self, stamp_ns: int, base: NDArray[np.float64]) -> None:
        """Tell the base action of a step that begins at `stamp_ns`."""
        self._close()
        self.residual.ask(stamp_ns)
        self._step = _Step(stamp_ns, base)
        self._base.publish(self._message(base, stamp_ns, self.policy_id))

    def take(self, message: JointTrajectory) -> bool:
        """Take a correction; return False where a newer one has come, raise InvalidValue where it is none."""
        value = action_from_msg(message, self._spec.labels)
        return self.residual.offer(Correction(ns_from_time(message.header.stamp), value, message.header.frame_id))

    def after(self, command: Command, *, is_driving: bool) -> None:
        """Tell what a tick made of the correction, and the next base action where its time has come."""
        corrected = self.residual.last
        if corrected is None or corrected.now_ns != command.stamp_ns:
            return
        if self._lockstep:
            # The base action was told before the tick, and nothing comes after it.
            self._note(corrected, command)
            self._close()
        elif not self._is_due(corrected.now_ns):
            self._note(corrected, command)
        elif is_driving:
            self.ask(corrected.now_ns, corrected.base)

    def _is_due(self, now_ns: int) -> bool:
        step = self._step
        return step is None or not 0 <= now_ns - step.stamp_ns < self._spec.period_ns - self._early_ns

    def _note(self, corrected: Corrected, command: Command) -> None:
        """Note what passes in the step, and tell it once the correction of the step itself acts."""
        step = self._step
        if step is None or step.is_told:
            return
        # The base has moved on since the step began: only what was added to it belongs to the step.
        moved = corrected.base - step.base if corrected.now_ns != step.stamp_ns else 0.0
        step.executed = command.action - moved
        correction = corrected.correction
        if correction is not None and correction.stamp_ns == step.stamp_ns:
            self._publish(step, step.executed, correction.source)

    def _close(self) -> None:
        """End the step: what passed without its correction is told now."""
        step = self._step
        if step is not None and not step.is_told and step.executed is not None:
            self._publish(step, step.executed, "")

    def _publish(self, step: _Step, executed: NDArray[np.float64], source: str) -> None:
        step.is_told = True
        self._corrected.publish(self._message(executed, step.stamp_ns, source))

    def _message(self, action: NDArray[np.float64], stamp_ns: int, frame_id: str) -> JointTrajectory:
        message = action_to_msg(action, self._spec.labels, stamp_ns, self._spec.period_ns)
        message.header.frame_id = frame_id
        return message


def correction_to_msg(correction: Correction, spec: ActionSpec) -> JointTrajectory:
    """Return a correction as `residual/correction` carries it: stamped as the base action, frame_id is its source."""
    message = action_to_msg(correction.value, spec.labels, correction.stamp_ns, spec.period_ns)
    message.header.frame_id = correction.source
    return message
