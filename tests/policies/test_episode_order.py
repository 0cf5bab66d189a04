"""Episodes that run side by side are judged in the order in which they began, not in which they ended."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.episode_order import EpisodeOrder


def test_a_quick_success_waits_for_the_failure_that_began_before_it():
    order = EpisodeOrder()
    for seed in (7, 8, 9):
        order.begin(seed)
    assert order.end(8, "success") == []
    assert order.end(7, "failure") == ["failure", "success"]
    assert order.end(9, "success") == ["success"]


@given(st.permutations(range(8)))
def test_however_they_end_each_is_told_once_in_order(ends: list[int]):
    order = EpisodeOrder()
    for seed in range(8):
        order.begin(seed)
    told = [order.end(seed, seed) for seed in ends]
    assert [seed for some in told for seed in some] == list(range(8))


def test_the_first_ten_to_end_are_better_than_all_the_first_ten_begun_are_not():
    """Half of all attempts succeed, in 50 steps, and failures take 200: of the first ten that end, six succeed."""
    draw = np.random.default_rng(0)
    first_to_end, first_begun = [], []
    for _ in range(400):
        ended, told = _endings(draw, robots=6, needed=10)
        first_to_end.append(np.mean(ended[:10]))
        first_begun.append(np.mean(told[:10]))
    assert np.mean(first_to_end) > 0.58
    assert np.mean(first_begun) == pytest.approx(0.5, abs=0.03)


def _endings(draw: np.random.Generator, robots: int, needed: int) -> tuple[list[bool], list[bool]]:
    """Return the outcomes of robots that begin anew as soon as they end: as they ended, and as they were told."""
    order, ended, told = EpisodeOrder(), [], []
    free_at = np.zeros(robots)
    begun: list[tuple[float, int, bool]] = []
    seed = 0
    while len(told) < needed:
        robot = int(free_at.argmin())
        for ending in sorted(each for each in begun if each[0] <= free_at[robot]):
            begun.remove(ending)
            ended.append(ending[2])
            told += order.end(ending[1], ending[2])
        success = bool(draw.random() < 0.5)
        free_at[robot] += 50.0 if success else 200.0
        order.begin(seed)
        begun.append((free_at[robot], seed, success))
        seed += 1
    return ended, told
