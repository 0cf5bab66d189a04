"""Noise for trying out corrections: it stays on one side for a while, as what corrects an arm has to."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

JUDGED_EVERY = 3
"""Every so manyth episode is run without noise, as those of the base are that it is compared with."""


def is_judged(number: int) -> bool:
    """Tell whether an episode of the residual is run without noise, to be compared with the base's."""
    return number % JUDGED_EVERY == 1


class CorrelatedNoise:
    """An autoregressive process per element, of deviation 1 at every step."""

    def __init__(self, dim: int, memory_steps: float, rng: np.random.Generator) -> None:
        """`memory_steps` is after how many steps 1/e of a value is left; 0: every step is drawn anew."""
        self._kept = math.exp(-1.0 / memory_steps) if memory_steps > 0 else 0.0
        self._rng = rng
        self._value = rng.normal(size=dim)

    def next(self) -> NDArray[np.float64]:
        """Return the noise (D,) of the next step."""
        drawn = self._rng.normal(size=self._value.shape)
        self._value = self._kept * self._value + math.sqrt(1.0 - self._kept**2) * drawn
        return self._value
