"""The hot path: one tick of control, the same in a rollout without ROS and in `control_node`."""

from __future__ import annotations

from armature.control.chunk_scheduler import ChunkScheduler
from armature.control.residual import Residual
from armature.control.safety_gate import SafetyGate
from armature.types import Command, Sample


def control_step(
    now_ns: int, measured: Sample | None, scheduler: ChunkScheduler, residual: Residual, gate: SafetyGate
) -> Command:
    """Return the command of the tick `now_ns`: scheduled action, corrected by the residual, passed by the gate.

    `measured` is the newest state of the arm, (D,) in the layout of the action, or None when none is known.
    """
    scheduled = scheduler.action_at(now_ns)
    if scheduled is None:
        return gate.check(now_ns, None, measured, None)
    if measured is None:
        return gate.check(now_ns, scheduled.action, None, scheduled.chunk_stamp_ns)
    requested = residual.correct(now_ns, scheduled.action, measured.value)
    return gate.check(now_ns, requested, measured, scheduled.chunk_stamp_ns)
