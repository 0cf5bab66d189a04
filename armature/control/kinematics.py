"""Where the tool of an arm is and how it moves with the joints, as far as the control path has to know."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Kinematics(Protocol):
    """One arm and its tool centre point (TCP); everything in the frame of the arm's base."""

    def tcp(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the position (3,) [m] of the TCP at `joints_rad` (n,)."""
        ...

    def jacobian(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how the TCP moves with the joints (6, n) at `joints_rad` (n,): [m/rad], then turn [rad/rad]."""
        ...
