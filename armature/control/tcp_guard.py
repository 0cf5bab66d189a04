"""Slows the joints so that the tool stays slow, in its box, and away from postures where it cannot be steered.

One factor for all joints: the tool is slowed along its path, never pushed off it. What the box says holds for the
motion that the guard lets through; joints that are too weak to brake at `wall_deceleration_m_s2` pass the wall.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from armature.control.kinematics import Kinematics
from armature.errors import ConfigError, InvalidValue
from armature.types import Reason

_LEAST_SINGULAR_VALUE = 1e-12
# A motion along a wall is none towards it: less than this is rounding.
_ROUNDING_M = 1e-12


@dataclass(frozen=True)
class TcpLimits:
    """Limits of the tool, in the frame of the arm's base; none has a default, since none is right for every task."""

    box_low_m: tuple[float, float, float]
    box_high_m: tuple[float, float, float]
    speed_max_m_s: float
    turn_max_rad_s: float
    wall_deceleration_m_s2: float
    """How hard the tool may have to brake before a wall: what the joints can do within their own limits, wherever the
    arm is. Seen to hold for the Franka FER: 0.25 with its profile `learn`, 0.5 with `run`."""
    condition_slow: float
    """Condition number of the Jacobian (m and rad, as MoveIt Servo counts it: 17) from which on the arm slows down."""
    condition_stop: float
    """Condition number at which it stops (MoveIt Servo: 30)."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field whose value makes no sense."""
        for axis, low, high in zip("xyz", self.box_low_m, self.box_high_m, strict=True):
            if not -math.inf < low < high < math.inf:
                raise ConfigError(f"box_low_m {low} and box_high_m {high} in {axis}: must be finite, low below high")
        for field in ("speed_max_m_s", "turn_max_rad_s", "wall_deceleration_m_s2"):
            if not 0 < getattr(self, field) < math.inf:
                raise ConfigError(f"{field} is {getattr(self, field)}, must be positive and finite")
        if not 1 <= self.condition_slow < self.condition_stop < math.inf:
            raise ConfigError(f"condition_slow {self.condition_slow} and condition_stop {self.condition_stop}: "
                              "must be finite, at least 1, slow below stop")  # fmt: skip


class TcpGuard:
    """Says by which share the joints may do what they are about to do."""

    def __init__(self, limits: TcpLimits, kinematics: Kinematics) -> None:
        self._limits = limits
        self._kinematics = kinematics
        self._low, self._high = np.array(limits.box_low_m), np.array(limits.box_high_m)

    def scale(
        self, joints: NDArray[np.float64], velocity: NDArray[np.float64], period_s: float
    ) -> tuple[float, tuple[Reason, ...]]:
        """Return the factor in [0, 1] for the joints' `velocity` (n,) [rad/s] during the next period, and why.

        `joints` (n,) [rad] are those of the last command. Leaving a wall or a singularity is always allowed. Raises
        InvalidValue where a number is not finite, since no factor helps then.
        """
        if not (np.isfinite(joints).all() and np.isfinite(velocity).all()):
            raise InvalidValue(f"joints {joints} and velocity {velocity}: not finite")
        before, jacobian = self._pose(joints)
        by_speed = self._speed_share(jacobian @ velocity)
        # From here on a step that is short, so that what is seen at its two ends holds in between.
        step = by_speed * period_s * velocity
        after, jacobian_after = self._pose(joints + step)
        # Joints that do not move the TCP now may do so by the end of the period.
        by_curve = self._speed_share(by_speed * (jacobian_after @ velocity))
        by_box = self._box_share(before, np.array((jacobian[:3] @ step, after - before)), period_s)
        by_condition = self._condition_share(jacobian, jacobian_after)
        shares = {Reason.TCP_SPEED: by_speed * by_curve, Reason.TCP_BOX: by_box, Reason.SINGULARITY: by_condition}
        reasons = tuple(reason for reason, share in shares.items() if share < 1.0)
        factor = by_speed * min(by_curve, by_box, by_condition)
        if reasons and self._leaves_box(before, joints + factor * period_s * velocity):
            return 0.0, (Reason.TCP_BOX,)
        return factor, reasons

    def _pose(self, joints: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        position, jacobian = self._kinematics.tcp(joints), self._kinematics.jacobian(joints)
        if not (np.isfinite(position).all() and np.isfinite(jacobian).all()):
            raise InvalidValue(f"kinematics at the joints {joints}: TCP at {position}, not finite")
        return position, jacobian

    def _speed_share(self, twist: NDArray[np.float64]) -> float:
        speed = math.hypot(*twist[:3]) / self._limits.speed_max_m_s
        turn = math.hypot(*twist[3:]) / self._limits.turn_max_rad_s
        return 1.0 / max(1.0, speed, turn)

    def _box_share(self, position: NDArray[np.float64], moves: NDArray[np.float64], period_s: float) -> float:
        # `moves` (2, 3): as the path begins, and where it ends. One that bends comes nearer to a wall in one of them.
        outward = np.hstack((moves, -moves)).max(axis=0)
        gaps = np.concatenate((self._high - position, position - self._low)).clip(min=0.0)
        # The speed v towards a wall that leaves room to brake after this period: v^2 = 2 a (gap - v T).
        change = self._limits.wall_deceleration_m_s2 * period_s
        allowed = period_s * (np.sqrt(change**2 + 2.0 * self._limits.wall_deceleration_m_s2 * gaps) - change)
        return min([1.0, *(float(allowed[i] / outward[i]) for i in np.flatnonzero(outward > allowed + _ROUNDING_M))])

    def _condition_share(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
        reached = _condition(after)
        if reached <= self._limits.condition_slow or reached <= _condition(before):
            return 1.0
        room = self._limits.condition_stop - reached
        return max(0.0, room / (self._limits.condition_stop - self._limits.condition_slow))

    def _leaves_box(self, before: NDArray[np.float64], joints: NDArray[np.float64]) -> bool:
        after = self._kinematics.tcp(joints)
        outward = np.maximum(after - np.maximum(self._high, before), np.minimum(self._low, before) - after)
        return bool((outward > _ROUNDING_M).any())


def _condition(jacobian: NDArray[np.float64]) -> float:
    # Joints that never move the TCP, such as a jaw, have columns of zeros and do not count.
    values = np.linalg.svd(jacobian[:, jacobian.any(axis=0)], compute_uv=False)
    return float(values[0] / max(values[-1], _LEAST_SINGULAR_VALUE))
