"""Confidence intervals of success rates and of means."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, bootstrap

from armature.errors import InvalidValue

ROUNDING = 1e-12
"""Share of the largest value up to which values count as equal."""


def wilson_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of the success rate after `k` successes in `n` trials.

    Raises InvalidValue unless 0 <= k <= n, n >= 1 and 0 < confidence < 1.
    """
    if not (n >= 1 and 0 <= k <= n):
        raise InvalidValue(f"{k} successes in {n} trials: needs at least one trial and 0 to {n} successes")
    if not 0 < confidence < 1:
        raise InvalidValue(f"confidence: {confidence}, must lie between 0 and 1")
    interval = binomtest(k, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return the bootstrap interval (bias-corrected and accelerated, Efron 1987) of the mean of `values` (N,).

    Unlike Student's it may lie askew, as it has to for values that crowd below a bound. The same values give the same
    interval. Raises InvalidValue unless there are two or more, all finite, and 0 < confidence < 1.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise InvalidValue(f"an interval of the mean needs two or more finite values, got {x.size}: shape {x.shape}")
    if not 0 < confidence < 1:
        raise InvalidValue(f"confidence: {confidence}, must lie between 0 and 1")
    # What differs by rounding alone has no spread either: the acceleration of the bootstrap would be 0 / 0.
    if np.ptp(x) <= ROUNDING * np.abs(x).max():
        return float(x.mean()), float(x.mean())
    interval = bootstrap((x,), np.mean, confidence_level=confidence, rng=np.random.default_rng(0)).confidence_interval
    return float(interval.low), float(interval.high)
