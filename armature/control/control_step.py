"""The hot path: one tick of control, the same in a rollout without ROS and in `control_node`."""

from __future__ import annotations

from armature.control.chunk_scheduler import ChunkScheduler
from armature.control.residual import Residual
from armature.control.safety_gate import SafetyGate
from armature.types import Command, Sample, Tick


def control_step(
    tick: Tick, measured: Sample | None, scheduler: ChunkScheduler, residual: Residual, gate: SafetyGate
) -> Command:
    """Return the command of a tick: scheduled action, corrected by the residual, passed by the gate.

    `measured` is the newest state of the arm, (D,) in the layout of the action, or None when none is known.
    """
    scheduled = scheduler.action_at(tick.stamp_ns)
    if scheduled is None:
        return gate.check(tick, None, measured, None)
    base, stamp_ns = scheduled.action, scheduled.chunk_stamp_ns
    if measured is None:
        return gate.check(tick, base, None, stamp_ns)
    return gate.check(tick, residual.correct(tick.stamp_ns, base, measured.value), measured, stamp_ns, base)
