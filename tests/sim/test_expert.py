"""The scripted experts do their tasks through the real control path, each time a little differently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from armature.errors import ConfigError
from armature.policy import Policy
from armature.testing import check_policy
from armature.types import Observation, Reason
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.expert import make_expert
from sim.rollout import EpisodeResult, rollout
from sim.tasks import SimConfig

LIFT = SimConfig(cameras=False)


@pytest.fixture(scope="module")
def lift_env() -> Iterator[Any]:
    env = make_env(LIFT)
    yield env
    env.close()


SHORTENED = {Reason.ACCELERATION_LIMIT, Reason.VELOCITY_LIMIT}


@pytest.fixture(scope="module")
def lift_expert() -> Policy:
    return make_expert(LIFT)


def run(env: Any, expert: Policy, seed: int) -> EpisodeResult:
    return rollout(env, expert, seed, default_scheduler(), limits_for(env.robot_spec.action))


def test_expert_keeps_the_policy_protocol(lift_expert: Policy) -> None:
    check_policy(lift_expert)


def test_lift_succeeds_with_commands_shortened_at_most(lift_env: Any, lift_expert: Policy) -> None:
    results = [run(lift_env, lift_expert, seed) for seed in range(4)]
    assert [result.success for result in results] == [True] * 4
    assert all(35 <= result.steps <= 100 for result in results)
    assert all(set(result.reasons) <= SHORTENED for result in results)


def test_equal_seeds_give_equal_commands_and_others_do_not(lift_env: Any, lift_expert: Policy) -> None:
    first, other, again = (run(lift_env, lift_expert, seed) for seed in (8, 9, 8))
    np.testing.assert_array_equal(first.commands, again.commands)
    assert first.commands.shape != other.commands.shape or (first.commands != other.commands).any()


def test_style_differs_where_the_world_is_the_same(lift_env: Any, lift_expert: Policy) -> None:
    def infer(seed: int) -> Any:
        observation = lift_env.reset(seed=0)[0]
        lift_expert.reset(seed)
        for _ in range(3):
            action = lift_expert.infer(
                Observation(0, {name: value[None] for name, value in observation.items()})
            ).actions[0]
            observation = lift_env.step(action)[0]
        return action

    assert np.abs(infer(1) - infer(2)).max() > 1e-4


@pytest.mark.parametrize(
    ("task", "action", "robot"),
    [
        ("lift", "tcp_delta", "panda"),
        ("can", "joint_position", "panda"),
        ("square", "joint_position", "panda"),
        ("lift", "joint_position", "ur5e"),
        ("can", "joint_position", "ur5e"),
    ],
)
def test_other_tasks_actions_and_robots_succeed(task: str, action: Any, robot: str) -> None:
    config = SimConfig(task=task, action=action, cameras=False, robot=robot)
    env = make_env(config)
    result = run(env, make_expert(config), seed=0)
    env.close()
    assert result.success
    assert set(result.reasons) <= SHORTENED


def test_no_expert_for_pusht() -> None:
    with pytest.raises(ConfigError, match=r"unknown task with an expert 'pusht'.*can, lift, square"):
        make_expert(SimConfig(task="pusht"))


def test_expert_needs_the_privileged_poses() -> None:
    with pytest.raises(ConfigError, match="privileged"):
        make_expert(SimConfig(privileged=False))
