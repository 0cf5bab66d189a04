"""Push-T behind the common interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from armature.errors import InvalidValue
from sim.environment import make_env
from sim.pusht_env import keypoints
from sim.tasks import PUSHT_KEYPOINTS_PX, SimConfig


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


def test_keypoints_move_with_the_block(env: Any) -> None:
    for observation in play(env, seed=0):
        expected = keypoints(observation["object/pose"]).astype(np.float32)
        np.testing.assert_allclose(observation["object/keypoints"], expected, atol=1e-3)
    points = keypoints(np.array([100.0, 200.0, np.pi / 2])).reshape(9, 2)
    turned = [(100.0 - y, 200.0 + x) for x, y in PUSHT_KEYPOINTS_PX]
    np.testing.assert_allclose(points, turned, atol=1e-9)
    np.testing.assert_allclose(keypoints(np.array([1.0, 2.0, 2 * np.pi])), keypoints(np.array([1.0, 2.0, 0.0])))


def test_keypoints_are_those_of_the_human_demonstrations(shared_data: Path) -> None:
    root = zarr.open_group(shared_data / "pusht_human/pusht_cchi_v7_replay.zarr", mode="r", zarr_format=2)
    poses, recorded = np.float64(root["data/state"][:, 2:]), np.float64(root["data/keypoint"][:])
    # The recorded points are these in every frame, moved as one piece.
    local = np.array(PUSHT_KEYPOINTS_PX)
    local, placed = local - local.mean(axis=0), recorded - recorded.mean(axis=1, keepdims=True)
    shape, turned = local @ [1, 1j], placed @ np.array([1, 1j])
    turn = (turned @ shape.conj()) / (shape @ shape.conj())
    assert np.abs(turn[:, None] * shape - turned).max() < 1e-3
    # The recorded pose is not always of the same instant: a block that moves is up to 2 px further along.
    off_px = np.abs(np.stack([keypoints(pose) for pose in poses]).reshape(-1, 9, 2) - recorded).max(axis=(1, 2))
    assert np.median(off_px) < 1e-3
    assert np.quantile(off_px, 0.9) < 1e-2
    assert off_px.max() < 2.5
