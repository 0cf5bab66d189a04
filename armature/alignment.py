"""Alignment of streams by stamps: one pure function, used live and offline, and how far apart what it took lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, InvalidValue, unknown

Mode = Literal["newest", "hold", "drop"]

_NO_LIMIT_NS = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class StreamPolicy:
    """What a tick takes from a stream: the newest sample not after it; `mode` is about one older than `max_age_ns`.

    `newest`: there is no observation then; live the caller is told what is missing, offline it is an error.
    `hold`: it counts, however old it is. `drop`: there is no observation then; offline the tick is left out.
    """

    mode: Mode = "newest"
    max_age_ns: int = 1_000_000_000

    def __post_init__(self) -> None:
        if self.max_age_ns < 0:
            raise ConfigError(f"max_age_ns is {self.max_age_ns}, must be at least 0")

    @property
    def limit_ns(self) -> int:
        """Return the age up to which a sample counts."""
        return _NO_LIMIT_NS if self.mode == "hold" else self.max_age_ns


@dataclass(frozen=True)
class AlignmentConfig:
    """The policy of every stream, as a person writes it down; streams that are not named are `newest`."""

    max_age_s: float = 1.0
    """How old a sample may be at its tick."""
    max_ages_s: dict[str, float] = field(default_factory=dict[str, float])
    """The same for single streams."""
    hold: tuple[str, ...] = ()
    """Streams whose newest sample counts however old it is."""
    drop: tuple[str, ...] = ()
    """Streams whose silence leaves ticks out."""

    def __post_init__(self) -> None:
        for age_s in (self.max_age_s, *self.max_ages_s.values()):
            if not math.isfinite(age_s):
                hint = "name a stream that counts however old it is in `hold`"
                raise ConfigError(f"alignment: a maximum age is {age_s} s, must be finite; {hint}")

    def policies(self, names: tuple[str, ...]) -> dict[str, StreamPolicy]:
        """Return the policy of each of `names`; raise ConfigError where a stream is meant that is not among them."""
        for name in (*self.hold, *self.drop, *self.max_ages_s):
            if name not in names:
                raise ConfigError(unknown("stream of the alignment", name, names))
        both = sorted({*self.hold} & {*self.drop})
        if both:
            raise ConfigError(f"alignment: {both[0]} is named both in hold and in drop")
        return {name: StreamPolicy(self._mode(name), self._max_age_ns(name)) for name in names}

    def _mode(self, name: str) -> Mode:
        return "hold" if name in self.hold else "drop" if name in self.drop else "newest"

    def _max_age_ns(self, name: str) -> int:
        return round(self.max_ages_s.get(name, self.max_age_s) * 1e9)


@dataclass(frozen=True)
class Spread:
    """Mean, 99th percentile and maximum of times [ms]; NaN of none."""

    mean_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, times_ns: NDArray[np.int64]) -> Spread:
        """Summarise times (N,) [ns]."""
        if len(times_ns) == 0:
            return cls(float("nan"), float("nan"), float("nan"))
        times_ms = times_ns / 1e6
        return cls(float(times_ms.mean()), float(np.percentile(times_ms, 99)), float(times_ms.max()))

    def __str__(self) -> str:
        return f"mean {self.mean_ms:.1f}, p99 {self.p99_ms:.1f}, max {self.max_ms:.1f} ms"


@dataclass(frozen=True)
class StreamSkew:
    """How old a stream's samples were at the ticks that were kept."""

    age: Spread
    held: int
    """Ticks that took a sample older than the maximum age, because the stream is `hold`."""
    dropped: int
    """Ticks that this stream's `drop` left out."""


@dataclass(frozen=True)
class SkewReport:
    """How well the streams of one episode fit together in time; `str` of it is for people."""

    ticks: int
    before_first: int
    """Ticks before every stream had a sample; they are left out."""
    dropped: int
    """Later ticks that were left out because a `drop` stream was silent."""
    streams: dict[str, StreamSkew]
    between: Spread
    """Between the oldest and the newest sample that one tick took."""

    def __str__(self) -> str:
        left_out = f"{self.before_first} before the first samples, {self.dropped} dropped"
        lines = [f"{self.ticks} ticks, left out: {left_out}"]
        for name, skew in self.streams.items():
            lines.append(f"{name}: age {skew.age}; {skew.held} ticks held, {skew.dropped} dropped")
        return "\n".join([*lines, f"between the streams: {self.between}"])


@dataclass(frozen=True)
class Alignment:
    """Which ticks were kept (K,), which sample (K,) of every stream each of them takes, and how that fits together."""

    ticks: NDArray[np.int64]
    index: dict[str, NDArray[np.int64]]
    report: SkewReport


def newest_not_after(stamps_ns: NDArray[np.int64], ticks_ns: NDArray[np.int64], max_age_ns: int) -> NDArray[np.int64]:
    """Return for every tick the index of the newest sample not after it, or -1 where there is none young enough.

    `stamps_ns` (N,) ascending, `ticks_ns` (T,); a sample exactly at the tick or exactly `max_age_ns` old counts.
    """
    index = np.searchsorted(stamps_ns, ticks_ns, side="right") - 1
    if len(stamps_ns) == 0:
        return index
    age_ns = ticks_ns - stamps_ns[np.maximum(index, 0)]
    return np.where((index >= 0) & (age_ns <= max_age_ns), index, -1)


def align(
    stamps_ns: Mapping[str, NDArray[np.int64]], ticks_ns: NDArray[np.int64], policies: Mapping[str, StreamPolicy]
) -> Alignment:
    """Align the streams of a recording (stamps ascending, none empty) at ticks (T,), by the policy of each.

    Raises InvalidValue naming stream and time where one that is `newest` has nothing young enough.
    """
    begin_ns = max((int(stamps[0]) for stamps in stamps_ns.values()), default=0)
    first = int(np.searchsorted(ticks_ns, begin_ns)) if stamps_ns else 0
    ticks = np.arange(first, len(ticks_ns))
    found = {n: newest_not_after(s, ticks_ns[ticks], policies[n].limit_ns) for n, s in stamps_ns.items()}
    silent = {name: index < 0 for name, index in found.items()}
    for name, missing in silent.items():
        if policies[name].mode != "drop" and missing.any():
            at_s = (ticks_ns[ticks[np.argmax(missing)]] - ticks_ns[first]) / 1e9
            limit_s = policies[name].max_age_ns / 1e9
            raise InvalidValue(f"{name} is silent for more than {limit_s:g} s at {at_s:.2f} s")
    kept = np.logical_not(np.any([np.zeros(len(ticks), bool), *silent.values()], axis=0))
    index = {name: every[kept] for name, every in found.items()}
    ages_ns = {name: ticks_ns[ticks[kept]] - stamps_ns[name][rows] for name, rows in index.items()}
    streams = {
        name: StreamSkew(Spread.of(age), int((age > policies[name].max_age_ns).sum()), int(silent[name].sum()))
        for name, age in ages_ns.items()
    }
    dropped = len(ticks) - int(kept.sum())
    return Alignment(ticks[kept], index, SkewReport(len(ticks_ns), first, dropped, streams, _between(ages_ns)))


def _between(ages_ns: Mapping[str, NDArray[np.int64]]) -> Spread:
    if not ages_ns:
        return Spread.of(np.empty(0, np.int64))
    ages = np.stack(list(ages_ns.values()))
    return Spread.of(ages.max(axis=0) - ages.min(axis=0))
