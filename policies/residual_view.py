"""What a residual actor and its critics see: the robot's vectors, scaled, and how far the last command was ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.control.limits import SafetyLimits
from armature.normalizer import Normalizer
from armature.spec import RobotSpec
from policies.action_frame import ActionFrame

OUTLIER = 5.0
"""Deviations beyond which a value says no more than that it is far out."""


class ResidualView:
    """Makes observations (O,) of the vectors of `spec` that `normalizer` has statistics of; images are left out."""

    def __init__(self, spec: RobotSpec, limits: SafetyLimits, normalizer: Normalizer) -> None:
        self.spec = spec
        self.frame = ActionFrame(spec.action, limits)
        self.names = tuple(array.name for array in spec.observation.vectors if array.name in normalizer.fields)
        affines = [normalizer.affine(name) for name in self.names]
        self._scale = np.concatenate([affine.scale for affine in affines])
        self._offset = np.concatenate([affine.offset for affine in affines])
        self.observation_dim = len(self._scale) + spec.action.dim
        self.action_dim = spec.action.dim

    def observe(
        self, values: Mapping[str, NDArray[Any]], measured: NDArray[Any], commanded: NDArray[Any]
    ) -> NDArray[np.float32]:
        """Return the observation (O,) of one step.

        `values` are the robot's arrays in physical units, `measured` (D,) is the state and `commanded` (D,) the command
        before this step, both in the layout of the action: how far the arm lags tells where it is going.
        """
        seen = np.concatenate([values[name] for name in self.names]) * self._scale + self._offset
        ahead = self.frame.encode(commanded, measured)
        return np.concatenate((seen, ahead), dtype=np.float32).clip(-OUTLIER, OUTLIER)
