"""Changes of representation: of actions, each beside its inverse, and of orientations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import InvalidValue

QUATERNION_TOLERANCE = 1e-3
"""How far the norm of a quaternion may be from 1; anything else is no rounding but a mistake."""
_ROUNDING = 1e-6


def to_relative(actions: NDArray[Any], reference: NDArray[Any], part: slice) -> NDArray[Any]:
    """Return `actions` (..., T, D) with the elements `part` relative to `reference` (..., d), as long as `part`."""
    relative = np.array(actions)
    relative[..., part] -= reference[..., np.newaxis, :]
    return relative


def to_absolute(actions: NDArray[Any], reference: NDArray[Any], part: slice) -> NDArray[Any]:
    """Return `actions` (..., T, D) with `reference` (..., d) added to the elements `part`; inverse of `to_relative`."""
    absolute = np.array(actions)
    absolute[..., part] += reference[..., np.newaxis, :]
    return absolute


def unit_quaternion(quaternion: NDArray[Any]) -> NDArray[Any]:
    """Return a quaternion (4,) with norm 1 and the same sign; raise InvalidValue unless that is nearly so already.

    One that differs only by the rounding of float32 stays as it is, bit for bit.
    """
    norm = float(np.linalg.norm(quaternion))
    error = abs(norm - 1)
    if not error <= QUATERNION_TOLERANCE:  # NaN is refused, too
        raise InvalidValue(f"quaternion has norm {norm:g}, expected 1 within {QUATERNION_TOLERANCE:g}")
    return quaternion if error <= _ROUNDING else quaternion / norm
