"""The slot for a learned correction of the base action, between the chunk scheduler and the safety gate."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Residual(Protocol):
    """Corrects one action; what it returns still passes the safety gate."""

    def correct(self, now_ns: int, base: NDArray[np.float64], measured: NDArray[Any]) -> NDArray[np.float64]:
        """Return the corrected action (D,) for `base` (D,); `measured` (D,) is the state in the action layout."""
        ...


class NoResidual:
    """Leaves the base action as it is."""

    def correct(self, now_ns: int, base: NDArray[np.float64], measured: NDArray[Any]) -> NDArray[np.float64]:
        """Return `base`."""
        return base
