"""Findings that need the content of streams: still pictures, jumps, commands at their bounds, idle times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from armature.spec import ActionSpec, ArraySpec
from data_collection.audit.config import AuditConfig
from data_collection.audit.findings import Finding
from data_collection.audit.motion import RANGE_MIN, Motion
from data_collection.audit.skew import Lag
from data_collection.audit.timing import Span, Timing
from data_collection.audit.traces import ImageTrace, VectorTrace

TURN_RAD = 2 * np.pi
TURN_TOLERANCE_RAD = 0.1
AROUND = 4
"""A jump is compared with so many steps before and after it."""
COUPLED_FRACTION = 0.8
COUPLED_SAMPLES = 10
LEAP = 2.0
"""A stream leaps after a freeze by this many times a large step (90th percentile)."""
SWITCH_VALUES = 3
POSITION_UNITS = ("rad", "m", "px")
BOUND_TOLERANCE = 1e-6


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """List the runs of True as (first, last), both included."""
    edges = np.diff(np.concatenate(([0], flags.astype(np.int8), [0])))
    return list(zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) - 1).tolist(), strict=True))


def still_frames(
    episode: int, camera: str, trace: ImageTrace, motion: Motion, span: Span, config: AuditConfig
) -> Iterator[Finding]:
    """Find frames with the bytes of their predecessor while the robot moved: frozen when long, else repeated."""
    moving = motion.is_moving(trace.stamps_ns, config.moving_fraction)
    repeated: list[int] = []
    for first, last in runs(trace.repeats):
        if _moving_s(trace.stamps_ns, moving, first, last) >= config.frozen_s:
            yield _frozen(episode, camera, trace.stamps_ns, first, last, span, config)
        else:
            repeated += [k for k in range(first, last + 1) if moving[k]]
    if len(repeated) > config.repeated_frames:
        times = ", ".join(f"{span.at_s(trace.stamps_ns[k]):.2f}" for k in repeated[:8])
        more = ", ..." if len(repeated) > 8 else ""
        message = (
            f"{len(repeated)} of {len(moving)} frames equal the one before while the robot moved, at {times}{more} s"
        )
        at_s = span.at_s(trace.stamps_ns[repeated[0]])
        yield Finding(episode, camera, "repeated", at_s, len(repeated), config.repeated_frames, message)


def frozen_vector(
    episode: int, stream: str, trace: VectorTrace, motion: Motion, must_move: bool, span: Span, config: AuditConfig
) -> Iterator[Finding]:
    """Find where a vector stood still while the robot moved.

    Only a stream that otherwise changes as the robot moves can freeze: a gripper cannot. An object lies still between
    two pushes: unless the stream `must_move` with the robot, only stillness between motion and a leap is worth a note.
    """
    moving = motion.is_moving(trace.stamps_ns, config.moving_fraction)
    repeats = trace.repeats
    stretches = [r for r in runs(repeats) if _moving_s(trace.stamps_ns, moving, *r) >= config.frozen_s]
    if not stretches:
        return
    elsewhere = moving.copy()
    first, last = max(stretches, key=lambda r: r[1] - r[0])
    elsewhere[first : last + 1] = False
    if elsewhere.sum() < COUPLED_SAMPLES or repeats[elsewhere].mean() > 1 - COUPLED_FRACTION:
        return
    for first, last in stretches:
        if must_move or _is_torn_out_of_motion(trace, first, last):
            found = _frozen(episode, stream, trace.stamps_ns, first, last, span, config)
            yield found if must_move else replace(found, kind="still")


def _is_torn_out_of_motion(trace: VectorTrace, first: int, last: int) -> bool:
    """Tell whether the stream moved before it stood still, and leaps over what it missed when it goes on."""
    values = trace.values.astype(np.float64)
    steps = np.linalg.norm(np.diff(values, axis=0) / np.maximum(np.ptp(values, axis=0), RANGE_MIN), axis=1)
    large = np.percentile(steps[steps > 0], 90)
    return last < len(steps) and steps[last] > LEAP * large and steps[: first - 1].max(initial=0) > large / LEAP


def _moving_s(stamps_ns: NDArray[np.int64], moving: NDArray[np.bool_], first: int, last: int) -> float:
    steps_s = np.diff(stamps_ns[first - 1 : last + 1]) / 1e9
    return float(steps_s[moving[first : last + 1]].sum())


def _frozen(
    episode: int, stream: str, stamps_ns: NDArray[np.int64], first: int, last: int, span: Span, config: AuditConfig
) -> Finding:
    begin, end = span.at_s(stamps_ns[first - 1]), span.at_s(stamps_ns[last])
    message = f"{last - first + 2} equal samples from {begin:.2f} to {end:.2f} s while the robot moved"
    return Finding(episode, stream, "frozen", begin, end - begin, config.frozen_s, message)


def content_skew(
    episode: int, camera: str, trace: ImageTrace, lag: Lag | None, config: AuditConfig
) -> Iterator[Finding]:
    """Find a camera whose pictures are shifted in time against the joints."""
    if lag is None or not lag.is_trustworthy(config):
        return
    limit_s = max(config.content_skew_s, config.content_skew_periods * Timing.of(trace.stamps_ns).period_s)
    if abs(lag.lag_s) > limit_s:
        side = "behind" if lag.lag_s > 0 else "ahead of"
        message = (
            f"by the stamps, pictures are {1e3 * abs(lag.lag_s):.0f} ms {side} the joints, limit {1e3 * limit_s:.0f} ms"
            f" (fit {lag.fit:.2f}, prominence {lag.prominence:.1f})"
        )
        yield Finding(episode, camera, "content_skew", None, abs(lag.lag_s), limit_s, message)


def not_finite(episode: int, stream: str, trace: VectorTrace, span: Span) -> Iterator[Finding]:
    """Find NaN and infinity."""
    bad = np.flatnonzero(~np.isfinite(trace.values).all(axis=1))
    if len(bad):
        message = f"{len(bad)} of {len(trace.values)} samples hold NaN or infinity"
        yield Finding(episode, stream, "not_finite", span.at_s(trace.stamps_ns[bad[0]]), len(bad), 0, message)


def jumps(episode: int, array: ArraySpec, trace: VectorTrace, span: Span, config: AuditConfig) -> Iterator[Finding]:
    """Find where an element leapt: much faster than the motion around it, and by a step that matters."""
    values = trace.values.astype(np.float64)
    steps = np.abs(np.diff(values, axis=0))
    speeds = steps / (np.diff(trace.stamps_ns)[:, None] / 1e9)
    if _unit(array) == "rad":
        matters = (steps > config.jump_rad) & (speeds > config.jump_rad_s)
    else:
        spread = np.ptp(values, axis=0)
        # An element that hardly moves next to the others is noise, whose leaps do not matter.
        matters = steps > config.jump_fraction * np.maximum(spread, 0.25 * spread.max())
    for k, element in np.argwhere(matters & (speeds > config.jump_outlier * _fast(speeds))):
        around = np.median(speeds[max(0, k - AROUND) : k + AROUND + 1, element])
        if speeds[k, element] > config.jump_ratio * around:
            yield _jump(episode, array, element, trace, k, float(around), span, config)


def _fast(speeds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 95th percentile of every column's speeds, (D,); samples without any motion do not count.

    Some hands report coarse steps at a low rate: between two of them everything stands still, and no step is a leap.
    """
    columns = [column[column > 0] for column in speeds.T]
    return np.array([np.percentile(column, 95) if len(column) else 0.0 for column in columns])


def _unit(array: ArraySpec) -> str:
    """Return the unit of a vector's leading elements: that of a pose is "m,rad"."""
    return array.unit.split(",")[0]


def _jump(
    episode: int,
    array: ArraySpec,
    element: int,
    trace: VectorTrace,
    k: int,
    around: float,
    span: Span,
    config: AuditConfig,
) -> Finding:
    step = float(trace.values[k + 1, element]) - float(trace.values[k, element])
    gap_s = (trace.stamps_ns[k + 1] - trace.stamps_ns[k]) / 1e9
    name = array.labels[element] if len(array.labels) == trace.values.shape[1] else f"element {element}"
    at_s, limit = span.at_s(trace.stamps_ns[k + 1]), config.jump_ratio * around * gap_s
    if _unit(array) == "rad" and abs(abs(step) - TURN_RAD) < TURN_TOLERANCE_RAD:
        return Finding(episode, array.name, "wrap", at_s, abs(step), limit, f"{name} turns over by {step:+.2f} rad")
    unit = f" {_unit(array)}" if _unit(array) in POSITION_UNITS else ""
    message = f"{name} leaps by {step:+.4g}{unit} in {1e3 * gap_s:.0f} ms; around it {around * gap_s:.2g} is usual"
    kind = "jump" if _unit(array) in POSITION_UNITS else "step"
    return Finding(episode, array.name, kind, at_s, abs(step), limit, message)


def saturated(
    episode: int, stream: str, trace: VectorTrace, action: ActionSpec, config: AuditConfig
) -> Iterator[Finding]:
    """Find elements of the action that lie at a bound for long; those with few values are switches and meant to."""
    low, high = action.low, action.high
    for element in range(action.dim):
        column = trace.values[:, element]
        margin = BOUND_TOLERANCE * (high[element] - low[element]) if np.isfinite(high - low)[element] else 0.0
        at_bound = (column <= low[element] + margin) | (column >= high[element] - margin)
        fraction = float(at_bound.mean()) if len(column) else 0.0
        if fraction > config.saturated_fraction and len(np.unique(column)) > SWITCH_VALUES:
            name = action.labels[element] if len(action.labels) == action.dim else f"element {element}"
            message = f"{name} is at its bound in {100 * fraction:.0f} % of the commands"
            yield Finding(episode, stream, "saturated", None, fraction, config.saturated_fraction, message)


def idle(episode: int, stream: str, motion: Motion, span: Span, config: AuditConfig) -> Iterator[Finding]:
    """Find stretches in which the robot stood still."""
    if len(motion.stamps_ns) < 2:
        return
    grid_ns = motion.grid_ns()
    still = np.ones(max(len(grid_ns) - 1, 1), bool)
    if motion.fast > 0:
        still = motion.speed_between(grid_ns) < config.idle_fraction * motion.fast
    for first, last in runs(still):
        begin_s = span.at_s(grid_ns[first])
        duration_s = (grid_ns[min(last + 1, len(grid_ns) - 1)] - grid_ns[first]) / 1e9
        if duration_s > config.idle_s:
            message = f"the robot stands still for {duration_s:.1f} s"
            yield Finding(episode, stream, "idle", begin_s, float(duration_s), config.idle_s, message)
