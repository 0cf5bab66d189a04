"""The limits of the safety gate: what they are, where they come from, and that they make sense.

One file per robot, `armature/robots/<robot>.yaml`, says what the maker allows, with its source; a profile in it says
how much of that is used. Nothing has a default that would switch a limit off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armature.config import from_plain
from armature.errors import ConfigError, unknown
from armature.spec import JOINT_POSITION, TCP_DELTA, ActionSpec

ROBOTS = Path(__file__).resolve().parents[1] / "robots"


@dataclass(frozen=True)
class WatchLimits:
    """When the arm itself is not to be trusted any more. Times in seconds on the steady clock."""

    state_hold_s: float
    """Age of the measured state at which the arm stops, until a new one comes."""
    state_latch_s: float
    """Age of the measured state at which it is a fault."""
    tracking_hold: float
    """Distance between command and measured state, of any limited element, that stops the arm after
    `tracking_hold_s`."""
    tracking_hold_s: float
    tracking_latch: float
    """The same distance, at once a fault."""
    frozen_motion: float
    """A measured state that has not changed while the command moved so far, and for `frozen_s`, is a fault."""
    frozen_s: float
    overspeed_factor: float
    """Two measured speeds in a row that are so many times the velocity limit are a fault."""


@dataclass(frozen=True)
class RequestLimits:
    """When a request is not to be believed."""

    jump_s: float
    """Refuse requests further from the last command than the velocity limit reaches in this time."""
    first_command_s: float
    """The same for the first request after arming, which is a fault: wrong unit, wrong robot, wrong posture."""
    chunk_age_max_s: float
    """Age of the observation that a chunk answers, beyond which its actions are not executed."""
    refusals_max: int
    """So many refused requests in a row stop the arm; before, the last valid request stays in force."""
    range_excess_max: float
    """Refuse an element without velocity limit (a gripper) beyond its range by more than this share of it."""
    residual_share: float
    """A correction may lead off the base action by so many times what the velocity limit allows in one action's time,
    where there is none by so many times half the range."""
    residual_limited_max: int
    """So many corrections in a row that were cut leave the base action alone, until the next arming."""


@dataclass(frozen=True)
class SafetyLimits:
    """Limits per element of the action, in its units and seconds.

    Infinite velocity and acceleration, always both, exempt an element: only its range is kept. Joints cannot be.
    """

    position_low: tuple[float, ...]
    position_high: tuple[float, ...]
    velocity_max: tuple[float, ...]
    acceleration_max: tuple[float, ...]
    watch: WatchLimits
    request: RequestLimits


@dataclass(frozen=True)
class GripperRange:
    """The opening of a gripper."""

    label: str
    low_m: float
    high_m: float


@dataclass(frozen=True)
class Profile:
    """How much of what the maker allows is used."""

    velocity_share: float
    acceleration_share: float
    tcp_speed_max_m_s: float
    tcp_turn_max_rad_s: float


@dataclass(frozen=True)
class RobotLimits:
    """The content of a robot's file."""

    robot: str
    version: int
    joints: tuple[str, ...]
    position_low_rad: tuple[float, ...]
    position_high_rad: tuple[float, ...]
    velocity_max_rad_s: tuple[float, ...]
    acceleration_max_rad_s2: tuple[float, ...]
    gripper: GripperRange | None
    position_margin_rad: float
    watch: WatchLimits
    request: RequestLimits
    profiles: dict[str, Profile]

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> RobotLimits:
        """Build from a parsed file; raise ConfigError on unknown or missing keys and on numbers that make no sense."""
        limits = from_plain(cls, data)
        for name in ("position_low_rad", "position_high_rad", "velocity_max_rad_s", "acceleration_max_rad_s2"):
            if len(getattr(limits, name)) != len(limits.joints):
                raise ConfigError(f"{limits.robot}: {name} has {len(getattr(limits, name))} values, "
                                  f"there are {len(limits.joints)} joints")  # fmt: skip
        for name, profile in limits.profiles.items():
            for field, share in (("velocity_share", profile.velocity_share),
                                 ("acceleration_share", profile.acceleration_share)):  # fmt: skip
                if not 0 < share <= 1:
                    raise ConfigError(f"{limits.robot}, profile {name}: {field} is {share}, must be in (0, 1]")
        return limits

    def safety(self, profile: str) -> SafetyLimits:
        """Return the limits of a profile for joint positions and, where there is one, the gripper's opening."""
        if profile not in self.profiles:
            raise ConfigError(unknown(f"profile of {self.robot}", profile, self.profiles))
        used, margin = self.profiles[profile], self.position_margin_rad
        grips = () if self.gripper is None else (self.gripper,)
        free = (math.inf,) * len(grips)
        return SafetyLimits(
            (*(x + margin for x in self.position_low_rad), *(g.low_m for g in grips)),
            (*(x - margin for x in self.position_high_rad), *(g.high_m for g in grips)),
            (*(x * used.velocity_share for x in self.velocity_max_rad_s), *free),
            (*(x * used.acceleration_share for x in self.acceleration_max_rad_s2), *free),
            self.watch,
            self.request,
        )


def check_limits(spec: ActionSpec, limits: SafetyLimits) -> None:
    """Raise ConfigError naming the element unless the limits fit the action and lie within its own bounds."""
    for field in ("position_low", "position_high", "velocity_max", "acceleration_max"):
        if len(getattr(limits, field)) != spec.dim:
            raise ConfigError(f"{field} has {len(getattr(limits, field))} values, the action {spec.dim}")
    labels = spec.labels if len(spec.labels) == spec.dim else tuple(f"element {i}" for i in range(spec.dim))
    for i, label in enumerate(labels):
        low, high = limits.position_low[i], limits.position_high[i]
        if not spec.low[i] <= low <= high <= spec.high[i] or not (math.isfinite(low) and math.isfinite(high)):
            raise ConfigError(f"{label}: position limits {low}..{high} must lie in {spec.low[i]}..{spec.high[i]}")
        _check_motion(spec, i, label, limits.velocity_max[i], limits.acceleration_max[i])
    for part in (limits.watch, limits.request):
        for field, value in vars(part).items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{field} is {value}, must be positive and finite")


def _check_motion(spec: ActionSpec, index: int, label: str, velocity_max: float, acceleration_max: float) -> None:
    for field, value in (("velocity_max", velocity_max), ("acceleration_max", acceleration_max)):
        if not value > 0:
            raise ConfigError(f"{label}: {field} is {value}, must be positive")
    if math.isinf(velocity_max) != math.isinf(acceleration_max):
        raise ConfigError(f"{label}: velocity_max {velocity_max} and acceleration_max {acceleration_max}: "
                          "both are limits, or both infinite")  # fmt: skip
    if math.isinf(velocity_max) and spec.kind == "joint_position" and _is_in(spec.slice_of(JOINT_POSITION), index):
        raise ConfigError(f"{label}: a joint needs finite velocity_max and acceleration_max")
    if math.isfinite(velocity_max) and spec.kind == "tcp_delta" and _is_in(spec.slice_of(TCP_DELTA), index):
        raise ConfigError(f"{label}: is a motion itself, its range is its limit; velocity_max must be infinite")


def _is_in(part: slice, index: int) -> bool:
    return part.start <= index < part.stop
