"""Changes of action representation, each beside its inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
