"""Noise that stays on one side for a while."""

from __future__ import annotations

import numpy as np
import pytest

from policies.exploration import CorrelatedNoise


def draw(memory_steps: float, steps: int = 20_000) -> np.ndarray:
    noise = CorrelatedNoise(2, memory_steps, np.random.default_rng(0))
    return np.stack([noise.next() for _ in range(steps)])


@pytest.mark.parametrize("memory_steps", [0.0, 3.0, 10.0])
def test_every_step_has_deviation_one(memory_steps):
    np.testing.assert_allclose(draw(memory_steps).std(axis=0), 1.0, atol=0.05)


def test_after_its_memory_1_over_e_of_a_value_is_left():
    values = draw(5.0)
    assert np.mean(values[5:] * values[:-5]) == pytest.approx(np.exp(-1), abs=0.05)


def test_without_memory_every_step_is_drawn_anew():
    values = draw(0.0)
    assert np.mean(values[1:] * values[:-1]) == pytest.approx(0.0, abs=0.02)
