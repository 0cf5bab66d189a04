"""How fast one joint may move in the next tick, so that it stays in its range, its speed and its acceleration.

A joint moves with constant velocity v during a tick of length T, and its velocity changes by at most a T from tick to
tick. It may move towards the end of its range only as fast as it can still stop before it. Braking by a T a tick, v in
the first tick and v - a T, v - 2 a T, ... in those after cover at most (v + a T / 2)^2 / (2 a).

Three things hold whatever is chosen within `velocity_range`, and are proved over the reals, for all limits at once, in
`tests/control/test_limiter_proof.py`: the position stays in the range (from outside it only moves inward), the range of
velocities is never empty afterwards, and slowing down by as much as acceleration allows is always within it.

Written with plain comparisons: `min` and `max` of Python cost eight times as much, and this runs for every joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class JointLimits(NamedTuple):
    """Limits of one joint, in its unit (rad or m) and seconds."""

    low: float
    high: float
    velocity_max: float
    acceleration_max: float


def stopping_speed(gap: float, acceleration: float, period_s: float) -> float:
    """Return the greatest speed towards a point `gap` >= 0 away at which one can stop without passing it."""
    braking = (2.0 * acceleration * gap) ** 0.5 - acceleration * period_s / 2.0
    # So near, or so slow, that a single tick is enough to stop.
    within_a_tick = gap / period_s
    if within_a_tick > acceleration * period_s:
        within_a_tick = acceleration * period_s
    return braking if braking > within_a_tick else within_a_tick


def velocity_range(position: float, velocity: float, limits: JointLimits, period_s: float) -> tuple[float, float]:
    """Return the lowest and the highest velocity that the next tick may have, after one with `velocity`."""
    low, high, velocity_max, acceleration = limits
    change = acceleration * period_s
    lowest, highest = velocity - change, velocity + change
    if lowest < -velocity_max:
        lowest = -velocity_max
    if highest > velocity_max:
        highest = velocity_max
    # An arm that was moved out of its range by hand may only come back: outside there is no gap left.
    above = high - position if position < high else 0.0
    below = position - low if position > low else 0.0
    # Far from the ends, the square root of `stopping_speed` is not needed to see that one may go on.
    if (highest + change / 2.0) * (highest + change / 2.0) > 2.0 * acceleration * above:
        fastest = stopping_speed(above, acceleration, period_s)
        if highest > fastest:
            highest = fastest
    if (change / 2.0 - lowest) * (change / 2.0 - lowest) > 2.0 * acceleration * below:
        fastest = stopping_speed(below, acceleration, period_s)
        if lowest < -fastest:
            lowest = -fastest
    return lowest, highest


def reach(
    gaps: Sequence[float],
    paces: Sequence[float],
    positions: Sequence[float],
    velocities: Sequence[float],
    limits: Sequence[JointLimits],
    period_s: float,
) -> list[float] | None:
    """Return the velocities that close `gaps` in the next tick, or None where something is in the way of a joint.

    They lie in the `velocity_range` of every joint, after a tick with `velocities`. A joint whose target moves with
    `paces` is no more than one tick of braking off it afterwards. Saves the usual case most of the work.
    """
    wanted: list[float] = []
    for gap, pace, position, velocity, (low, high, fastest, acceleration) in zip(
        gaps, paces, positions, velocities, limits, strict=True
    ):
        needed, change = gap / period_s, acceleration * period_s
        half = change / 2.0
        if not (
            -fastest <= pace <= fastest
            and -fastest <= needed <= fastest
            and -change <= needed - pace <= change
            and -change <= needed - velocity <= change
            # Never too fast to stop before either end of the range: see `stopping_speed`, without its root.
            and (needed + half) * (needed + half) <= 2.0 * acceleration * (high - position)
            and (needed - half) * (needed - half) <= 2.0 * acceleration * (position - low)
        ):
            return None
        wanted.append(needed)
    return wanted
