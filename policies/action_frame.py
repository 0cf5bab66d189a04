"""Actions and residuals as small numbers: how far from where the arm is, in what the gate lets it move.

A joint's target means little by itself; what it makes the arm do is its distance from where the joint is. So positions
of joints are counted from the measured state, in units of twice what the velocity limit allows in one action's time (an
arm in full motion trails its target by about so much); everything else from the middle of its range, in halves of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.control.limits import SafetyLimits
from armature.spec import TCP_DELTA, ActionSpec

MARGIN = 1e-3
"""Of the largest residual to what the gate cuts: rounding must not look like a correction that is too large."""


class ActionFrame:
    """Maps actions (..., D) of a robot to normalised ones, given the measured state (..., D) in the action's layout."""

    def __init__(self, spec: ActionSpec, limits: SafetyLimits) -> None:
        velocity = np.array(limits.velocity_max)
        self.low, self.high = np.array(limits.position_low), np.array(limits.position_high)
        self.is_relative: NDArray[np.bool_] = np.isfinite(velocity)
        reach = np.where(self.is_relative, velocity, 0.0) / spec.rate_hz
        self.unit = np.where(self.is_relative, 2.0 * reach, (self.high - self.low) / 2.0)
        """Of each element, in its physical unit, (D,)."""
        self.is_displacement = np.concatenate([np.full(part.size, part.name == TCP_DELTA) for part in spec.arrays])
        """Of which elements an action is a motion by itself, (D,)."""
        self._middle = (self.high + self.low) / 2.0
        bound = limits.request.residual_share * np.where(self.is_relative, reach, (self.high - self.low) / 2.0)
        self.residual_max = (1.0 - MARGIN) * self._in_units(bound)
        """The largest distance from the policy's action that the gate passes, normalised, (D,)."""

    def encode(self, action: NDArray[Any], measured: NDArray[Any]) -> NDArray[np.float32]:
        """Return normalised actions."""
        return self._in_units(action - self._origin(measured)).astype(np.float32)

    def decode(self, normalised: NDArray[Any], measured: NDArray[Any]) -> NDArray[np.float64]:
        """Return actions in physical units; inverse of `encode`."""
        return normalised * self.unit + self._origin(measured)

    def _in_units(self, distance: NDArray[Any]) -> NDArray[np.float64]:
        """Divide by the units; an element whose range is a single place is always there, at 0."""
        return np.divide(distance, self.unit, out=np.zeros(distance.shape), where=self.unit > 0)

    def _origin(self, measured: NDArray[Any]) -> NDArray[np.float64]:
        return np.where(self.is_relative, measured, self._middle)
