"""The faults that are injected into a running graph: what is done, how it is named, and from when on it is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from fault_lab import LIMITS, SPEC, FaultLab, Status
from numpy.typing import NDArray

from armature_ros.heartbeat import LEASE_S

JOINTS = np.isfinite(LIMITS.velocity_max)


def nothing() -> None:
    """Undo what needs no undoing."""


@dataclass(frozen=True)
class Injected:
    """A fault that has begun."""

    is_named: Callable[[Status], bool]
    """Whether a status of the control node names it."""
    undo: Callable[[], None] = nothing
    begins_s: Callable[[], float] | None = None
    """When that became a fault by its definition [s, steady clock], where it is one only after a while."""
    counted: dict[str, int] = field(default_factory=dict[str, int])
    """By how much which counters have to have risen in the end."""


Inject = Callable[[FaultLab], Injected]


def risen(lab: FaultLab, counter: str) -> Callable[[Status], bool]:
    """Return what tells whether a counter has risen since now."""
    before = lab.counts()[counter]
    return lambda status: status["counts"].get(counter, 0) > before


def latched(fault: str) -> Callable[[Status], bool]:
    """Return what tells whether a status says that the arm was stopped for a fault."""
    return lambda status: status["fault"] == fault


def bad_chunk(counter: str, **wrong: object) -> Inject:
    """Publish one chunk with something wrong."""

    def inject(lab: FaultLab) -> Injected:
        is_named = risen(lab, counter)
        lab.say_chunk(**wrong)  # type: ignore[arg-type]
        return Injected(is_named, counted={counter: 1})

    return inject


def stale_chunk(lab: FaultLab) -> Injected:
    """Stop the policy until its last chunk is old; then publish one that answers an observation of that time."""
    go_on = lab.stop("policy_node")
    time.sleep(LIMITS.request.chunk_age_max_s + 0.4)
    is_named, begin_s = risen(lab, "stale_chunk"), time.monotonic()
    lab.say_chunk(age_s=LIMITS.request.chunk_age_max_s + 0.2, steps=60)
    return Injected(is_named, go_on, lambda: begin_s)


def bad_state(value: float | None = None, ahead_s: float = 0.0) -> Inject:
    """Publish three states of the arm with something wrong: of two that come at once the control node takes one."""

    def inject(lab: FaultLab) -> Injected:
        is_named = risen(lab, "refused: joint_states")
        position = lab.commands[-1][2].copy()
        position[3] = position[3] if value is None else value
        for _ in range(3):
            lab.say_state(position, ahead_s)
            time.sleep(0.004)
        return Injected(is_named)

    return inject


def states_stop(is_latch: bool) -> Inject:
    """Stop the arm's process."""
    hold_s = LIMITS.watch.state_latch_s if is_latch else LIMITS.watch.state_hold_s

    def inject(lab: FaultLab) -> Injected:
        is_named = latched("state_lost") if is_latch else risen(lab, "stale_state")
        go_on = lab.stop("mock_arm_node")
        return Injected(is_named, go_on, lambda: lab.last_state_s + hold_s)

    return inject


def states_freeze(lab: FaultLab) -> Injected:
    """Go on with newer stamps and the same positions, while the commands move away."""
    begin_s, place = time.monotonic(), lab.commands[-1][2].copy()
    undo = lab.replace_arm(lambda _: place, drift_rad=0.3 * lab.inward)

    def begins_s() -> float:
        away = [at_s for at_s, _, q in list(lab.commands) if _farthest(q - place) > LIMITS.watch.frozen_motion]
        return max(min((at_s for at_s in away if at_s > begin_s), default=begin_s), begin_s + LIMITS.watch.frozen_s)

    return Injected(latched("state_frozen"), undo, begins_s)


def arm_is_off(offset_rad: float, name: str) -> Inject:
    """Go on with states that lie beside the commands."""
    hold_s = LIMITS.watch.tracking_hold_s if name == "tracking_error" else 0.0

    def inject(lab: FaultLab) -> Injected:
        is_named, begin_s = (risen(lab, name) if hold_s else latched(name)), time.monotonic()
        offset = _of_first_joint(offset_rad * lab.inward)
        undo = lab.replace_arm(lambda _: lab.commands[-1][2] + offset)
        return Injected(is_named, undo, (lambda: begin_s + hold_s) if hold_s else None)

    return inject


def arm_runs(lab: FaultLab) -> Injected:
    """Go on with states that move at 3 rad/s, more than the arm may, as long as that is near the command."""
    way = _of_first_joint(lab.inward)
    undo = lab.replace_arm(lambda elapsed_s: lab.commands[-1][2] + min(3.0 * elapsed_s, 0.09) * way)
    return Injected(latched("overspeed"), undo)


def second_writer(lab: FaultLab) -> Injected:
    """Become another writer to the arm."""
    undo, heard_s = lab.write_too()
    return Injected(latched("second_writer"), undo, lambda: heard_s)


def policy_hangs(lab: FaultLab) -> Injected:
    """Stop the policy: its heartbeat ends."""
    go_on = lab.stop("policy_node")
    return Injected(
        lambda status: "policy_node is silent" in status["faults"], go_on, lambda: lab.last_beat_s + LEASE_S
    )


def plan_ends(lab: FaultLab) -> Injected:
    """Stop the policy: its last chunk ends."""
    is_named = risen(lab, "no_chunk")
    return Injected(is_named, lab.stop("policy_node"), lab.chunk_ends_s)


FAULTS: dict[str, Inject] = {
    "chunk with NaN": bad_chunk("refused: chunk", bad=float("nan")),
    "chunk without the gripper": bad_chunk("refused: chunk", labels=SPEC.labels[:-1]),
    "chunk from the future": bad_chunk("chunk dropped: from the future", age_s=-1.0),
    "chunk out of order": bad_chunk("chunk dropped: out of order", age_s=1.0),
    "chunk that answers an old observation": stale_chunk,
    "joint states with NaN": bad_state(value=float("nan")),
    "joint states from the future": bad_state(ahead_s=1.0),
    "joint states stop: HOLD": states_stop(is_latch=False),
    "joint states stop: LATCH": states_stop(is_latch=True),
    "joint states freeze": states_freeze,
    "arm beside its command": arm_is_off(0.15, "tracking_error"),
    "arm far from its command": arm_is_off(0.25, "tracking_lost"),
    "arm faster than it may be": arm_runs,
    "second writer": second_writer,
    "policy hangs: heartbeat": policy_hangs,
    "policy hangs: chunk ends": plan_ends,
}


def _of_first_joint(offset_rad: float) -> NDArray[np.float64]:
    return np.eye(len(LIMITS.velocity_max))[0] * offset_rad


def _farthest(difference: NDArray[np.float64]) -> float:
    return float(np.abs(difference[JOINTS]).max())
