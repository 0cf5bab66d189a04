"""Wilson intervals against published numbers, intervals of means by how often they hold the mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armature.errors import InvalidValue
from sim.intervals import mean_interval, wilson_interval


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(18, 20, 0.6990, 0.9721), (20, 20, 0.8389, 1.0), (0, 20, 0.0, 0.1611), (5, 10, 0.2366, 0.7634)],
)
def test_known_values(k: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(k, n) == pytest.approx((low, high), abs=5e-5)


def test_higher_confidence_is_wider() -> None:
    narrow, wide = wilson_interval(7, 10, 0.9), wilson_interval(7, 10, 0.99)
    assert wide[0] < narrow[0] < 0.7 < narrow[1] < wide[1]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 1000), st.data())
def test_interval_holds_the_rate_and_mirrors(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    low, high = wilson_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson_interval(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("k", "n", "confidence"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_impossible_counts_are_refused(k: int, n: int, confidence: float) -> None:
    with pytest.raises(InvalidValue):
        wilson_interval(k, n, confidence)


def test_nineteen_in_twenty_intervals_hold_the_mean_of_what_was_drawn() -> None:
    rng = np.random.default_rng(0)
    # Like coverages: crowded below a bound, with a tail. The mean of Beta(8, 1) is 8/9.
    intervals = [mean_interval(rng.beta(8, 1, 50)) for _ in range(100)]
    held = sum(low <= 8 / 9 <= high for low, high in intervals)
    assert 90 <= held <= 99


def test_an_interval_of_equal_values_is_a_point_and_the_same_values_give_the_same() -> None:
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert mean_interval([0.1 + 0.2, 0.3, 0.3]) == pytest.approx((0.3, 0.3), abs=1e-15)
    assert mean_interval([0.0, 0.0]) == (0.0, 0.0)
    values = np.random.default_rng(1).normal(size=20)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values, 0.5)[0] > mean_interval(values, 0.99)[0]


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_a_mean_of_too_little_has_no_interval(values: list[float]) -> None:
    with pytest.raises(InvalidValue, match="two or more finite values"):
        mean_interval(values)
