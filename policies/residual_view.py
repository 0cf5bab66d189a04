"""What a residual actor and its critics see: the robot's vectors, scaled, and how far the last command was ahead."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.control.limits import SafetyLimits
from armature.normalizer import Normalizer
from armature.spec import ArraySpec, RobotSpec
from policies.action_frame import ActionFrame

OUTLIER = 5.0
"""Deviations beyond which a value says no more than that it is far out."""
NEAR_M = 0.03
"""Two things that meet are this near: distances between poses are counted in it, where millimetres decide."""
POSE_SIZE = 7


class ResidualView:
    """Makes observations (O,) of the vectors of `spec` that `normalizer` has statistics of; images are left out.

    Beside every two poses of one frame stands the way from one to the other [NEAR_M], as simulators' own observations
    have it: scaled each by its spread over the room, a centimetre between them would be a hundredth.
    """

    def __init__(self, spec: RobotSpec, limits: SafetyLimits, normalizer: Normalizer) -> None:
        self.spec = spec
        self.frame = ActionFrame(spec.action, limits)
        seen = [array for array in spec.observation.vectors if array.name in normalizer.fields]
        self.names = tuple(array.name for array in seen)
        self._pairs = _pairs(seen)
        affines = [normalizer.affine(name) for name in self.names]
        self._scale = np.concatenate([affine.scale for affine in affines])
        self._offset = np.concatenate([affine.offset for affine in affines])
        self.observation_dim = observation_dim(spec.select(self.names))
        self.action_dim = spec.action.dim

    def observe(
        self, values: Mapping[str, NDArray[Any]], measured: NDArray[Any], commanded: NDArray[Any]
    ) -> NDArray[np.float32]:
        """Return the observation (O,) of one step.

        `values` are the robot's arrays in physical units, `measured` (D,) is the state and `commanded` (D,) the command
        before this step, both in the layout of the action: how far the arm lags tells where it is going.
        """
        seen = np.concatenate([values[name] for name in self.names]) * self._scale + self._offset
        ways = [(values[to][:3] - values[start][:3]) / NEAR_M for start, to in self._pairs]
        ahead = self.frame.encode(commanded, measured)
        return np.concatenate((seen, *ways, ahead), dtype=np.float32).clip(-OUTLIER, OUTLIER)


def observation_dim(spec: RobotSpec) -> int:
    """Return O, the size of an observation of a robot with the vectors that `spec` names."""
    vectors = spec.observation.vectors
    return sum(array.size for array in vectors) + 3 * len(_pairs(vectors)) + spec.action.dim


def _pairs(arrays: tuple[ArraySpec, ...] | list[ArraySpec]) -> list[tuple[str, str]]:
    """Return the names of every two poses that are given in the same frame."""
    poses = [array for array in arrays if array.shape == (POSE_SIZE,) and array.frame]
    return [(one.name, other.name) for one, other in combinations(poses, 2) if one.frame == other.frame]
