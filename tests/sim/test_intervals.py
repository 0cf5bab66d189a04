"""Wilson intervals against published numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armature.errors import InvalidValue
from sim.intervals import wilson_interval


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
