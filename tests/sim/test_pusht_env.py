"""Push-T behind the common interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from armature.errors import InvalidValue
from sim.environment import make_env
from sim.tasks import SimConfig


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    env = make_env(SimConfig(task="pusht", horizon_steps=4))
    yield env
    env.close()


def play(env: Any, seed: int) -> list[Any]:
    observations = [env.reset(seed=seed)[0]]
    observations += [env.step(np.array([100.0 + 80 * k, 300.0]))[0] for k in range(3)]
    return observations


def test_observations_are_what_the_spec_says(env: Any) -> None:
    for observation in play(env, seed=0):
        env.robot_spec.observation.validate(observation)


def test_seed_determines_the_episode(env: Any) -> None:
    first, between, again = play(env, 1), play(env, 2), play(env, 1)
    for a, b in zip(first, again, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert (first[0]["object/pose"] != between[0]["object/pose"]).any()


def test_finger_goes_to_its_target(env: Any) -> None:
    env.reset(seed=0)
    target = env.measured_action() + np.array([20.0, 0.0])
    for _ in range(4):
        ends = env.step(target)[2:4]
    np.testing.assert_allclose(env.measured_action(), target, atol=15)
    assert ends == (False, True)  # the horizon truncates


def test_block_on_its_mark_is_success(env: Any) -> None:
    env.reset(seed=0)
    env._world._set_state(np.array([60.0, 60.0, 256.0, 256.0, np.pi / 4]))
    env._world.block.position = (256.0, 256.0)
    _, reward, terminated, truncated, info = env.step(np.array([60.0, 60.0]))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_malformed_actions_are_refused(env: Any) -> None:
    env.reset(seed=0)
    with pytest.raises(InvalidValue, match=r"shape \(3,\)"):
        env.step(np.zeros(3))
