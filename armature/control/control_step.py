"""The hot path: one tick of control, the same in a rollout without ROS and in `control_node`."""

from __future__ import annotations

from armature.control.chunk_scheduler import ChunkScheduler
from armature.control.residual import Residual
from armature.control.safety_gate import SafetyGate
from armature.control.takeover import Takeover
from armature.types import Command, Sample, Tick


def control_step(
    tick: Tick,
    measured: Sample | None,
    scheduler: ChunkScheduler,
    residual: Residual,
    gate: SafetyGate,
    takeover: Takeover | None = None,
) -> Command:
    """Return the command of a tick: scheduled action, corrected by the residual or taken over, passed by the gate.

    `measured` is the newest state of the arm, (D,) in the layout of the action, or None when none is known.
    """
    scheduled = scheduler.action_at(tick.stamp_ns)
    base, stamp_ns = (None, None) if scheduled is None else (scheduled.action, scheduled.chunk_stamp_ns)
    planned = base
    if scheduled is not None and measured is not None:
        planned = residual.correct(tick.stamp_ns, scheduled, measured.value)
    if takeover is None:
        return gate.check(tick, planned, measured, stamp_ns, base)
    mixed = takeover.mix(tick, planned, stamp_ns)
    # The base is faded alike, so that the gate bounds what is left of the correction, and not the person.
    return gate.check(tick, mixed.action, measured, mixed.stamp_ns, mixed.blend(base))
