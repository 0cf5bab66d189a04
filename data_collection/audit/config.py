"""The limits of an audit, and why they are what they are."""

from __future__ import annotations

from dataclasses import dataclass, fields

from armature.errors import ConfigError


@dataclass(frozen=True)
class AuditConfig:
    """What counts as a finding."""

    gap_s: float = 0.1
    """A stream is silent when no sample came for longer than this ..."""
    gap_periods: float = 2.5
    """... and than this many of its periods: below 25 Hz two lost samples in a row are a gap, a single one is not."""
    rate_tolerance: float = 0.2
    """Relative deviation of the command rate, and by how much an observation may be slower than the spec's rate."""
    jitter: float = 0.5
    """95th percentile of the deviation from the period, in periods."""
    drop_fraction: float = 0.01
    """Part of a stream's samples that the recorder may have dropped."""
    frozen_s: float = 0.3
    """A stream whose content stays equal for this long while the robot moves is frozen; shorter, it repeats itself."""
    repeated_frames: int = 0
    """How many repeated frames per camera and episode are tolerated."""
    moving_fraction: float = 0.1
    """The robot moves when it is faster than this part of its fast speed (95th percentile of the episode)."""
    idle_fraction: float = 0.05
    """It stands still below this part."""
    idle_s: float = 2.0
    """Standing still for this long is noted."""
    stamp_skew_s: float = 0.025
    """How much older than one period a camera's frames may typically be when a command is sent."""
    content_skew_s: float = 0.025
    """How far the motion in the pictures may be from the motion of the joints ..."""
    content_skew_periods: float = 0.5
    """... and in periods of the camera; the larger holds, because a slow camera cannot be placed as exactly."""
    skew_fit_min: float = 0.8
    """The lag counts only where joint motion explains this part of the picture motion's variance ..."""
    skew_prominence_min: float = 1.5
    """... and where lags 60 ms away leave this many times more of it unexplained."""
    jump_ratio: float = 8.0
    """A jump is this many times faster than the motion around it (median of the nine steps about it) ..."""
    jump_outlier: float = 2.5
    """... and this many times faster than the element usually is when fast (95th percentile of the episode) ..."""
    jump_rad_s: float = 3.0
    """... and, for angles, faster than this ..."""
    jump_rad: float = 0.05
    """... by a step above this; ..."""
    jump_fraction: float = 0.2
    """... for other units, by a step above this part of the element's range in the episode."""
    saturated_fraction: float = 0.1
    """Part of the commands that may lie at a bound of the action. An element with at most three values is a switch."""
    motion_stream: str = ""
    """Which vector tells how the robot moves; unset: a usual name such as joint/position or state, else the first."""
    findings_max: int = 20
    """Findings of one kind listed per stream and episode, the largest first."""

    def __post_init__(self) -> None:
        """Refuse limits that make no sense."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise ConfigError(f"{field.name} is {value}, must be finite and not negative")
        if self.findings_max < 1:
            raise ConfigError(f"findings_max is {self.findings_max}, must be at least 1")
