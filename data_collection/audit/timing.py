"""Findings that need only stamps: gaps, rates, jitter, and how old camera frames are when commands are sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from armature.alignment import newest_not_after
from data_collection.audit.config import AuditConfig
from data_collection.audit.findings import Finding

MAX_AGE_NS = 1_000_000_000


@dataclass(frozen=True)
class Timing:
    """The stamps of one stream in figures; zeros where there are too few of them."""

    samples: int
    rate_hz: float
    period_s: float
    """Median distance of two stamps."""
    jitter_s: float
    """95th percentile of the deviation from the period."""
    gap_s: float
    """Longest distance of two stamps."""

    @classmethod
    def of(cls, stamps_ns: NDArray[np.int64]) -> Timing:
        """Measure N stamps."""
        steps_s = np.diff(stamps_ns) / 1e9
        if len(steps_s) == 0:
            return cls(len(stamps_ns), 0.0, 0.0, 0.0, 0.0)
        period_s = float(np.median(steps_s))
        jitter_s = float(np.percentile(np.abs(steps_s - period_s), 95))
        return cls(len(stamps_ns), len(steps_s) / float(steps_s.sum()), period_s, jitter_s, float(steps_s.max()))


@dataclass(frozen=True)
class Span:
    """From the first to the last executed command: what every stream has to cover."""

    begin_ns: int
    end_ns: int

    def at_s(self, stamp_ns: int | np.integer) -> float:
        """Return the time of a stamp since the first command."""
        return (int(stamp_ns) - self.begin_ns) / 1e9


def gap_limit_s(timing: Timing, config: AuditConfig) -> float:
    """Return how long a stream of this period may be silent."""
    return max(config.gap_s, config.gap_periods * timing.period_s)


def gaps(episode: int, stream: str, stamps_ns: NDArray[np.int64], span: Span, config: AuditConfig) -> Iterator[Finding]:
    """Find where a stream was silent: between two samples, and before its first and after its last one."""
    limit_s = gap_limit_s(Timing.of(stamps_ns), config)
    inner = np.flatnonzero(np.diff(stamps_ns) > limit_s * 1e9)
    cases = [
        (span.at_s(stamps_ns[k]), (stamps_ns[k + 1] - stamps_ns[k]) / 1e9, "no sample for {:.3f} s") for k in inner
    ]
    cases += [
        (0.0, (stamps_ns[0] - span.begin_ns) / 1e9, "begins {:.3f} s after the first command"),
        (span.at_s(stamps_ns[-1]), (span.end_ns - stamps_ns[-1]) / 1e9, "ends {:.3f} s before the last command"),
    ]
    for at_s, value_s, text in cases:
        if value_s > limit_s:
            message = f"{text.format(value_s)}, limit {limit_s:.3f} s"
            yield Finding(episode, stream, "gap", at_s, float(value_s), limit_s, message)


def rates(
    episode: int, stream: str, timing: Timing, wanted_hz: float, exact: bool, config: AuditConfig
) -> Iterator[Finding]:
    """Compare the rate, by the median period, with the spec's; faster is allowed unless `exact`. Then the jitter."""
    if timing.period_s == 0:
        return
    found_hz = 1 / timing.period_s
    deviation = abs(found_hz / wanted_hz - 1)
    if deviation > config.rate_tolerance and (exact or found_hz < wanted_hz):
        message = f"comes at {found_hz:.1f} Hz, the spec says {wanted_hz:g} Hz"
        yield Finding(episode, stream, "rate", None, deviation, config.rate_tolerance, message)
    jitter = timing.jitter_s / timing.period_s
    if jitter > config.jitter:
        message = f"stamps stray by {1e3 * timing.jitter_s:.1f} ms about a period of {1e3 * timing.period_s:.1f} ms"
        yield Finding(episode, stream, "jitter", None, jitter, config.jitter, message)


def median_age_s(stamps_ns: NDArray[np.int64], ticks_ns: NDArray[np.int64]) -> float:
    """Return how old the newest sample typically is at the ticks; infinite where mostly none is younger than 1 s."""
    index = newest_not_after(stamps_ns, ticks_ns, MAX_AGE_NS)
    age_s = np.where(index < 0, np.inf, (ticks_ns - stamps_ns[np.maximum(index, 0)]) / 1e9)
    # Of an even number the upper one: a mean with an infinity has no meaning.
    return float(np.sort(age_s)[len(age_s) // 2])


def stamp_skew(
    episode: int, camera: str, stamps_ns: NDArray[np.int64], ticks_ns: NDArray[np.int64], config: AuditConfig
) -> Iterator[Finding]:
    """Find a camera whose stamps lie behind those of the commands by more than its period explains."""
    age_s = median_age_s(stamps_ns, ticks_ns)
    limit_s = Timing.of(stamps_ns).period_s + config.stamp_skew_s
    if age_s > limit_s:
        text = f"typically {age_s:.3f} s old" if np.isfinite(age_s) else "none younger than 1 s"
        message = f"frames are {text} when commands are sent, limit {limit_s:.3f} s"
        # JSON has no infinity: beyond the maximum age, that age is what is known.
        yield Finding(episode, camera, "stamp_skew", None, min(age_s, MAX_AGE_NS / 1e9), limit_s, message)
