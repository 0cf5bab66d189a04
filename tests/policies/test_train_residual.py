"""Learning a residual in simulation, from demonstrations of the real expert to an actor on disk."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from armature.control.chunk_scheduler import SchedulerConfig
from armature.errors import ConfigError, DatasetError, SpecMismatch
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from armature.types import Observation
from data_collection.store import open_dataset
from data_collection.windows import ACTION, aligned_episode
from policies.checkpoint import load_policy, save_checkpoint
from policies.durable_learner import DurableLearner
from policies.presets.arm import STATE
from policies.presets.catalog import PRESETS
from policies.residual_folder import load_residual
from policies.residual_learner import LearnerConfig
from policies.residual_td3 import ResidualConfig, ResidualTd3
from policies.residual_view import ResidualView
from policies.train import train
from policies.train_residual import ResidualTrainConfig, train_residual
from policies.train_residual_data import demonstration_rows, open_demonstrations, statistics_of
from policies.train_residual_robots import CorrectedRobots, Style
from sim.collect import CollectConfig, collect
from sim.corrected_world import PolicyNeeds
from sim.defaults import default_scheduler, limits_for
from sim.evaluate import world_for
from sim.tasks import SimConfig, robot_spec
from sim.world_processes import WorldProcesses

LIFT = robot_spec(SimConfig("lift", cameras=False))


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("residual") / "lift"
    collect(CollectConfig(path, task="lift", episodes=2, cameras=False), Console(quiet=True))
    return path


@pytest.fixture(scope="module")
def base(demonstrations, tmp_path_factory) -> Path:
    config = PRESETS["bc_tiny"](demonstrations, tmp_path_factory.mktemp("base"))
    policy = replace(config.policy, observations=STATE.observations, relative_actions=True)
    return train(replace(config, policy=policy, steps=20, validate_every_steps=20))


@pytest.fixture
def config(demonstrations, base, tmp_path) -> ResidualTrainConfig:
    learner = LearnerConfig(
        td3=ResidualConfig(hidden=(16, 16), critics=2), batch_size=16, warmup_steps=30, critic_warmup_updates=10
    )
    return ResidualTrainConfig(
        base=base,
        task="lift",
        dataset=demonstrations,
        out=tmp_path / "out",
        steps=60,
        worlds=2,
        evaluate_every_steps=30,
        evaluate_episodes=2,
        horizon_steps=15,
        learner=learner,
    )


def test_it_learns_evaluates_and_keeps_the_actor(config):
    curve = train_residual(config)
    assert [each.share for each in curve] == [0.0, 0.5, 0.5]
    assert [each.episodes for each in curve] == [2, 2, 2]
    assert curve[-1].step >= 60
    assert all(each.mean_steps == 15 for each in curve)
    kept = load_residual(config.out / "actor")
    kept.view(LIFT, limits_for(LIFT.action))
    weights = kept.weights
    # Ten for the critics, then two per transition after the warm-up, but for those of the last tick.
    assert 10 + 2 * (curve[-1].step - config.worlds * 5) <= weights.version <= 10 + 2 * curve[-1].step
    assert weights.base_id == load_policy(config.base).policy_id
    assert (config.out / "best" / "residual.json").is_file()
    assert weights.residual(np.zeros(weights.input_dim - 8, np.float32), np.zeros(8, np.float32)).any()
    lines = [json.loads(line) for line in (config.out / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [each.step for each in curve]


@pytest.mark.slow
def test_what_was_learned_after_the_last_evaluation_is_judged_and_kept(config):
    curve = train_residual(replace(config, steps=40, evaluate_every_steps=1000))
    assert len(curve) == 2
    assert curve[-1].step >= 40
    assert load_residual(config.out / "actor").weights.version > 10


@pytest.mark.slow
def test_a_training_goes_on_after_the_episodes_that_there_were_and_no_worse_actor_becomes_the_best(config):
    first = train_residual(replace(config, steps=30))
    begun = json.loads((config.out / "state" / "state.json").read_text())["counts"]["begun"]
    # As where the process died after it had kept a better one, and before it saved the state.
    file = config.out / "curve.jsonl"
    lost = {**json.loads(file.read_text().splitlines()[-1]), "step": 45, "successes": 2}
    file.write_text(file.read_text() + json.dumps(lost) + "\n")
    best = (config.out / "best" / "residual.json").read_bytes()
    curve = train_residual(replace(config, resume=True))
    assert (curve[: len(first)], len(curve)) == (first, 3)
    assert curve[-1].step >= 60
    lines = [json.loads(line)["step"] for line in file.read_text().splitlines()]
    assert lines == [each.step for each in curve]
    assert (config.out / "best" / "residual.json").read_bytes() == best
    state = json.loads((config.out / "state" / "state.json").read_text())
    assert state["counts"]["begun"] > begun >= 4
    assert [point["step"] for point in state["curve"]] == lines
    assert load_residual(config.out / "actor").weights.version > 10 + 2 * 30


def test_a_training_from_cameras_or_from_nothing_is_not_gone_on_with(config):
    with pytest.raises(ConfigError, match=r"--resume: .* holds no state"):
        train_residual(replace(config, resume=True))
    with pytest.raises(ConfigError, match="resume: a training that looks at cameras keeps nothing"):
        replace(config, resume=True, cameras=("camera/scene",))


def test_an_interrupted_training_keeps_the_newest_actor_and_judges_nothing_more(config, interrupted):
    with interrupted("train_residual", 20):
        curve = train_residual(replace(config, steps=1000, evaluate_every_steps=1000))
    assert len(curve) == 1
    assert load_residual(config.out / "actor").weights.version > 10
    state = json.loads((config.out / "state" / "state.json").read_text())
    assert state["learner"]["updates"] == load_residual(config.out / "actor").weights.version


def test_nothing_follows_a_gate_that_has_latched(config):
    limits = limits_for(LIFT.action)
    limits = replace(limits, watch=replace(limits.watch, tracking_hold=1e-4, tracking_latch=2e-4))
    base, shown = load_policy(config.base), open_demonstrations(config.dataset, LIFT, "lift")
    view = ResidualView(LIFT, limits, statistics_of(shown, LIFT))
    td3 = ResidualTd3(config.learner.td3, view.observation_dim, view.action_dim)
    needs, world = PolicyNeeds(base.spec, base.obs_steps, base.policy_id), world_for(base.spec, "lift", 30)
    found = []
    with WorldProcesses(1, 1, world, needs, default_scheduler(), limits) as worlds:
        robots = CorrectedRobots(worlds, range(1), base, view, td3, iter([(3, Style(0.0))]))
        while robots.is_running:
            robots.send()
            found += robots.receive()
    *before, last = found
    assert len(before) < 29
    assert not any(each.is_last for each in before)
    assert (last.success, last.terminated, last.cut) == (False, True, False)


def test_what_was_learned_is_gone_on_from_with_the_demonstrations(config):
    train_residual(replace(config, steps=0))
    learner = DurableLearner.open(config.out / "actor").learner
    assert (learner.steps, learner.updates, learner.share) == (0, 0, 0.0)
    assert learner.demonstrated == sum(len(e[ACTION]) for e in open_demonstrations(config.dataset, LIFT, "lift"))
    assert learner.config == config.learner
    weights = load_residual(config.out / "actor").weights
    assert not weights.residual(np.ones(weights.input_dim - 8, np.float32), np.ones(8, np.float32)).any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_residual_does_not_say_how_fast_it_was_learned(config, monkeypatch):
    # Nothing is compiled in no steps: any program does for the compiler.
    monkeypatch.setenv("CXX", sys.executable)
    learner = replace(config.learner, td3=replace(config.learner.td3, compiled=True))
    train_residual(replace(config, steps=0, learner=learner))
    assert DurableLearner.open(config.out / "actor").learner.config == config.learner


def test_a_gpu_that_is_not_there_is_refused_before_any_step(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device 'cuda': torch sees no CUDA device here"):
        train_residual(replace(config, learner=replace(config.learner, device="cuda")))
    assert not config.out.exists()


def test_a_folder_with_something_in_it_is_refused_before_any_step(config):
    config.out.mkdir()
    (config.out / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"notes.txt is a file: choose another --out"):
        train_residual(replace(config, out=config.out / "notes.txt"))
    with pytest.raises(ConfigError, match="is not empty: choose another --out"):
        train_residual(config)


def test_demonstrations_of_another_robot_are_refused(config, dataset):
    with pytest.raises(SpecMismatch):
        train_residual(replace(config, dataset=dataset))


def test_demonstrations_of_another_task_are_refused(config):
    with pytest.raises(DatasetError, match="episode 0 shows task 'lift', to be learned is 'can'"):
        train_residual(replace(config, task="can"))


def test_demonstrations_that_all_failed_are_refused(config, record):
    path = record([4, 4], success=False)
    with pytest.raises(DatasetError, match="has 2 episodes, none successful: nothing to learn from"):
        open_demonstrations(path, open_dataset(path).spec, "circle")


def test_a_demonstration_that_is_not_finite_is_refused_by_its_place(record):
    path = record([5], spoil=(JOINT_POSITION, 0, 2, float("nan")))
    with pytest.raises(DatasetError, match=r"episode 0, joint/position, step 2: not finite"):
        open_demonstrations(path, open_dataset(path).spec, "circle")


def test_demonstrations_become_transitions_that_end_in_one_reward(demonstrations, base):
    episodes, policy = open_demonstrations(demonstrations, LIFT, "lift"), load_policy(base)
    view = ResidualView(LIFT, limits_for(LIFT.action), statistics_of(episodes, LIFT))
    replay = demonstration_rows(episodes, policy, view, ResidualConfig(steps=3, discount=0.9), execute_steps=8)
    lengths = [len(episode[ACTION]) for episode in episodes]
    assert len(replay) == sum(lengths)
    rows = replay.layout.split(replay._tensor)
    first = rows.reward[: lengths[0]].tolist()
    assert first[-4:] == pytest.approx([0.0, 0.81, 0.9, 1.0])
    assert not any(first[:-3])
    assert rows.discount[: lengths[0]].tolist() == pytest.approx([0.9**3] * (lengths[0] - 3) + [0.0] * 3)


def test_beside_a_demonstration_stands_what_the_base_would_have_done(demonstrations, base):
    episodes, policy = open_demonstrations(demonstrations, LIFT, "lift"), load_policy(base)
    view = ResidualView(LIFT, limits_for(LIFT.action), statistics_of(episodes, LIFT))
    rows = demonstration_rows(episodes[:1], policy, view, ResidualConfig(), execute_steps=8)
    episode = aligned_episode(open_dataset(demonstrations).episodes[0], LIFT)
    measured = np.concatenate([episode[JOINT_POSITION], episode[GRIPPER_OPENING]], axis=1)
    found = rows.layout.split(rows._tensor)
    # Step 11 is the fourth of the chunk that answers step 8; the demonstrator was off it at the third already.
    seen = {a.name: episode[a.name][[8 - k for k in range(policy.obs_steps)][::-1]] for a in policy.spec.observation}
    policy.reset(0)
    policy._episode.sequence = 1
    chunk = policy.infer(Observation(0, seen)).actions
    wanted = chunk[3] + episode[ACTION][10] - chunk[2]
    np.testing.assert_allclose(view.frame.decode(found.base[11].numpy(), measured[11]), wanted, atol=1e-5)
    policy._episode.sequence = 1
    np.testing.assert_allclose(view.frame.decode(found.base[8].numpy(), measured[8]), chunk[0], atol=1e-5)
    np.testing.assert_allclose(
        view.frame.decode(found.action[11].numpy(), measured[11]), episode[ACTION][11], atol=1e-5
    )


@pytest.mark.parametrize("name", ["worlds", "processes", "evaluate_episodes", "control_every", "threads"])
def test_a_number_below_one_is_refused_by_name(config, name):
    with pytest.raises(ConfigError, match=f"{name} is 0, must be at least 1"):
        replace(config, **{name: 0})


def test_a_scheduler_that_mixes_chunks_is_refused(config):
    with pytest.raises(ConfigError, match=r"scheduler.mode is blend: .* Valid: receding_horizon"):
        replace(config, scheduler=SchedulerConfig("blend", 8))


def test_a_base_that_sees_what_the_robot_does_not_show_is_refused(config, new_policy, tmp_path):
    path = save_checkpoint(tmp_path / "other", new_policy("bc"), {})
    with pytest.raises(SpecMismatch):
        train_residual(replace(config, base=path))
