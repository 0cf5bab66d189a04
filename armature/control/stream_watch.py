"""What can be wrong with a live stream: stamps that lie, samples too far apart, values that never change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError

PIXEL_STRIDE = 8
"""Every so many rows and columns of an image are compared: the noise of a live sensor is in all of them."""


class Refusal(Enum):
    """Why a sample was not taken."""

    ZERO_STAMP = "its stamp is zero"
    FUTURE_STAMP = "its stamp is ahead of the clock"
    BEFORE_EPISODE = "its stamp is before the episode"
    BACKWARDS = "its stamp is older than the one before"
    REPEATED = "its stamp is that of the one before"


class Lack(Enum):
    """Why a stream kept an observation from being made."""

    SILENT = "no sample yet"
    STALE = "newest sample is too old"
    GAP = "gap in its history"
    SKEW = "too far from the other streams"
    FROZEN = "values do not change"


@dataclass(frozen=True)
class LiveChecks:
    """What samples have to satisfy where time passes by itself. Nothing has a default: none is off unless so stated.

    Raises ConfigError on a time that is negative, and on a stream that would count as frozen at once.
    """

    now_ns: Callable[[], int]
    """The clock that stamps are on [ns]; it may be stepped."""
    future_max_ns: int
    """How far a stamp may be ahead of that clock: those of two machines differ a little."""
    skew_max_ns: int
    """How far apart the samples may lie that one step of an observation takes; `hold` streams do not count."""
    frozen_after_ns: Mapping[str, int]
    """After what time without a change a stream counts as frozen; those not named may stand still."""

    def __post_init__(self) -> None:
        for name, value in {"future_max_ns": self.future_max_ns, "skew_max_ns": self.skew_max_ns}.items():
            if value < 0:
                raise ConfigError(f"{name} is {value}, must be at least 0")
        for stream, limit_ns in self.frozen_after_ns.items():
            if limit_ns <= 0:
                raise ConfigError(f"frozen_after_ns of {stream} is {limit_ns}, must be above 0")

    def stamp_refusal(self, stamp_ns: int) -> Refusal | None:
        """Say what is wrong with a stamp by itself; age is judged when an observation is made."""
        if stamp_ns <= 0:
            return Refusal.ZERO_STAMP
        return Refusal.FUTURE_STAMP if stamp_ns > self.now_ns() + self.future_max_ns else None


@dataclass(frozen=True)
class Obstacle:
    """A stream that kept an observation from being made, why, and the figures in words for a person."""

    stream: str
    lack: Lack
    figures: str

    def __str__(self) -> str:
        return f"{self.stream}: {self.figures}"


class FrozenWatch:
    """Measures for how long a stream has repeated its value while its stamps advanced."""

    def __init__(self, limit_ns: int) -> None:
        self.limit_ns = limit_ns
        self.clear()

    @property
    def unchanged_ns(self) -> int:
        """Return the time between the first and the newest sample of the present value [ns]."""
        return self._newest_ns - self._since_ns

    @property
    def is_frozen(self) -> bool:
        """Tell whether that is more than the limit."""
        return self.unchanged_ns > self.limit_ns

    def see(self, stamp_ns: int, value: NDArray[Any]) -> None:
        """Compare with the sample before: vectors exactly, images by a grid of their pixels."""
        seen = value[::PIXEL_STRIDE, ::PIXEL_STRIDE] if value.ndim == 3 else value
        if self._seen is None or not np.array_equal(seen, self._seen):
            self._seen, self._since_ns = seen.copy(), stamp_ns
        self._newest_ns = stamp_ns

    def clear(self) -> None:
        """Forget all samples."""
        self._seen: NDArray[Any] | None = None
        self._since_ns = self._newest_ns = 0


def find_skew(stamps_ns: Mapping[str, NDArray[np.int64]], ticks_ns: NDArray[np.int64], max_ns: int) -> Obstacle | None:
    """Name the oldest stream of the first tick (T,) whose samples, by stream (T,), lie more than `max_ns` apart.

    A sample later than its tick stands for a time before the first one and counts as of the tick.
    """
    if len(stamps_ns) < 2:
        return None
    names = list(stamps_ns)
    ages_ns = np.maximum(ticks_ns - np.stack([stamps_ns[name] for name in names]), 0)
    apart_ns = ages_ns.max(axis=0) - ages_ns.min(axis=0)
    tick = int(np.argmax(apart_ns > max_ns))
    if apart_ns[tick] <= max_ns:
        return None
    oldest, newest = names[int(ages_ns[:, tick].argmax())], names[int(ages_ns[:, tick].argmin())]
    figures = f"{apart_ns[tick] / 1e9:.3f} s older than {newest} (limit {max_ns / 1e9:.3f} s)"
    return Obstacle(oldest, Lack.SKEW, figures)
