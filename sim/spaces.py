"""Specs in gymnasium's terms, and the check that every simulated robot does before it moves."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from armature.errors import InvalidValue
from armature.spec import ActionSpec, ArraySpec, ObservationSpec


def observation_space(spec: ObservationSpec) -> gymnasium.spaces.Dict:
    """Describe observations to gymnasium."""
    return gymnasium.spaces.Dict({array.name: _box(array) for array in spec})


def action_space(spec: ActionSpec) -> gymnasium.spaces.Box:
    """Describe actions to gymnasium."""
    return gymnasium.spaces.Box(spec.low.astype(np.float32), spec.high.astype(np.float32))


def require_action(spec: ActionSpec, action: NDArray[Any]) -> NDArray[np.float64]:
    """Return the action (dim,) as float64; raise InvalidValue when its size is wrong or it is not finite."""
    action = np.asarray(action, dtype=np.float64)
    if action.shape != (spec.dim,):
        raise InvalidValue(f"action: shape {action.shape}, expected ({spec.dim},): {', '.join(spec.labels)}")
    if not np.isfinite(action).all():
        names = [label for label, value in zip(spec.labels, action, strict=True) if not np.isfinite(value)]
        raise InvalidValue(f"action: not finite at {', '.join(names)}")
    return action


def _box(array: ArraySpec) -> gymnasium.spaces.Box:
    low, high = (0, 255) if array.is_image else (-np.inf, np.inf)
    return gymnasium.spaces.Box(low, high, array.shape, np.dtype(array.dtype).type)
