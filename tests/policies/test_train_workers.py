"""Parts of a batch, processes and precision: what is equal, and who writes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from armature.errors import ConfigError
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from policies.checkpoint import read_document
from policies.train import train
from policies.train_workers import Workers
from policies.training_state import OptimizerConfig, TrainingState

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)


def weights_of(run):
    return load_file(run / "checkpoint" / "weights.safetensors")


def assert_close(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=lambda m, name=name: f"{name}: {m}", **tolerance)


def without_draws(policy):
    """Make the loss a mean over the windows that draws nothing."""

    def loss(actions, context, _generator):
        step = torch.zeros(len(actions), dtype=torch.int64)
        return (policy.method.denoiser(actions, step, context.features) - actions).square().mean()

    policy.method.loss = loss
    return policy


def test_parts_of_a_batch_learn_what_the_whole_batch_does_where_nothing_is_drawn(new_policy, batch_of):
    trained = []
    for accumulate_steps in (1, 4):
        policy = without_draws(new_policy(observations=VECTORS))
        state = TrainingState(policy, OptimizerConfig(1e-3), Workers(accumulate_steps=accumulate_steps))
        losses = [state.update(batch_of(policy, 8, seed=k), seed=0, steps=10) for k in range(3)]
        trained.append((losses, dict(policy.named_parameters())))
    assert trained[0][0] == pytest.approx(trained[1][0], rel=1e-4)
    assert_close(trained[0][1], trained[1][1], rtol=1e-3, atol=1e-4)


def test_every_part_has_draws_of_its_own_and_the_first_those_of_an_undivided_batch(new_policy, batch_of):
    policy, drawn = new_policy(observations=VECTORS), []

    def loss(actions, _context, generator):
        drawn.append(torch.rand(1, generator=generator).item())
        return actions.mean() * sum(p.sum() for p in policy.parameters())

    policy.method.loss = loss
    for accumulate_steps in (1, 2):
        state = TrainingState(policy, OptimizerConfig(), Workers(accumulate_steps=accumulate_steps))
        state.update(batch_of(policy, 2), seed=0, steps=10)
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_in_two_parts_and_only_the_first_writes(train_config, tmp_path):
    parts = replace(train_config, steps=4, accumulate_steps=2, out=tmp_path / "parts", validate_every_steps=2)
    train(parts)
    out = tmp_path / "processes"
    options = ["--dataset", str(train_config.dataset), "--out", str(out), "--preset", "diffusion_tiny", "--steps", "4"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "armature.cli", "train", *options, "--validate-every-steps", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("checkpoint: ") == 1
    assert_close(weights_of(out), weights_of(parts.out), rtol=1e-3, atol=1e-5)
    assert len(list((out / "tensorboard").iterdir())) == 1
    found, expected = (read_document(run / "checkpoint")["provenance"]["training"] for run in (out, parts.out))
    assert (found["processes"], expected["processes"]) == (2, 1)
    for name in ("loss", "validation_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    # One process goes on with what two began, as long as the parts are as many.
    resumed = replace(parts, out=out, resume=True, stop_at_step=4)
    assert train(resumed) == out / "checkpoint"
    with pytest.raises(ConfigError, match="--resume: accumulate_steps is 1, the training began with 2"):
        train(replace(resumed, accumulate_steps=1))


def test_training_in_parts_resumes_exactly(train_config, tmp_path):
    through = replace(train_config, steps=4, accumulate_steps=2, out=tmp_path / "through")
    stopped = replace(through, out=tmp_path / "stopped")
    train(through)
    train(replace(stopped, stop_at_step=2))
    train(replace(stopped, resume=True))
    assert_close(weights_of(stopped.out), weights_of(through.out), rtol=0, atol=0)


def test_bf16_computes_with_less_precision_and_keeps_float32_weights(new_policy, batch_of):
    losses, products = [], []
    for precision in ("float32", "bf16"):
        policy = new_policy()
        layer = next(module for module in policy.method.modules() if isinstance(module, torch.nn.Conv1d))
        layer.register_forward_hook(lambda _module, _inputs, output: products.append(output.dtype))
        state = TrainingState(policy, OptimizerConfig(), Workers(precision=precision))
        losses.append(state.update(batch_of(policy, 4), seed=0, steps=10))
        assert {p.dtype for p in [*policy.parameters(), *state.average.parameters()]} == {torch.float32}
    assert products == [torch.float32, torch.bfloat16]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_batch_that_does_not_divide_into_parts_is_refused(train_config):
    with pytest.raises(ConfigError, match="batch_size is 8: must be a multiple of 3, 1 processes times 3"):
        train(replace(train_config, accumulate_steps=3))
