"""A person takes the arm over from the policy, and gives it back, without a jump."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError
from armature.types import Tick


@dataclass(frozen=True)
class Driven:
    """What a person asks for (D,), whether that is to be done, and when it was said and came."""

    stamp_ns: int
    received_ns: int
    engaged: bool
    action: NDArray[np.float64]


@dataclass(frozen=True)
class Mixed:
    """Who drives at a tick."""

    action: NDArray[np.float64] | None
    """What to ask of the gate (D,); None where neither has anything to say."""
    weight: float
    """Of the person, 0 to 1."""
    stamp_ns: int | None
    """Of what the action answers: the person's stamp while they drive alone, else the chunk's."""


class Takeover:
    """Fades from the policy's action to the person's and back; used by one thread.

    What was said longer than `age_max_s` ago counts as let go: a person whose device has died drives nothing.
    """

    def __init__(self, period_ns: int, handover_s: float = 0.3, age_max_s: float = 0.2) -> None:
        if not handover_s >= 0 or not age_max_s > 0:
            raise ConfigError(f"takeover: handover_s {handover_s} must be 0 or more, age_max_s {age_max_s} above 0")
        self._step = 1.0 if handover_s == 0 else min(1.0, period_ns / 1e9 / handover_s)
        self._age_max_ns = round(age_max_s * 1e9)
        self._newest: Driven | None = None
        self._last: NDArray[np.float64] | None = None
        self._weight = 0.0

    @property
    def is_engaged(self) -> bool:
        """Tell whether the person's action has any weight."""
        return self._weight > 0.0

    def reset(self) -> None:
        """Give the arm back at once: the episode is over."""
        self._newest = self._last = None
        self._weight = 0.0

    def take(self, said: Driven) -> bool:
        """Take what the person says; return False where it is not newer than what they said before."""
        if self._newest is not None and said.stamp_ns <= self._newest.stamp_ns:
            return False
        self._newest = said
        return True

    def mix(self, tick: Tick, planned: NDArray[np.float64] | None, planned_ns: int | None) -> Mixed:
        """Return what to ask for at a tick, given the policy's action (D,), if it has one, and its stamp."""
        said = self._newest
        drives = said is not None and said.engaged and tick.steady_ns - said.received_ns <= self._age_max_ns
        if drives and said is not None:
            self._last = said.action
        self._weight = min(1.0, self._weight + self._step) if drives else max(0.0, self._weight - self._step)
        if self._weight == 0.0 or self._last is None:
            return Mixed(planned, 0.0, planned_ns)
        if planned is None:
            # Nobody to fade from, or to: a person drives at once, and what they leave is held.
            return Mixed(self._last if drives else None, self._weight, said.stamp_ns if drives and said else None)
        action = planned + self._weight * (self._last - planned)
        return Mixed(action, self._weight, said.stamp_ns if drives and said is not None else planned_ns)
