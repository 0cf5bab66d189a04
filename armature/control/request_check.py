"""Which request is believed: the present one, for a few ticks the last valid one instead, or none.

Comparisons are written so that NaN fails them: `not (low <= x <= high)` refuses, `x < low or x > high` would pass.
"""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from armature.control.arm_watch import finite_floats
from armature.control.limits import SafetyLimits
from armature.control.pursuit import within
from armature.types import Reason

Target = list[float]
# Clocks of two machines that are kept together differ by less; what is stamped further ahead is a mistake.
_AHEAD_MAX_S = 0.02


class RequestCheck:
    """Refuses requests whole: one bad element may be the sign of a bad frame. Used by one thread."""

    def __init__(self, limits: SafetyLimits, action_period_s: float) -> None:
        self._limits = limits.request
        self._speeds = limits.velocity_max
        excess = [
            limits.request.range_excess_max * (high - low) if math.isinf(speed) else math.inf
            for low, high, speed in zip(limits.position_low, limits.position_high, self._speeds, strict=True)
        ]
        self._reach_first = [speed * limits.request.first_command_s for speed in self._speeds]
        self._reach = [speed * limits.request.jump_s for speed in self._speeds]
        self._lowest = [low - beyond for low, beyond in zip(limits.position_low, excess, strict=True)]
        self._highest = [high + beyond for high, beyond in zip(limits.position_high, excess, strict=True)]
        # What has no velocity limit is bounded by its range: a gripper's opening, or a motion of the tool.
        self._correction_max = [
            limits.request.residual_share * min(speed * action_period_s, (high - low) / 2.0)
            for low, high, speed in zip(limits.position_low, limits.position_high, self._speeds, strict=True)
        ]
        # Joints have their limits to brake before; of these the range is all there is.
        self._range = [
            (low, high) if math.isinf(speed) else (-math.inf, math.inf)
            for low, high, speed in zip(limits.position_low, limits.position_high, self._speeds, strict=True)
        ]
        self.begin()

    def begin(self) -> None:
        """Forget all requests: what comes is the first one after arming."""
        self._valid: Target | None = None
        self._refused = 0
        self._cut_corrections = 0
        self._is_first = True

    def hold(self) -> None:
        """Forget the last valid request: the arm stops for another reason."""
        self._valid = None

    def judge(
        self, requested: NDArray[Any] | None, base: NDArray[Any] | None, chunk_age_s: float, command: Target
    ) -> tuple[Target | None, tuple[Reason, ...]]:
        """Return the target (D,) to follow, or None, and why it is not what was requested.

        `base` is the request without its learned correction, `command` what was sent before.
        """
        if requested is None or not -_AHEAD_MAX_S <= chunk_age_s <= self._limits.chunk_age_max_s:
            self._valid = None
            return None, (Reason.NO_CHUNK if requested is None else Reason.STALE_CHUNK,)
        target, reasons, fault = self._corrected(requested, base, command)
        if fault is not None:
            return self._refuse(fault)
        self._valid, self._refused, self._is_first = target, 0, False
        return target, reasons

    def _corrected(
        self, requested: NDArray[Any], base: NDArray[Any] | None, command: Target
    ) -> tuple[Target, tuple[Reason, ...], Reason | None]:
        """Return the request with its correction cut, whether it was, and what is wrong with either of the two."""
        target = finite_floats(requested, len(command))
        if target is None:
            return [], (), self._unreadable(requested)
        if base is None or base is requested:
            return target, (), self._unbelievable(target, command)
        uncorrected = finite_floats(base, len(command))
        if uncorrected is None:
            return [], (), self._unreadable(base)
        fault = self._unbelievable(uncorrected, command)
        if fault is not None:
            return [], (), fault
        target, reasons = self._bounded(target, uncorrected)
        return target, reasons, self._unbelievable(target, command)

    def _refuse(self, fault: Reason) -> tuple[Target | None, tuple[Reason, ...]]:
        if fault is Reason.JUMP and self._is_first:
            fault = Reason.FIRST_COMMAND
        self._refused += 1
        if self._refused >= self._limits.refusals_max:
            self._valid = None
        return self._valid, (fault,)

    def _unreadable(self, action: NDArray[Any]) -> Reason:
        is_an_action = action.shape == (len(self._speeds),) and action.dtype.kind in "fiu"
        return Reason.NOT_FINITE if is_an_action else Reason.MALFORMED

    def _unbelievable(self, target: Target, command: Target) -> Reason | None:
        """Return what is wrong with the numbers: a jump first, which latches where it is the first request."""
        reaches = self._reach_first if self._is_first else self._reach
        fault = None
        for value, before, reach, lowest, highest in zip(
            target, command, reaches, self._lowest, self._highest, strict=True
        ):
            if not -reach <= value - before <= reach:
                return Reason.JUMP
            if not lowest <= value <= highest:
                fault = Reason.GRIPPER_RANGE
        return fault

    def _bounded(self, target: Target, base: Target) -> tuple[Target, tuple[Reason, ...]]:
        """Return `target` with its distance from `base` cut; `base` itself when that was so too often in a row.

        A correction that leads out of a gripper's range leads to its end, which is no fault: it may well press on.
        """
        if self._cut_corrections >= self._limits.residual_limited_max:
            return base, (Reason.RESIDUAL_LIMIT,)
        cut = [
            within(after, before - most, before + most)
            for after, before, most in zip(target, base, self._correction_max, strict=True)
        ]
        kept = [
            within(after, min(low, before), max(high, before))
            for after, before, (low, high) in zip(cut, base, self._range, strict=True)
        ]
        if cut == target:
            self._cut_corrections = 0
            return kept, ()
        self._cut_corrections += 1
        return kept, (Reason.RESIDUAL_LIMIT,)
