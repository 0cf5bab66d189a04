"""Goals of goal-conditioned policies: drawn from the future in training, given by `set_goal` in inference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from armature.errors import ConfigError, InvalidValue
from armature.spec import CAMERA_SCENE, GRIPPER_OPENING, JOINT_POSITION
from armature.testing import check_policy, random_observation
from data_collection.windows import Windows, future_rows
from policies.checkpoint import load_policy, save_checkpoint
from policies.context import GOAL
from policies.dataset_torch import Goals, WindowTensors
from policies.presets.catalog import PRESETS
from policies.train import train

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)
FAMILIES = ("score", "mode")
LEFT = {JOINT_POSITION: np.array([[-1.0, 0.5]] * 2, np.float32), GRIPPER_OPENING: np.array([[0.02]] * 2, np.float32)}
RIGHT = {JOINT_POSITION: np.array([[1.0, 0.5]] * 2, np.float32), GRIPPER_OPENING: np.array([[0.02]] * 2, np.float32)}


def observation_of(policy):
    return random_observation(policy.spec, 1, np.random.default_rng(0), 0)


def test_the_future_begins_after_the_chunk_and_ends_with_the_episode():
    rows, last = np.array([0, 3, 8, 9, 20]), np.array([9, 9, 9, 9, 20])
    drawn = np.stack([future_rows(rows, last, 4, 2, seed=0, step=step) for step in range(400)])
    assert [set(drawn[:, i, 0].tolist()) for i in range(5)] == [set(range(4, 10)), {7, 8, 9}, {9}, {9}, {20}]
    np.testing.assert_array_equal(drawn[..., 1], np.minimum(drawn[..., 0] + 1, last))
    shares = np.bincount(drawn[:, 0, 0], minlength=10)[4:] / 400
    np.testing.assert_allclose(shares, 1 / 6, atol=0.06)


def test_the_future_is_a_function_of_seed_and_step():
    rows, last = np.zeros(50, np.int64), np.full(50, 1000)
    assert np.array_equal(future_rows(rows, last, 1, 1, 3, 7), future_rows(rows, last, 1, 1, 3, 7))
    assert not np.array_equal(future_rows(rows, last, 1, 1, 3, 7), future_rows(rows, last, 1, 1, 3, 8))
    assert not np.array_equal(future_rows(rows, last, 1, 1, 3, 7), future_rows(rows, last, 1, 1, 4, 7))


def test_window_tensors_take_goals_from_the_windows_own_episodes():
    episodes = [
        {JOINT_POSITION: np.arange(a, b)[:, None], "action": np.zeros((b - a, 1))} for a, b in ((0, 6), (50, 58))
    ]
    tensors = WindowTensors(Windows(iter(episodes), 1, 2), None, goals=Goals((JOINT_POSITION,), 3))
    chosen = torch.tensor([0, 4, 6, 13])
    for step in range(20):
        batch = tensors.batch(chosen, seed=1, step=step)
        now, goal = batch[JOINT_POSITION][:, 0, 0], batch[f"{GOAL}{JOINT_POSITION}"][..., 0]
        assert goal.shape == (4, 3)
        last = torch.tensor([5, 5, 57, 57])
        assert (goal[:, 0] >= torch.minimum(now + 2, last)).all()
        assert torch.equal(goal[:, 1:], torch.minimum(goal[:, :-1] + 1, last[:, None]))
    assert set(tensors.batch(chosen)) == {JOINT_POSITION, "action", f"{GOAL}{JOINT_POSITION}"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("windows", ["memory", "mapped"])
def test_training_with_goals_resumes_exactly(dataset, tmp_path, family, windows):
    through = PRESETS[f"{family}_tiny"](dataset, tmp_path / "through")
    policy = replace(through.policy, observations=(CAMERA_SCENE, *VECTORS), goal_steps=2)
    through = replace(
        through, policy=policy, steps=4, windows=windows, cache=tmp_path / "c" if windows == "mapped" else None
    )
    parts = replace(through, out=tmp_path / "parts")
    train(through)
    train(replace(parts, stop_at_step=2))
    train(replace(parts, resume=True))
    weights = [(run.out / "checkpoint" / "weights.safetensors").read_bytes() for run in (through, parts)]
    assert weights[0] == weights[1]
    loaded = load_policy(through.out / "checkpoint")
    assert loaded.config.goal_steps == 2
    loaded.set_goal(LEFT)
    check_policy(loaded)


@pytest.mark.parametrize("family", FAMILIES)
def test_another_goal_gives_other_chunks_and_holds_over_episodes(new_policy, tmp_path, family):
    policy = new_policy(family, observations=VECTORS, goal_steps=2)

    def chunk(goal):
        if goal is not None:
            policy.set_goal(goal)
        policy.reset(3)
        return policy.infer(observation_of(policy)).actions

    left, right = chunk(LEFT), chunk(RIGHT)
    assert not np.allclose(left, right, atol=1e-6)
    assert np.array_equal(right, chunk(None))
    assert np.array_equal(left, chunk(LEFT))
    loaded = load_policy(save_checkpoint(tmp_path / "checkpoint", policy, {}))
    loaded.set_goal(LEFT)
    loaded.reset(3)
    assert np.array_equal(left, loaded.infer(observation_of(policy)).actions)


def test_a_goal_is_normalised_like_the_observation(new_policy):
    policy = new_policy("score", observations=VECTORS, goal_steps=1)
    values = {JOINT_POSITION: torch.tensor([[[2.0, -2.0]]]), GRIPPER_OPENING: torch.tensor([[[0.08]]])}
    context = policy.encoder({**values, **{f"{GOAL}{name}": value for name, value in values.items()}})
    assert torch.equal(context.goal, context.state)
    torch.testing.assert_close(context.goal[0, 0], torch.tensor([1.0, -1.0, 1.0]))


def test_a_policy_with_goals_asks_for_one_and_checks_it(new_policy):
    policy = new_policy("score", observations=VECTORS, goal_steps=2)
    with pytest.raises(InvalidValue, match="score needs a goal: give it one with set_goal"):
        policy.infer(observation_of(policy))
    with pytest.raises(InvalidValue, match="goal lacks gripper/opening"):
        policy.set_goal({JOINT_POSITION: LEFT[JOINT_POSITION]})
    with pytest.raises(InvalidValue, match="joint/position: 1 steps, score needs 2"):
        policy.set_goal({**LEFT, JOINT_POSITION: LEFT[JOINT_POSITION][:1]})
    with pytest.raises(InvalidValue, match="not finite"):
        policy.set_goal({**LEFT, JOINT_POSITION: LEFT[JOINT_POSITION] * np.float32("nan")})


def test_goals_are_refused_where_nothing_takes_them(new_policy):
    with pytest.raises(InvalidValue, match="score takes no goal: it was made with goal_steps 0"):
        new_policy("score").set_goal(LEFT)
    with pytest.raises(ConfigError, match="goal_steps is 2: the family diffusion takes no goal"):
        new_policy("diffusion", goal_steps=2)
    with pytest.raises(ConfigError, match="goal_steps is 1, but no vector is observed"):
        new_policy("score", observations=(CAMERA_SCENE,), goal_steps=1)
    with pytest.raises(ConfigError, match="goal_steps is -1"):
        new_policy("score", goal_steps=-1)
