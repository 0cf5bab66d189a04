"""The slot for a learned correction of the base action, between the chunk scheduler and the safety gate."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from armature.control.chunk_scheduler import ScheduledAction
from armature.errors import InvalidValue

TOLD_KEPT = 16
"""A correction answers one of so many newest base actions."""


class Residual(Protocol):
    """Corrects one action; what it returns still passes the safety gate."""

    def correct(self, now_ns: int, base: ScheduledAction, measured: NDArray[Any]) -> NDArray[np.float64]:
        """Return the corrected action (D,) for `base`; `measured` (D,) is the state in the action layout."""
        ...


class NoResidual:
    """Leaves the base action as it is."""

    def correct(self, now_ns: int, base: ScheduledAction, measured: NDArray[Any]) -> NDArray[np.float64]:
        """Return the action of `base`."""
        return base.action


@dataclass(frozen=True)
class Correction:
    """What is added to the actions from the base action of `stamp_ns` on, (D,) in physical units, and whose it is."""

    stamp_ns: int
    value: NDArray[np.float64]
    source: str


@dataclass(frozen=True)
class Corrected:
    """What became of the base action of one tick; `correction` is None where it passed alone."""

    now_ns: int
    base: ScheduledAction
    correction: Correction | None


class NewestCorrection:
    """Adds the newest correction that came, for as long as it is young enough; never waits. Any thread may offer."""

    def __init__(self, dim: int, age_max_ns: int) -> None:
        """`age_max_ns` is how old the base action that a correction answers may be; 0: it counts for its tick alone."""
        self.counts: Counter[str] = Counter()
        self.last: Corrected | None = None
        """Of the newest tick that had a base action."""
        self._dim, self._age_max_ns = dim, age_max_ns
        self._newest: Correction | None = None
        self._newest_plan_ns = -1
        self._told: deque[tuple[int, int]] = deque(maxlen=TOLD_KEPT)

    def reset(self) -> None:
        """Forget the correction in force and the base actions before."""
        self.last = self._newest = None
        self._told.clear()

    def ask(self, stamp_ns: int, plan_ns: int) -> None:
        """Take corrections of the base action of `stamp_ns` from now on, of the chunk that answers `plan_ns`."""
        self._told.append((stamp_ns, plan_ns))

    def offer(self, correction: Correction) -> bool:
        """Take a correction; return False, counting it, where a newer one has come.

        Raises InvalidValue where it has another size, is not finite, or answers a base action that was never told.
        """
        if correction.value.shape != (self._dim,):
            raise InvalidValue(f"correction has shape {correction.value.shape}, expected ({self._dim},)")
        if not np.isfinite(correction.value).all():
            faulty = np.flatnonzero(~np.isfinite(correction.value)).tolist()
            raise InvalidValue(f"correction is not finite at elements {faulty}")
        if self._newest is not None and correction.stamp_ns <= self._newest.stamp_ns:
            self.counts["corrections not newer"] += 1
            return False
        plan_ns = dict(self._told).get(correction.stamp_ns)
        if plan_ns is None:
            told = f"the newest is of {self._told[-1][0]} ns" if self._told else "there is none"
            raise InvalidValue(f"correction answers a base action of {correction.stamp_ns} ns, {told}")
        self._newest, self._newest_plan_ns = correction, plan_ns
        return True

    def is_answered(self, stamp_ns: int) -> bool:
        """Tell whether the correction of the base action of `stamp_ns` is there."""
        newest = self._newest
        return newest is not None and newest.stamp_ns == stamp_ns

    def correct(self, now_ns: int, base: ScheduledAction, measured: NDArray[Any]) -> NDArray[np.float64]:
        """Return the action (D,) of `base` with the newest correction added, or alone where that is too old.

        A correction tells how far to go aside from one plan: of the next, which begins where that has led, it is none.
        """
        newest = self._newest
        is_young = newest is not None and 0 <= now_ns - newest.stamp_ns <= self._age_max_ns
        if newest is None or not is_young or self._newest_plan_ns != base.chunk_stamp_ns:
            self.counts["ticks without"] += 1
            self.last = Corrected(now_ns, base, None)
            return base.action
        self.counts["corrections used"] += 1
        self.last = Corrected(now_ns, base, newest)
        return base.action + newest.value
