"""A run through real ROS 2 sends exactly the commands of a rollout without ROS, and records every sample of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from armature.policy import Policy
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from armature_ros.demo import EMBEDDED
from armature_ros.demo_graph import SAME_PICTURES
from armature_ros.episodes import EpisodeDriver, EpisodeOutcome
from armature_ros.graph import ONE_THREAD, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.up import RunningGraph
from data_collection.store import Dataset, Episode, open_dataset
from data_collection.streams import REWARD, TAKEOVER
from policies.checkpoint import load_policy
from sim.defaults import default_scheduler, panda_limits
from sim.environment import make_env
from sim.expert import make_expert
from sim.rollout import EpisodeResult, rollout
from sim.tasks import SimConfig, robot_spec

SEEDS = (100, 101)
HORIZON_STEPS = 60
STATE_ONLY = SimConfig(cameras=False, horizon_steps=HORIZON_STEPS)

pytestmark = pytest.mark.ros


@dataclass(frozen=True)
class Run:
    """What came of one graph: the episodes' outcomes and the dataset, read after every process had ended."""

    outcomes: list[EpisodeOutcome]
    dataset: Dataset

    @property
    def complete(self) -> list[Episode]:
        """The episodes that were brought to their end."""
        return [episode for episode in self.dataset.episodes if episode.is_complete]


def run_graph(config: GraphConfig, environment: dict[str, str], episodes: int) -> Run:
    """Run episodes through a graph of real processes; one more is begun and cut off."""
    # Rounding depends on the number of threads.
    nodes = [replace(node, environment=ONE_THREAD) for node in make_graph("sim", config)]
    with (
        RunningGraph(nodes, environment) as graph,
        EpisodeDriver(records=True, check=graph.check) as driver,
    ):
        outcomes = [driver.run_episode() for _ in range(episodes)]
        driver.start_episode()
    return Run(outcomes, open_dataset(config.dataset))


def rollouts(policy: Policy, seeds: tuple[int, ...], sim: SimConfig = STATE_ONLY) -> list[EpisodeResult]:
    env = make_env(sim)
    try:
        return [rollout(env, policy, seed, default_scheduler(), panda_limits()) for seed in seeds]
    finally:
        env.close()


@pytest.fixture(scope="module")
def expert_run(module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Two episodes of the scripted expert, and a third that was cut off."""
    dataset = tmp_path_factory.mktemp("expert") / "dataset"
    config = GraphConfig(cameras=False, horizon_steps=HORIZON_STEPS, dataset=str(dataset), seed=SEEDS[0])
    return run_graph(config, module_environment, episodes=len(SEEDS))


def test_expert_sends_the_same_commands_with_and_without_ros(expert_run: Run) -> None:
    expected = rollouts(make_expert(STATE_ONLY), SEEDS)
    assert [outcome.result["seed"] for outcome in expert_run.outcomes] == list(SEEDS)
    for episode, outcome, result in zip(expert_run.complete, expert_run.outcomes, expected, strict=True):
        commands = episode.read("action/executed")[2]
        assert np.array_equal(commands, result.commands)
        assert (outcome.result["success"], outcome.result["steps"]) == (result.success, result.steps)


def test_every_published_sample_is_recorded(expert_run: Run) -> None:
    for episode, outcome in zip(expert_run.complete, expert_run.outcomes, strict=True):
        published = outcome.result["published"]
        assert outcome.recorded is not None
        assert set(published) == set(episode.streams) - {TAKEOVER}
        assert {name: episode.length(name) for name in episode.streams} == {**published, TAKEOVER: 0}
        assert {name: (c["committed"], c["dropped"]) for name, c in outcome.recorded["counts"].items()} == {
            name: (count, {}) for name, count in published.items()
        }


def test_streams_are_stamped_with_the_ticks_of_their_episode(expert_run: Run) -> None:
    ends_ns = [-1]
    for episode in expert_run.complete:
        stamps = {name: episode.read(name)[0] for name in episode.streams if name != TAKEOVER}
        ticks = stamps["action/executed"]
        assert set(np.diff(ticks)) == {50_000_000}
        assert all(np.array_equal(stamp, ticks) for stamp in stamps.values())
        assert ticks[0] > ends_ns[-1]
        ends_ns.append(ticks[-1])


def test_reward_is_one_at_the_command_that_succeeded(expert_run: Run) -> None:
    for episode, outcome in zip(expert_run.complete, expert_run.outcomes, strict=True):
        rewards = episode.read(REWARD)[2][:, 0]
        assert rewards[-1] == outcome.result["success"]
        assert not rewards[:-1].any()


def test_episode_that_was_cut_off_is_kept_as_incomplete(expert_run: Run) -> None:
    assert [episode.metadata["seed"] for episode in expert_run.complete] == list(SEEDS)
    assert [episode.is_complete for episode in expert_run.dataset.episodes[len(SEEDS) :]] in ([], [False])
    with expert_run.dataset.writer():
        pass


def test_checkpoint_sends_the_same_commands_with_and_without_ros(
    environment: dict[str, str], tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "policy", robot_spec(STATE_ONLY), (JOINT_POSITION, GRIPPER_OPENING), obs_steps=2
    )
    config = GraphConfig(
        cameras=False,
        horizon_steps=20,
        policy=str(checkpoint),
        execute_steps=default_scheduler().execute_steps,
        dataset=str(tmp_path / "dataset"),
        seed=7,
    )
    run = run_graph(config, environment, episodes=1)
    torch.set_num_threads(1)
    (expected,) = rollouts(load_policy(checkpoint), (7,))
    commands = run.dataset.episodes[0].read("action/executed")[2]
    assert len(commands) == 20
    assert np.array_equal(commands, expected.commands[:20])


@pytest.mark.slow
def test_embedded_checkpoint_lifts_from_pixels_alike_with_and_without_ros(
    environment: dict[str, str], tmp_path: Path
) -> None:
    config = GraphConfig(
        policy=str(EMBEDDED), dataset=str(tmp_path / "dataset"), seed=SEEDS[0], overrides=SAME_PICTURES
    )
    run = run_graph(config, environment, episodes=1)
    torch.set_num_threads(1)
    expected = rollouts(load_policy(EMBEDDED), SEEDS[:1], SimConfig(render_profile="fast"))[0]
    result = run.outcomes[0].result
    assert (result["success"], result["steps"]) == (expected.success, expected.steps)
    assert np.array_equal(run.dataset.episodes[0].read("action/executed")[2], expected.commands)
    assert expected.success
