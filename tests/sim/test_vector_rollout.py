"""Episodes run together are the episodes run alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from armature.types import ActionChunk, CommittedActions, Observation
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.rollout import EpisodeResult, rollout
from sim.tasks import SimConfig, robot_spec
from sim.vector_rollout import vector_rollout

CONFIG = SimConfig("pusht", cameras=False, horizon_steps=20)


class Wanderer:
    """Wanders about at random, and about what it sees; counts how often it is asked."""

    obs_steps = 2
    policy_id = "wanderer"
    spec = robot_spec(CONFIG)

    def __init__(self) -> None:
        self.rng = np.random.default_rng()
        self.batches: list[int] = []

    def begin(self, seed: int) -> np.random.Generator:
        return np.random.default_rng(seed)

    def reset(self, seed: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)

    def infer(self, observation: Observation, committed: CommittedActions | None = None) -> ActionChunk:
        return self.infer_batch([observation], [self.rng], [committed])[0]

    def infer_batch(
        self,
        observations: Sequence[Observation],
        episodes: Sequence[np.random.Generator],
        committed: Sequence[CommittedActions | None] = (),
    ) -> list[ActionChunk]:
        self.batches.append(len(observations))
        return [self._chunk(seen, rng) for seen, rng in zip(observations, episodes, strict=True)]

    def _chunk(self, seen: Observation, rng: np.random.Generator) -> ActionChunk:
        block_px = seen.values["object/pose"][-1, :2]
        actions = np.clip(block_px + rng.normal(scale=60.0, size=(16, 2)), 0, 512)
        return ActionChunk(seen.stamp_ns, seen.stamp_ns, 100_000_000, actions, self.policy_id)


@pytest.fixture(scope="module")
def envs() -> Iterator[list[Any]]:
    envs = [make_env(CONFIG) for _ in range(3)]
    yield envs
    for env in envs:
        env.close()


def run_together(envs: list[Any], policy: Wanderer, seeds: Sequence[int], **options: Any) -> list[EpisodeResult]:
    return vector_rollout(envs, policy, seeds, default_scheduler(), limits_for(envs[0].robot_spec.action), **options)


def test_commands_and_results_are_those_of_single_rollouts(envs: list[Any]) -> None:
    seeds = [3, 4, 5, 6]
    together = run_together(envs, Wanderer(), seeds)
    limits = limits_for(envs[0].robot_spec.action)
    alone = [rollout(envs[0], Wanderer(), seed, default_scheduler(), limits) for seed in seeds]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.commands, b.commands)
        assert (a.seed, a.success, a.steps, a.duration_s) == (b.seed, b.success, b.steps, b.duration_s)
        assert a.reasons == b.reasons
        # The area of the same overlap may differ in its last bit with where the arrays lie in memory.
        assert a.maxima == pytest.approx(b.maxima, rel=1e-12)
    assert len({result.commands.tobytes() for result in together}) == 4


def test_one_call_answers_all_episodes_that_run_together(envs: list[Any]) -> None:
    policy, seen = Wanderer(), []
    run_together(envs, policy, range(4), on_episode=lambda result: seen.append(result.seed))
    # Chunks are due at ticks 0, 8 and 16; three episodes run together, then the fourth.
    assert policy.batches == [3, 3, 3, 1, 1, 1]
    assert seen == [0, 1, 2, 3]


def test_an_episode_that_has_ended_is_no_longer_stepped(envs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    step = envs[0].step
    monkeypatch.setattr(envs[0], "step", lambda action: (*step(action)[:2], True, False, {"coverage": 0.96}))
    policy = Wanderer()
    first, *others = run_together(envs, policy, range(3))
    assert (first.steps, first.success, first.maxima) == (1, True, {"coverage": 0.96})
    assert [other.steps for other in others] == [20, 20]
    assert policy.batches == [3, 2, 2]
