from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from armature.alignment import AlignmentConfig
from armature.cli import main as armature
from armature.config import from_plain, to_plain
from armature.errors import CheckpointError, ConfigError, DatasetError, SpecMismatch
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from armature.testing import check_policy
from data_collection.sampling import OutcomeWeights, SamplingConfig
from data_collection.windows import Windows
from policies.checkpoint import load_policy, read_document
from policies.dataset_torch import WindowTensors, batch_indices
from policies.policy_config import RelativePart
from policies.presets.catalog import PRESETS
from policies.train import load_data, parse_arguments, train
from policies.train_config import TrainConfig
from policies.train_validation import validate
from policies.training_state import OptimizerConfig, ema_decay, learning_rate


def weights_of(run):
    return (run / "checkpoint" / "weights.safetensors").read_bytes()


def training_of(run):
    return read_document(run / "checkpoint")["provenance"]["training"]


def losses_of(run):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}


def test_training_makes_a_policy_and_says_where_it_comes_from(train_config):
    path = train(train_config, command="armature train --steps 20")
    check_policy(load_policy(path))
    provenance = read_document(path)["provenance"]
    assert provenance["command"] == "armature train --steps 20"
    assert len(provenance["dataset_fingerprint"]) == 16
    assert set(provenance["versions"]) == {"python", "torch", "diffusers", "safetensors", "numpy"}
    training = provenance["training"]
    assert (training["steps"], training["episodes"], training["validation_episodes"]) == (20, 3, 1)
    assert math.isfinite(training["validation_loss"])
    assert training["config"] == to_plain(train_config)
    assert list(losses_of(train_config.out)) == list(range(1, 21))


@pytest.mark.parametrize(
    ("denoiser", "steps", "stop"),
    [pytest.param("unet", 200, 100, marks=pytest.mark.slow), ("unet", 12, 5), ("transformer", 12, 5)],
)
def test_stopping_and_resuming_equals_training_through(train_config, tmp_path, denoiser, steps, stop):
    policy = replace(train_config.policy, relative_actions=True, vector_noise=0.1)
    method = replace(train_config.method, denoiser=denoiser)
    through = replace(train_config, policy=policy, method=method, steps=steps, out=tmp_path / "through")
    parts = replace(through, out=tmp_path / "parts")
    train(through)
    train(replace(parts, stop_at_step=stop))
    assert training_of(parts.out)["steps"] == stop
    train(replace(parts, resume=True))
    assert weights_of(parts.out) == weights_of(through.out)
    assert losses_of(parts.out) == losses_of(through.out)
    assert training_of(parts.out)["validation_loss"] == training_of(through.out)["validation_loss"]


def test_mapped_training_equals_training_in_memory(train_config, tmp_path):
    memory = replace(train_config, out=tmp_path / "memory")
    mapped = replace(train_config, out=tmp_path / "mapped", windows="mapped", cache=tmp_path / "caches")
    train(memory)
    train(replace(memory, out=mapped.out, stop_at_step=7))
    train(replace(mapped, resume=True))
    assert weights_of(mapped.out) == weights_of(memory.out)
    assert len(list((tmp_path / "caches").iterdir())) == 1


def test_weighted_training_resumes_exactly_and_differs_from_uniform(train_config, record, tmp_path):
    sampling = SamplingConfig("outcome", OutcomeWeights(success=1.0, failure=0.0))
    config = replace(train_config, dataset=record([9, 8, 7], [True, False, True]), episodes="all", steps=8)
    weighted = replace(config, sampling=sampling, out=tmp_path / "through")
    parts = replace(weighted, out=tmp_path / "parts")
    train(weighted)
    train(replace(parts, stop_at_step=3))
    train(replace(parts, resume=True))
    train(replace(config, out=tmp_path / "uniform"))
    assert weights_of(parts.out) == weights_of(weighted.out) != weights_of(tmp_path / "uniform")
    with pytest.raises(ConfigError, match=r"--resume: sampling\.mode is uniform, the training began with outcome"):
        train(replace(parts, resume=True, sampling=SamplingConfig()))


def test_failed_and_incomplete_episodes_are_learned_from_only_when_told_to(train_config, record):
    path = record([9, 8, 7, 6], [True, False, None, "incomplete"])
    chosen = load_data(replace(train_config, dataset=path))[1].summary
    assert (chosen["episodes"] + chosen["validation_episodes"], chosen["outcomes"]) == (2, {"success": 1, "unknown": 1})
    every = load_data(replace(train_config, dataset=path, episodes="all"))[1].summary
    assert every["outcomes"] == {"success": 1, "failure": 1, "unknown": 1, "incomplete": 1}


def test_a_state_from_before_an_option_existed_had_its_default(train_config, monkeypatch):
    new = ("alignment", "sampling", "windows", "cache")
    with monkeypatch.context() as before:
        before.setattr("policies.train.to_plain", lambda c: {n: v for n, v in to_plain(c).items() if n not in new})
        train(replace(train_config, stop_at_step=1))
    train(replace(train_config, resume=True, stop_at_step=2))
    with pytest.raises(ConfigError, match=r"--resume: alignment\.max_age_s is 0\.5, the training began with 1\.0"):
        train(replace(train_config, resume=True, alignment=AlignmentConfig(max_age_s=0.5)))


def test_a_cache_without_mapping_is_refused(train_config, tmp_path):
    with pytest.raises(ConfigError, match="add --windows mapped"):
        train(replace(train_config, cache=tmp_path))


def test_alignment_and_sampling_are_read_from_the_command_line(tmp_path):
    arguments = ["--dataset", "d", "--out", str(tmp_path), "--preset", "diffusion_tiny"]
    arguments += ["--windows", "mapped", "--cache", "c", "--alignment.hold", "gripper/opening"]
    arguments += ["--alignment.max-ages-s", "camera/scene", "0.1"]
    arguments += ["--sampling.mode", "advantage", "--sampling.top-k", "5", "--sampling.outcome.failure", "0"]
    config = parse_arguments(arguments)
    assert config.alignment == AlignmentConfig(hold=("gripper/opening",), max_ages_s={"camera/scene": 0.1})
    assert config.sampling == SamplingConfig("advantage", OutcomeWeights(failure=0.0), top_k=5)
    assert (config.windows, config.cache) == ("mapped", Path("c"))
    assert from_plain(TrainConfig, to_plain(config)) == config


def test_interrupted_training_resumes(train_config, tmp_path):
    interrupted = replace(train_config, steps=100_000)
    options = ["--dataset", str(train_config.dataset), "--out", str(train_config.out), "--preset", "diffusion_tiny"]
    command = [sys.executable, "-m", "armature.cli", "train", *options, "--steps", "100000", "--threads", "1"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as process:
        while not list(train_config.out.glob("tensorboard/*")) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    done = training_of(train_config.out)["steps"]
    assert 0 < done < 100_000
    train(replace(interrupted, resume=True, stop_at_step=done + 2))
    assert training_of(train_config.out)["steps"] == done + 2


@pytest.mark.parametrize("saved_before", [True, False], ids=["an older checkpoint", "no checkpoint"])
def test_a_training_that_ended_before_its_checkpoint_was_written_writes_it(
    train_config, tmp_path, monkeypatch, saved_before
):
    through = replace(train_config, steps=4, out=tmp_path / "through", save_every_steps=2 if saved_before else 4)
    parts = replace(through, out=tmp_path / "parts")
    train(through)
    if saved_before:
        train(replace(parts, stop_at_step=2))

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("policies.train.save_checkpoint", full)
        with pytest.raises(OSError, match="no space left"):
            train(replace(parts, resume=saved_before))
    assert (parts.out / "checkpoint").exists() == saved_before
    train(replace(parts, resume=True))
    assert weights_of(parts.out) == weights_of(through.out)
    assert training_of(parts.out)["validation_loss"] == training_of(through.out)["validation_loss"]


def test_the_length_of_a_training_is_not_changed_when_it_is_resumed(train_config):
    """The learning rate falls to zero at its end."""
    train(replace(train_config, stop_at_step=1))
    with pytest.raises(ConfigError, match="--resume: steps is 8, the training began with 20"):
        train(replace(train_config, resume=True, steps=8))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 0.0}, "optimizer.learning_rate is 0.0, must be above 0 and finite"),
        ({"gradient_clip": -1.0}, "optimizer.gradient_clip is -1.0, must be above 0 and finite"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1, must be 0 or more"),
        ({"ema_power": -1.0}, "optimizer.ema_power is -1.0, must be 0 or more"),
        ({"ema_max": 1.0}, r"optimizer.ema_max is 1.0, must be in \[0, 1\)"),
        ({"betas": (0.9, 1.0)}, r"optimizer.betas is \(0.9, 1.0\), must be in \[0, 1\)"),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        OptimizerConfig(**changes)


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("threads", 0), ("stop_at_step", 0), ("steps", 0)])
def test_a_number_that_cannot_be_is_named_before_anything_is_read(train_config, name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value}, must be at least {value + 1}"):
        train(replace(train_config, **{name: value}))
    assert not train_config.out.exists()


def test_a_run_is_not_overwritten_without_resume(train_config):
    train(replace(train_config, stop_at_step=1))
    with pytest.raises(ConfigError, match="--resume"):
        train(train_config)


def test_resuming_with_other_settings_is_refused_by_name(train_config, record):
    train(replace(train_config, stop_at_step=1))
    resumed = replace(train_config, resume=True)
    with pytest.raises(ConfigError, match="batch_size is 4, the training began with 8"):
        train(replace(resumed, batch_size=4))
    method = replace(train_config.method, unet=replace(train_config.method.unet, kernel=5))
    with pytest.raises(ConfigError, match=r"--resume: method\.unet\.kernel is 5, the training began with 3$"):
        train(replace(resumed, method=method))
    with pytest.raises(ConfigError, match="fingerprint"):
        train(replace(resumed, dataset=record([9, 9, 9, 9])))


def test_resuming_nothing_or_damage_is_refused(train_config):
    with pytest.raises(CheckpointError, match="training_state: there is no such folder"):
        train(replace(train_config, resume=True))
    train(replace(train_config, stop_at_step=1))
    file = train_config.out / "training_state" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        train(replace(train_config, resume=True))


def test_horizons_longer_than_some_episodes_are_padded(train_config, record):
    policy = replace(train_config.policy, chunk_steps=16, obs_steps=4)
    config = replace(train_config, dataset=record([16, 2]), policy=policy, steps=2)
    policy = load_policy(train(config))
    training = training_of(config.out)
    assert (training["windows"], training["episodes"], training["validation_episodes"]) == (2, 1, 1)
    window = load_data(config)[1].train.batch(torch.tensor([1]))
    noise = torch.randn(window["action"].shape, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(policy.sample(window, noise).actions).all()


def test_a_chunk_longer_than_every_episode_is_refused(train_config, record):
    policy = replace(train_config.policy, chunk_steps=16)
    with pytest.raises(
        ConfigError, match=r"policy.chunk_steps is 16, but the longest episode of .*recorded has 15 steps"
    ):
        train(replace(train_config, dataset=record([15, 3]), policy=policy))


def test_what_is_measured_on_held_out_windows_is_their_mean_whatever_the_batch_size(record, tmp_path):
    config = PRESETS["bc_tiny"](record([7, 9, 11, 13]), tmp_path / "run")
    config = replace(config, steps=2, validation_fraction=0.5)
    policy, data = load_policy(train(config)), load_data(config)[1].validation
    one_by_one, in_fours = (validate(policy, data, replace(config, batch_size=size)) for size in (1, 4))
    assert len(data) % 4
    assert in_fours == pytest.approx(one_by_one, rel=1e-5)


def test_one_episode_trains_without_validation_and_says_so(train_config, record, capsys):
    train(replace(train_config, dataset=record([9]), steps=2))
    assert "validation_loss" not in training_of(train_config.out)
    assert "one episode to learn from, so none is left to validate on" in capsys.readouterr().err


@pytest.mark.parametrize("windows", ["memory", "mapped"])
@pytest.mark.parametrize(("stream", "value"), [(JOINT_POSITION, np.nan), ("action/executed", 1e300)])
def test_numbers_that_are_not_finite_are_named_before_any_step(train_config, record, windows, stream, value):
    path = record([9, 8, 9, 9], spoil=(stream, 2, 3, value))
    with pytest.raises(DatasetError, match=f"recorded: episode 2, {stream}, row 3: not finite"):
        train(replace(train_config, dataset=path, windows=windows))
    assert not train_config.out.exists()


def test_datasets_without_use_are_refused(train_config, record, tmp_path):
    with pytest.raises(DatasetError, match="there is no dataset here"):
        train(replace(train_config, dataset=tmp_path / "nothing"))
    with pytest.raises(DatasetError, match="has 2 episodes, none to learn from"):
        train(replace(train_config, dataset=record([4, 4], success=False)))


def test_an_empty_dataset_is_refused(train_config, record):
    with pytest.raises(DatasetError, match="has 0 episodes"):
        train(replace(train_config, dataset=record([])))


def test_an_observation_that_the_dataset_lacks_is_named(train_config):
    policy = replace(train_config.policy, observations=("object/pose",))
    with pytest.raises(SpecMismatch, match="unknown observation 'object/pose'"):
        train(replace(train_config, policy=policy))


def test_command_line_overrides_the_preset(tmp_path):
    arguments = ["--dataset", "d", "--out", str(tmp_path), "--preset", "lift_state", "--method.denoiser", "transformer"]
    config = parse_arguments([*arguments, "--steps", "7", "--method.unet.dims", "8", "16"])
    default = PRESETS["lift_state"](config.dataset, config.out)
    expected = replace(default.method, denoiser="transformer", unet=replace(default.method.unet, dims=(8, 16)))
    assert config == replace(default, steps=7, method=expected)


def test_no_arguments_at_all_end_with_exit_code_2():
    with pytest.raises(SystemExit) as ended:
        parse_arguments([])
    assert ended.value.code == 2


def test_a_file_is_no_folder_to_train_in(train_config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is a file: choose another --out"):
        train(replace(train_config, out=tmp_path / "file"))


@pytest.mark.parametrize("arguments", [["--stepz", "3"], ["--method.denoiser", "unett"], ["--steps", "many"], []])
def test_wrong_arguments_end_with_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        armature(["train", "--dataset", "d", *arguments])
    assert stopped.value.code == 2
    capsys.readouterr()


def test_an_unknown_preset_names_the_known(capsys):
    assert armature(["train", "--preset", "lift_pixel"]) == 2
    assert "unknown preset 'lift_pixel'. Did you mean" in capsys.readouterr().err


def test_presets_fit_their_own_name(tmp_path):
    assert {name: make(tmp_path, tmp_path).preset for name, make in PRESETS.items()} == {n: n for n in PRESETS}
    assert isinstance(PRESETS["diffusion_tiny"](tmp_path, tmp_path), TrainConfig)


def test_every_window_is_seen_once_an_epoch_in_an_order_of_its_own():
    def epoch(number):
        return np.concatenate([batch_indices(step, 2, 6, seed=1) for step in range(3 * number, 3 * number + 3)])

    assert sorted(epoch(0)) == sorted(epoch(1)) == list(range(6))
    assert not np.array_equal(epoch(0), epoch(1))
    weighted = [batch_indices(step, 64, 6, seed=1, cumulative=np.cumsum([0, 1, 0, 3, 0, 0])) for step in (4, 4, 5)]
    assert set(weighted[0].tolist()) == {1, 3}
    assert torch.equal(weighted[0], weighted[1])
    assert not torch.equal(weighted[0], weighted[2])
    straddling = torch.cat([batch_indices(step, 2, 5, seed=1) for step in range(5)])
    assert sorted(straddling[:5].tolist()) == sorted(straddling[5:].tolist()) == list(range(5))
    assert len(batch_indices(0, 7, 3, seed=0)) == 7


def test_window_tensors_gather_like_the_windows_and_make_actions_relative():
    rng = np.random.default_rng(0)
    sizes = {JOINT_POSITION: 2, "action": 3}
    episodes = [{name: rng.normal(size=(n, d)).astype(np.float32) for name, d in sizes.items()} for n in (4, 3)]
    windows = Windows(iter(episodes), obs_steps=2, chunk_steps=3)
    chosen = np.array([5, 0, 3])
    expected = windows.batch(chosen)
    absolute = WindowTensors(windows, None).batch(torch.from_numpy(chosen))
    for name, value in expected.items():
        assert np.array_equal(absolute[name].numpy(), value)
    tensors = WindowTensors(windows, RelativePart(JOINT_POSITION, slice(0, 2)))
    relative = tensors.batch(torch.from_numpy(chosen))["action"].numpy()
    reference = expected[JOINT_POSITION][:, -1:]
    np.testing.assert_allclose(relative[..., :2], expected["action"][..., :2] - reference, atol=1e-6)
    np.testing.assert_allclose(relative[..., 2], expected["action"][..., 2])


def test_statistics_are_those_of_the_relative_windows(spec):
    joint = np.array([[0, 0], [1, 10], [2, 20]], np.float32)
    gripper = np.zeros((3, 1), np.float32)
    action = np.concatenate([joint + 1, gripper], axis=1)
    episode = {JOINT_POSITION: joint, GRIPPER_OPENING: gripper, "action": action}
    tensors = WindowTensors(Windows([episode], obs_steps=1, chunk_steps=2), RelativePart(JOINT_POSITION, slice(0, 2)))
    stats = tensors.normalizer(spec.select((JOINT_POSITION, GRIPPER_OPENING))).fields
    assert set(stats) == {JOINT_POSITION, GRIPPER_OPENING, "action"}
    assert (stats["action"].minimum, stats["action"].maximum) == ((1.0, 1.0, 0.0), (2.0, 11.0, 0.0))
    assert stats[JOINT_POSITION].maximum == (2.0, 20.0)


def test_learning_rate_rises_then_falls_to_zero():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(step, 12, config) for step in (0, 3, 4, 8, 12)] == pytest.approx([0.25, 1.0, 1.0, 0.5, 0.0])


def test_average_is_young_first_and_long_at_last():
    config = OptimizerConfig(ema_power=0.75, ema_max=0.99)
    assert [ema_decay(step, config) for step in (0, 15, 100_000)] == pytest.approx([0.0, 0.875, 0.99])


def test_state_is_json_and_tensors_only(train_config):
    train(replace(train_config, stop_at_step=1))
    files = sorted(p.name for p in (train_config.out / "training_state").iterdir())
    assert files == ["state.json", "state.safetensors"]
    assert json.loads((train_config.out / "training_state" / "state.json").read_text())["step"] == 1


def test_what_cannot_be_compiled_is_refused_before_anything_is_written(train_config, monkeypatch):
    with pytest.raises(ConfigError, match=r"compiled: nothing of diffusion .* families: ebt"):
        train(replace(train_config, compiled=True))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"compiled: the C\+\+ compiler no-such-compiler is not there"):
        train(replace(train_config, compiled=True))
    assert not train_config.out.exists()
