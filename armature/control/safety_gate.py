"""The last word before the arm: every command is finite, in range and near the one before it.

Comparisons are written so that NaN fails them: `not (low <= x <= high)` refuses, `x < low or x > high` would pass.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, InvalidValue
from armature.spec import TCP_DELTA, ActionSpec
from armature.types import Command, Reason, Sample


@dataclass(frozen=True)
class SafetyLimits:
    """Limits per element of the action, in its units; infinite velocity and step exempt an element (a gripper)."""

    position_low: tuple[float, ...]
    position_high: tuple[float, ...]
    velocity_max: tuple[float, ...]
    """[unit/s]"""
    step_max: tuple[float, ...]
    """[unit/tick]"""
    max_state_age_s: float


class SafetyGate:
    """Lets a request through, shortened where limits ask for it, or holds the last command.

    Limits are checked against the last command, not against the measured state, which lags behind. Elements of a
    `tcp/delta` are motions already: their last command counts as zero, and holding means zero.
    """

    def __init__(self, spec: ActionSpec, limits: SafetyLimits) -> None:
        check_limits(spec, limits)
        self.counts: Counter[Reason] = Counter()
        self._low = np.array(limits.position_low)
        self._high = np.array(limits.position_high)
        self._velocity_max = np.array(limits.velocity_max)
        self._step_max = np.array(limits.step_max)
        self._is_limited = np.isfinite(self._velocity_max) | np.isfinite(self._step_max)
        self._is_delta = np.zeros(spec.dim, dtype=bool)
        if spec.kind == "tcp_delta":
            self._is_delta[spec.slice_of(TCP_DELTA)] = True
        self._max_state_age_ns = limits.max_state_age_s * 1e9
        self._period_ns = spec.period_ns
        self._reference: NDArray[np.float64] | None = None
        self._reference_ns = 0
        self._is_armed = False

    @property
    def is_armed(self) -> bool:
        """Tell whether requests are let through."""
        return self._is_armed

    def arm(self, now_ns: int, measured: NDArray[Any]) -> None:
        """Let requests through, starting from `measured` (D,); raise InvalidValue unless it is finite."""
        if self._fault(measured) is not None:
            raise InvalidValue(f"cannot arm at {measured}: needs {len(self._low)} finite values")
        # As if it had been commanded one period ago, so that the tick `now_ns` may already move.
        self._remember(now_ns - self._period_ns, measured)
        self._is_armed = True

    def disarm(self) -> None:
        """Refuse every request from now on and follow the measured state."""
        self._is_armed = False

    def check(
        self, now_ns: int, requested: NDArray[Any] | None, measured: Sample | None, chunk_stamp_ns: int | None
    ) -> Command:
        """Return the command for the tick `now_ns`: `requested` (D,) within the limits, or a hold with the reason.

        `measured` (D,) is dated on the clock of `now_ns`; whoever watches the arm on a steady clock passes None when it
        went silent. Raises InvalidValue when unarmed and no state was ever measured: then no command is safe.
        """
        state = self._fresh_state(now_ns, measured)
        if state is not None and not self._is_armed:
            self._remember(now_ns, state)
        if self._reference is None:
            raise InvalidValue("the state of the arm is not known yet: no command is safe")
        refusal = self._refusal(requested, state)
        if refusal is not None or requested is None:
            action, reasons = self._reference, (refusal or Reason.NO_CHUNK,)
        else:
            action, reasons = self._limit(now_ns, requested.astype(np.float64), self._reference)
        self._remember(now_ns, action)
        self.counts.update(reasons)
        return Command(now_ns, action.copy(), requested, reasons, chunk_stamp_ns)

    def _refusal(self, requested: NDArray[Any] | None, state: NDArray[Any] | None) -> Reason | None:
        if not self._is_armed:
            return Reason.NOT_ARMED
        if state is None:
            return Reason.STALE_STATE
        return Reason.NO_CHUNK if requested is None else self._fault(requested)

    def _limit(
        self, now_ns: int, requested: NDArray[np.float64], reference: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], tuple[Reason, ...]]:
        # Outside the range (an arm moved by hand) the present position is the bound: only inward, no jump into range.
        low, high = np.minimum(self._low, reference), np.maximum(self._high, reference)
        target = np.clip(requested, low, high)
        motion = target - reference
        # A late tick must not catch up in one jump, and a repeated one must not move twice; 1 ns avoids 0 / 0.
        elapsed_s = min(max(now_ns - self._reference_ns, 1), self._period_ns) / 1e9
        by_velocity = float((np.abs(motion) / (self._velocity_max * elapsed_s)).max())
        by_step = float((np.abs(motion) / self._step_max).max())
        reasons: list[Reason] = []
        if not (target == requested).all():
            reasons.append(Reason.POSITION_LIMIT)
        if not by_velocity <= 1:
            reasons.append(Reason.VELOCITY_LIMIT)
        if not by_step <= 1:
            reasons.append(Reason.STEP_LIMIT)
        # One factor for all limited elements keeps the direction of the motion; 1 must give the target to the last bit.
        excess = max(by_velocity, by_step)
        if not excess <= 1:
            slowed = np.clip(reference + motion / excess, low, high)
            target = np.where(self._is_limited, slowed, target)
        return target, tuple(reasons)

    def _fresh_state(self, now_ns: int, measured: Sample | None) -> NDArray[Any] | None:
        if measured is None or self._fault(measured.value) is not None:
            return None
        # A stamp far in the future comes from a broken clock and is no better than an old one.
        return measured.value if abs(now_ns - measured.stamp_ns) <= self._max_state_age_ns else None

    def _fault(self, value: NDArray[Any]) -> Reason | None:
        if value.shape != self._low.shape or value.dtype.kind not in "fiu":
            return Reason.MALFORMED
        return None if np.isfinite(value).all() else Reason.NOT_FINITE

    def _remember(self, now_ns: int, action: NDArray[Any]) -> None:
        self._reference = np.where(self._is_delta, 0.0, action)
        self._reference_ns = now_ns


def check_limits(spec: ActionSpec, limits: SafetyLimits) -> None:
    """Raise ConfigError naming the element unless the limits fit the action and lie within its own bounds."""
    for field in ("position_low", "position_high", "velocity_max", "step_max"):
        if len(getattr(limits, field)) != spec.dim:
            raise ConfigError(f"{field} has {len(getattr(limits, field))} values, the action {spec.dim}")
    labels = spec.labels if len(spec.labels) == spec.dim else tuple(f"element {i}" for i in range(spec.dim))
    for i, label in enumerate(labels):
        low, high = limits.position_low[i], limits.position_high[i]
        if not spec.low[i] <= low <= high <= spec.high[i] or not np.isfinite([low, high]).all():
            raise ConfigError(f"{label}: position limits {low}..{high} must lie in {spec.low[i]}..{spec.high[i]}")
        for field, value in (("velocity_max", limits.velocity_max[i]), ("step_max", limits.step_max[i])):
            if not value > 0:
                raise ConfigError(f"{label}: {field} is {value}, must be positive")
    if not limits.max_state_age_s > 0:
        raise ConfigError(f"max_state_age_s is {limits.max_state_age_s}, must be positive")
