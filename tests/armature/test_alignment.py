from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from armature.alignment import newest_not_after


def aligned(stamps: list[int], ticks: list[int], max_age: int) -> list[int]:
    return newest_not_after(np.array(stamps, dtype=np.int64), np.array(ticks, dtype=np.int64), max_age).tolist()


def test_the_newest_sample_not_after_the_tick_is_taken():
    assert aligned([10, 20, 30], [9, 10, 11, 29, 30, 100], 1000) == [-1, 0, 0, 1, 2, 2]


def test_a_sample_exactly_of_the_maximum_age_counts():
    assert aligned([10], [15, 16], 5) == [0, -1]


def test_without_samples_every_tick_is_empty():
    assert aligned([], [0, 1], 5) == [-1, -1]


@given(
    stamps=st.lists(st.integers(0, 200), unique=True).map(sorted),
    ticks=st.lists(st.integers(-10, 250), max_size=10),
    max_age=st.integers(0, 100),
)
def test_it_agrees_with_the_plain_definition(stamps, ticks, max_age):
    for tick, index in zip(ticks, aligned(stamps, ticks, max_age), strict=True):
        earlier = [i for i, stamp in enumerate(stamps) if tick - max_age <= stamp <= tick]
        assert index == (earlier[-1] if earlier else -1)
