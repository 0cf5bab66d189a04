"""Confidence intervals of success rates."""

from __future__ import annotations

from scipy.stats import binomtest

from armature.errors import InvalidValue


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
