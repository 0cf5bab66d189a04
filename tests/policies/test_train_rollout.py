"""The checkpoint with the most successes in simulation is kept beside the last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from armature.control.chunk_scheduler import SchedulerConfig
from armature.errors import ConfigError, SpecMismatch
from armature.spec import AGENT_POSITION, OBJECT_KEYPOINTS, OBJECT_POSE
from data_collection.store import create_dataset
from policies.checkpoint import read_document
from policies.language import TextConfig
from policies.presets.catalog import PRESETS
from policies.train import train
from policies.train_config import RolloutConfig
from sim import evaluate
from sim.intervals import wilson_interval
from sim.tasks import SimConfig, robot_spec

ROLLOUT = RolloutConfig(every_steps=1, task="pusht", episodes=2, horizon_steps=3)


@pytest.fixture
def pusht_config(train_config, tmp_path):
    """Return a tiny training on Push-T from its state, with an evaluation after every step."""
    rng = np.random.default_rng(0)
    with create_dataset(tmp_path / "pusht", robot_spec(SimConfig("pusht", cameras=False)), "pusht").writer() as writer:
        for prompt in ("push", "push it", "push"):
            episode = writer.begin({"prompt": prompt})
            stamps = np.arange(12, dtype=np.int64) * 100_000_000
            for stream, size in ((AGENT_POSITION, 2), (OBJECT_POSE, 3), (OBJECT_KEYPOINTS, 18)):
                episode.append(stream, stamps, stamps, rng.uniform(0, 512, (12, size)).astype(np.float32))
            action = rng.uniform(0, 512, (12, 2))
            for stream in ("action/executed", "action/requested"):
                episode.append(stream, stamps, stamps, action)
            episode.end({"success": True})
    policy = replace(train_config.policy, observations=())
    return replace(train_config, dataset=tmp_path / "pusht", policy=policy, steps=4, rollout=ROLLOUT)


@pytest.fixture
def successes(monkeypatch):
    """Let the evaluation after step k have successes[k] of 4, in place of the simulator."""
    wanted = {1: 1, 2: 3, 3: 3, 4: 2}

    def measure(policy, config, workers):
        measured.append(len(measured) + first[0])
        k = wanted[measured[-1]]
        low, high = wilson_interval(k, 4)
        return {"k": k, "n": 4, "rate": k / 4, "low": low, "high": high}

    first, measured = [1], []
    monkeypatch.setattr("policies.train.measure_success", measure)
    return first, measured


def training_of(folder):
    return read_document(folder)["provenance"]["training"]


def scalars(run, name):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {event.step: pytest.approx(event.value, abs=1e-6) for event in events.Scalars(name)}


def test_success_is_measured_in_the_simulator_and_logged_with_its_interval(pusht_config, capsys):
    config = replace(pusht_config, rollout=replace(ROLLOUT, every_steps=3))
    train(config)
    low, high = wilson_interval(0, 2)
    expected = {"step": 4, "k": 0, "n": 2, "rate": 0.0, "low": low, "high": high}
    assert training_of(config.out / "checkpoint")["rollout"] == expected
    assert training_of(config.out / "best")["steps"] == 4
    assert scalars(config.out, "rollout/high") == {3: high, 4: high}
    assert "step 3: pusht succeeded in 0/2 episodes (95 % interval 0.000 to 0.658)" in capsys.readouterr().err


def test_the_best_is_kept_and_of_equals_the_later(pusht_config, successes):
    train(pusht_config)
    best = training_of(pusht_config.out / "best")
    assert (best["steps"], best["rollout"]["k"]) == (3, 3)
    assert training_of(pusht_config.out / "checkpoint")["steps"] == 4


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_the_best_of_a_resumed_training_is_that_of_one_in_one_go(pusht_config, successes, tmp_path, stop):
    first, measured = successes
    through = replace(pusht_config, out=tmp_path / "through")
    train(through)
    measured.clear()
    train(replace(pusht_config, stop_at_step=stop))
    first[0] = stop + 1
    measured.clear()
    train(replace(pusht_config, resume=True))
    for folder in ("best", "checkpoint"):
        files = [run.out / folder / "weights.safetensors" for run in (through, pusht_config)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_training_with_evaluations_learns_the_same(pusht_config, tmp_path):
    plain = replace(pusht_config, rollout=RolloutConfig(), out=tmp_path / "plain")
    train(plain)
    train(pusht_config)
    files = [run.out / "checkpoint" / "weights.safetensors" for run in (plain, pusht_config)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (plain.out / "best").exists()


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ConfigError, "unknown task 'push'. Did you mean 'pusht'", {"task": "push"}),
        (SpecMismatch, "rollout.task 'lift'", {"task": "lift"}),
        (ConfigError, "horizon_steps: 0", {"horizon_steps": 0}),
    ],
)
def test_a_task_that_does_not_fit_is_refused_before_any_step(pusht_config, error, message, changes):
    with pytest.raises(error, match=message):
        train(replace(pusht_config, rollout=replace(ROLLOUT, **changes)))
    assert not pusht_config.out.exists()


def test_goals_that_no_episode_gives_are_refused_before_any_step(pusht_config):
    policy, method = replace(pusht_config.policy, goal_steps=1), PRESETS["score_tiny"](Path(), Path()).method
    with pytest.raises(ConfigError, match=r"policy\.goal_steps is 1, rollout\.every_steps 1"):
        train(replace(pusht_config, policy=policy, method=method))
    assert not pusht_config.out.exists()


def test_a_scheduler_that_the_family_cannot_follow_is_refused_before_any_step(pusht_config):
    rollout = replace(ROLLOUT, scheduler=SchedulerConfig("real_time_chunking", 4))
    with pytest.raises(ConfigError, match=r"family bc cannot go on from committed actions\. Valid: diffusion"):
        train(replace(pusht_config, method=PRESETS["bc_tiny"](Path(), Path()).method, rollout=rollout))
    assert not pusht_config.out.exists()


@pytest.mark.parametrize("fails_at", [2, 4])
def test_an_evaluation_that_raises_loses_nothing_and_is_made_up_for(pusht_config, monkeypatch, tmp_path, fails_at):
    wanted, broken = {1: 1, 2: 3, 3: 2, 4: 3}, [True]

    def measure(policy, config, workers):
        step = measured.append(1) or len(measured)
        if broken[0] and step == fails_at:
            raise RuntimeError("the simulator is gone")
        return {"k": wanted[step], "n": 4, "rate": wanted[step] / 4, "low": 0.0, "high": 1.0}

    measured, config = [], replace(pusht_config, save_every_steps=2)
    monkeypatch.setattr("policies.train.measure_success", measure)
    with pytest.raises(RuntimeError, match="the simulator is gone"):
        train(config)
    assert training_of(config.out / "checkpoint")["steps"] == fails_at
    broken[0], measured[:] = False, [1] * (fails_at - 1)
    train(replace(config, resume=True))
    assert len(measured) == 4
    measured.clear()
    through = replace(config, out=tmp_path / "through")
    train(through)
    for folder in ("best", "checkpoint"):
        runs = [training_of(run.out / folder) for run in (config, through)]
        assert runs[0]["rollout"] == runs[1]["rollout"]
        files = [run.out / folder / "weights.safetensors" for run in (config, through)]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", ["every_steps", "episodes", "seed"])
def test_wrong_numbers_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"rollout.{name} is -1, must be at least"):
        RolloutConfig(**{name: -1})


def test_a_prompt_for_a_policy_that_takes_none_is_refused(pusht_config):
    with pytest.raises(ConfigError, match=r"rollout\.prompt 'push': the policy takes none"):
        train(replace(pusht_config, rollout=replace(ROLLOUT, prompt="push")))


def test_a_policy_that_takes_prompts_is_told_one_while_it_is_evaluated(pusht_config, pretrained_folder, monkeypatch):
    text = TextConfig(str(pretrained_folder("t5")), 8)
    policy, method = replace(pusht_config.policy, text=text), PRESETS["hrdt_tiny"](Path(), Path()).method
    config = replace(pusht_config, policy=policy, method=method, steps=2, validate_every_steps=1)
    for prompt in ("", "pull"):
        with pytest.raises(ConfigError, match=rf"unknown rollout\.prompt '{prompt}'.* Valid: push, push it"):
            train(replace(config, rollout=replace(ROLLOUT, prompt=prompt)))
    assert not config.out.exists()
    told, run = [], evaluate.run_episodes
    monkeypatch.setattr(evaluate, "run_episodes", lambda policy, *a: told.append(policy.prompts) or run(policy, *a))
    train(replace(config, rollout=replace(ROLLOUT, prompt="push it")))
    assert told == [("push it",)] * 2
    assert np.isfinite(training_of(config.out / "checkpoint")["validation_loss"])
