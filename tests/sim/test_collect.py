from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from armature.cli import main as armature
from armature.errors import ConfigError, DatasetError, SpecMismatch
from armature.spec import CAMERA_WRIST, JOINT_POSITION
from data_collection.store import open_dataset
from data_collection.windows import load_windows
from policies.checkpoint import load_policy, save_checkpoint
from policies.policy_config import PolicyConfig
from policies.train_config import TrainConfig
from policies.train_data import load_data
from policies.train_online import OnlineConfig
from sim.collect import CollectConfig, collect
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.expert import make_expert
from sim.rollout import rollout
from sim.tasks import STATE, SimConfig, Task

EMBEDDED = Path(__file__).parents[2] / "policies" / "pretrained" / "lift_pixels"


def test_recorded_demonstrations_are_the_rollouts_and_train(tmp_path, capsys):
    path = tmp_path / "lift"
    assert armature(["collect", "--dataset", str(path), "--episodes", "2", "--prompt", "lift the cube"]) == 0
    assert "2 episodes of" in capsys.readouterr().out
    episodes = open_dataset(path).episodes
    env = make_env(SimConfig("lift", cameras=False))
    policy = make_expert(SimConfig("lift", cameras=False))
    seed = episodes[0].metadata["seed"]
    result = rollout(env, policy, seed, default_scheduler(), limits_for(env.robot_spec.action))
    env.close()
    assert np.array_equal(episodes[0].read("action/executed")[2], result.commands)
    assert episodes[0].metadata["prompt"] == "lift the cube"
    assert [episode.metadata["success"] for episode in episodes] == [True, True]
    assert [episode.outcome for episode in episodes] == ["success", "success"]
    assert episodes[0].read("reward")[2].sum() == 1.0
    windows = load_windows(episodes, open_dataset(path).spec.select((JOINT_POSITION,)), 2, 8)
    # Which task it was learned on goes with the checkpoint.
    config = TrainConfig(path, tmp_path / "out", policy=PolicyConfig(STATE, chunk_steps=8))
    assert load_data(config)[1].summary["task"] == "lift"
    assert len(windows) == sum(episode.length("action/executed") for episode in episodes)


def test_another_arm_is_recorded_with_its_own_joints(tmp_path):
    collect(CollectConfig(tmp_path / "d", episodes=1, robot="ur5e"), Console(quiet=True))
    dataset = open_dataset(tmp_path / "d")
    assert (dataset.spec.name, dataset.spec.action.dim) == ("ur5e", 7)
    assert dataset.episodes[0].read(JOINT_POSITION)[2].shape[1] == 6


def test_a_task_without_an_expert_is_refused_and_nothing_is_made(tmp_path):
    with pytest.raises(ConfigError, match="unknown task with an expert 'pusht'"):
        collect(CollectConfig(tmp_path / "d", task="pusht"), Console())
    with pytest.raises(ConfigError, match="episodes: 0"):
        collect(CollectConfig(tmp_path / "d", episodes=0), Console())
    assert list(tmp_path.iterdir()) == []


def test_seeds_below_0_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match="seed: -1 is below 0"):
        collect(CollectConfig(tmp_path / "d", seed=-1), Console())
    with pytest.raises(ConfigError, match="seed is -1, must be 0 or more"):
        OnlineConfig(task="lift", out=tmp_path / "d", seed=-1)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_robot_is_refused_and_nothing_is_made(tmp_path):
    with pytest.raises(SpecMismatch, match="does not fit this robot"):
        collect(CollectConfig(tmp_path / "d", task="pusht", checkpoint=EMBEDDED), Console())
    with pytest.raises(ConfigError, match="robot 'ur5e': the checkpoint brings its own, 'panda'"):
        collect(CollectConfig(tmp_path / "d", checkpoint=EMBEDDED, robot="ur5e"), Console())
    with pytest.raises(ConfigError, match="image_size '64': the checkpoint brings its own, '128'"):
        collect(CollectConfig(tmp_path / "d", checkpoint=EMBEDDED, image_size=64), Console())
    with pytest.raises(ConfigError, match="image_size 64: nothing is looked at; add --cameras"):
        collect(CollectConfig(tmp_path / "d", cameras=False, image_size=64), Console())
    path = save_checkpoint(tmp_path / "can", load_policy(EMBEDDED), {"training": {"task": "can"}})
    with pytest.raises(ConfigError, match=r"task 'lift': .* was trained on 'can'; say --task can"):
        collect(CollectConfig(tmp_path / "d", checkpoint=path), Console())
    assert [each.name for each in tmp_path.iterdir()] == ["can"]


def test_a_checkpoint_records_what_it_looks_at_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr("sim.tasks.TASKS", {"lift": Task("Lift", 2, "arm")})
    collect(CollectConfig(tmp_path / "d", checkpoint=EMBEDDED, episodes=1, keep="all"), Console(quiet=True))
    episode = open_dataset(tmp_path / "d").episodes[0]
    assert episode.read(CAMERA_WRIST)[2].shape == (2, 128, 128, 3)


def test_too_many_failures_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sim.tasks.TASKS", {"lift": Task("Lift", 3, "arm")})
    with pytest.raises(DatasetError, match="only 0 of 3 attempts at lift succeeded"):
        collect(CollectConfig(tmp_path / "d", episodes=1), Console())
