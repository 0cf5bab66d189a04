"""From where the last command left the arm to what is asked for: the velocities of one tick, for all joints together.

Everything here may be wrong without harm: what it wants still passes the limits of every joint (`limiter`). It decides
how a request is cut down where it must be: by one factor for all joints, so that the direction of motion is kept
(path-consistent slowing succeeds more often than limits that push a policy off its path; PACS, arXiv 2511.06385).
"""

from __future__ import annotations

from collections.abc import Sequence

from armature.control.limiter import JointLimits, stopping_speed

Range = tuple[float, float]
_ROUNDING = 1e-9


def pursue(
    gaps: Sequence[float], target_velocities: Sequence[float], limits: Sequence[JointLimits], period_s: float
) -> list[float]:
    """Return the velocities that close `gaps` to a target moving with `target_velocities`, without passing it.

    A target that moves on steadily is met exactly, with no lag; one that has jumped is approached as fast as braking
    before it allows. What is left of the gap when the target's own motion is taken off is closed by one factor.
    """
    speeds = _together(target_velocities, limits)
    rests: list[float] = []
    factor = 1.0
    for gap, speed, joint in zip(gaps, speeds, limits, strict=True):
        rest = gap - speed * period_s
        rests.append(rest)
        size = abs(rest)
        # What a single tick may make up for needs no braking.
        if size > joint.acceleration_max * period_s * period_s:
            share = stopping_speed(size, joint.acceleration_max, period_s) * period_s / size
            if share < factor:
                factor = share
    return [speed + factor * rest / period_s for speed, rest in zip(speeds, rests, strict=True)]


def _together(velocities: Sequence[float], limits: Sequence[JointLimits]) -> list[float]:
    """Return `velocities`, by one factor no faster than the joints can: cut one by one they would point elsewhere."""
    share = 1.0
    for velocity, joint in zip(velocities, limits, strict=True):
        if not -joint.velocity_max <= share * velocity <= joint.velocity_max:
            share = joint.velocity_max / abs(velocity)
    return [share * velocity for velocity in velocities]


def brake(velocities: Sequence[float], limits: Sequence[JointLimits], period_s: float) -> list[float]:
    """Return the velocities of a stop along the path: slower by one factor, as fast as every joint can brake."""
    factor = 0.0
    for velocity, joint in zip(velocities, limits, strict=True):
        if velocity != 0.0:
            factor = max(factor, 1.0 - joint.acceleration_max * period_s / abs(velocity))
    return [factor * velocity for velocity in velocities]


def fit(velocities: Sequence[float], ranges: Sequence[Range]) -> list[float]:
    """Return `velocities`, scaled by the greatest factor up to 1 that fits all `ranges`; else each cut to its own.

    No factor fits where the path turns more sharply than acceleration allows.
    """
    least, most = 0.0, 1.0
    for velocity, (low, high) in zip(velocities, ranges, strict=True):
        if velocity == 0.0:
            continue
        # A denormal velocity makes these overflow to infinity, which bounds nothing, as is right.
        first, last = (low / velocity, high / velocity) if velocity > 0.0 else (high / velocity, low / velocity)
        if first > least:
            least = first
        if last < most:
            most = last
    # Two bounds that meet in one factor must not miss each other by rounding.
    factor = most if least <= most + _ROUNDING else 1.0
    return [within(factor * velocity, low, high) for velocity, (low, high) in zip(velocities, ranges, strict=True)]


def within(value: float, low: float, high: float) -> float:
    """Return `value`, or the end of the range that it lies beyond; what is no number becomes the low end."""
    if not value >= low:
        return low
    return high if value > high else value
