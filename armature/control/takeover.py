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
    """Not looked at unless they are engaged."""


@dataclass(frozen=True)
class Mixed:
    """Who drives at a tick."""

    action: NDArray[np.float64] | None
    """What to ask of the gate (D,); None where neither has anything to say."""
    weight: float
    """Of the person, 0 to 1."""
    stamp_ns: int | None
    """Of what the action answers: the person's stamp while they drive, else the chunk's."""
    person: NDArray[np.float64] | None = None
    """What the person asks for (D,); None where that has no weight."""

    def blend(self, action: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        """Return what becomes of another action (D,) at this tick: the policy's without its correction, say."""
        if self.person is None or action is None:
            return action
        return _faded(action, self.person, self.weight)


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

    @property
    def weight(self) -> float:
        """Return the weight of the person at the last tick, 0 to 1."""
        return self._weight

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
        said = self._driving(tick)
        if said is not None:
            self._last = said.action
        if planned is None:
            # Nobody to fade from, or to: a person drives at once, and what they leave is held.
            self._weight = 1.0 if said is not None else 0.0
        else:
            change = self._step if said is not None else -self._step
            self._weight = min(1.0, max(0.0, self._weight + change))
        if self._weight == 0.0 or self._last is None:
            return Mixed(planned, 0.0, planned_ns)
        action = self._last if planned is None else _faded(planned, self._last, self._weight)
        return Mixed(action, self._weight, planned_ns if said is None else said.stamp_ns, self._last)

    def _driving(self, tick: Tick) -> Driven | None:
        """Return what a person who drives says."""
        said = self._newest
        if said is None or not said.engaged or tick.steady_ns - said.received_ns > self._age_max_ns:
            return None
        return said


def _faded(policy: NDArray[np.float64], person: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    # At full weight whatever the policy says, a number or not, no longer matters.
    return person if weight == 1.0 else policy + weight * (person - policy)
