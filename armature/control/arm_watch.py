"""Is the arm where it was commanded to be, and does it still say so? What the safety gate watches the arm by.

Only receive times on the steady clock count as age: a step of the system's clock changes nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.control.limits import WatchLimits
from armature.types import Reason, Sample


def finite_floats(values: NDArray[Any], dim: int) -> list[float] | None:
    """Return numbers (dim,) as a list, or None where they have another shape, are no numbers, or not all finite."""
    if values.shape != (dim,) or values.dtype.kind not in "fiu":
        return None
    numbers = values.tolist() if values.dtype == np.float64 else values.astype(np.float64).tolist()
    return numbers if all(map(math.isfinite, numbers)) else None


class ArmWatch:
    """Judges the newest measured state against the command before. Used by one thread.

    `limited` are the indices of the elements with a velocity limit, `velocity_max` their limits.
    """

    def __init__(self, dim: int, limited: Sequence[int], velocity_max: Sequence[float], limits: WatchLimits) -> None:
        self._dim = dim
        self._limited = tuple(limited)
        self._velocity_max = tuple(velocity_max)
        self._limits = limits
        self.state: list[float] | None = None
        """The newest valid measured state, however old."""
        self._stamp_ns = self._received_ns = 0
        self._overspeeds = 0
        self._changed_ns = 0
        self._command_then: Sequence[float] | None = None
        self._off_track_since_ns: int | None = None

    def is_valid(self, sample: Sample) -> bool:
        """Tell whether a sample is a state of this arm: right size, finite numbers."""
        return finite_floats(sample.value, self._dim) is not None

    def begin(self, sample: Sample) -> None:
        """Forget what was seen before and start from a valid sample."""
        self.state = [float(x) for x in sample.value.tolist()]
        self._stamp_ns, self._received_ns, self._changed_ns = sample.stamp_ns, sample.received_ns, sample.received_ns
        self._overspeeds, self._command_then, self._off_track_since_ns = 0, None, None

    def take(self, sample: Sample | None, command: Sequence[float]) -> None:
        """Take the newest sample; one that is not valid, or was taken before, changes nothing."""
        state = None if sample is None else finite_floats(sample.value, self._dim)
        if sample is None or state is None:
            return
        if self.state is None:
            self.begin(sample)
        elif sample.received_ns > self._received_ns and sample.stamp_ns != self._stamp_ns:
            self._compare(self.state, state, sample, command)

    def is_fresh(self, now_ns: int) -> bool:
        """Tell whether the newest state is young enough to act upon."""
        # A time of receipt far ahead is no better than one long past.
        return abs(now_ns - self._received_ns) / 1e9 <= self._limits.state_hold_s

    def is_away(self, command: Sequence[float]) -> bool:
        """Tell whether the newest state is further from `command` than an arm that follows ever is."""
        return self.state is not None and self._farthest(command, self.state) > self._limits.tracking_latch

    def is_off(self, command: Sequence[float]) -> bool:
        """Tell whether the newest state is further from `command` than an arm under a load hangs."""
        return self.state is not None and self._farthest(command, self.state) > self._limits.tracking_hold

    def judge(self, now_ns: int, command: Sequence[float]) -> Reason | None:
        """Return what is wrong with the arm at `now_ns` [steady clock] after the last `command`, or None."""
        if self.state is None:
            return Reason.STATE_LOST
        if not self.is_fresh(now_ns):
            age_s = abs(now_ns - self._received_ns) / 1e9
            return Reason.STATE_LOST if age_s > self._limits.state_latch_s else Reason.STALE_STATE
        if self._overspeeds >= 2:
            return Reason.OVERSPEED
        return self._frozen(now_ns, command) or self._off_track(now_ns, self._farthest(command, self.state))

    def _compare(self, before: list[float], state: list[float], sample: Sample, command: Sequence[float]) -> None:
        elapsed_s = (sample.stamp_ns - self._stamp_ns) / 1e9
        fast_s, is_fast, has_changed = self._limits.overspeed_factor * elapsed_s, False, False
        for i, speed in zip(self._limited, self._velocity_max, strict=True):
            moved = state[i] - before[i]
            if moved != 0.0:
                has_changed = True
                if not -speed * fast_s <= moved <= speed * fast_s:
                    is_fast = True
        # Where the system's clock was set back meanwhile, there is no telling how fast it was.
        if elapsed_s > 0.0:
            self._overspeeds = self._overspeeds + 1 if is_fast else 0
        if has_changed:
            self._changed_ns, self._command_then = sample.received_ns, tuple(command)
        self.state, self._stamp_ns, self._received_ns = state, sample.stamp_ns, sample.received_ns

    def _frozen(self, now_ns: int, command: Sequence[float]) -> Reason | None:
        if self._command_then is None:
            self._command_then = tuple(command)
        if now_ns - self._changed_ns <= self._limits.frozen_s * 1e9:
            return None
        is_moved = self._farthest(command, self._command_then) > self._limits.frozen_motion
        return Reason.STATE_FROZEN if is_moved else None

    def _off_track(self, now_ns: int, error: float) -> Reason | None:
        if error > self._limits.tracking_latch:
            return Reason.TRACKING_LOST
        if error <= self._limits.tracking_hold:
            self._off_track_since_ns = None
            return None
        if self._off_track_since_ns is None:
            self._off_track_since_ns = now_ns
        is_long = now_ns - self._off_track_since_ns >= self._limits.tracking_hold_s * 1e9
        return Reason.TRACKING_ERROR if is_long else None

    def _farthest(self, one: Sequence[float], other: Sequence[float]) -> float:
        """Return the greatest distance of two states in any limited element."""
        farthest = 0.0
        for i in self._limited:
            distance = one[i] - other[i]
            if distance > farthest:
                farthest = distance
            elif -distance > farthest:
                farthest = -distance
        return farthest
