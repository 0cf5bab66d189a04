"""A loss or gradient that is no number: the training stops, and what did it can be looked at."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from armature.config import to_plain
from armature.errors import InvalidValue
from policies.dataset_torch import batch_indices
from policies.train import load_data, train
from policies.train_not_finite import main, replay, write_not_finite
from policies.train_workers import open_workers
from policies.training_state import NotFinite, OptimizerConfig, TrainingState


@pytest.fixture
def stopped(train_config):
    """Return the config and the message of a training that a huge learning rate has stopped."""
    config = replace(train_config, optimizer=OptimizerConfig(learning_rate=1e30, warmup_steps=0), accumulate_steps=2)
    with pytest.raises(InvalidValue) as error:
        train(config)
    return config, str(error.value)


def test_it_stops_with_one_message_that_names_step_and_folder(stopped):
    config, message = stopped
    assert message.startswith(("training loss is ", "training gradient norm is "))
    assert " at step 1; the weights were left as they were" in message
    assert f"python -m policies.train_not_finite {config.out / 'not_finite'}" in message
    assert "optimizer.learning_rate (1e+30)" in message
    assert not (config.out / "checkpoint").exists()


def test_the_folder_holds_the_batch_the_weights_and_their_norms(stopped):
    config, _ = stopped
    folder = config.out / "not_finite"
    assert sorted(file.name for file in folder.iterdir()) == ["report.json", "tensors.safetensors"]
    report, tensors = json.loads((folder / "report.json").read_text()), load_file(folder / "tensors.safetensors")
    assert (report["step"], report["seed"], report["parts"]) == (1, config.seed, 2)
    assert report["config"]["batch_size"] == config.batch_size
    data = load_data(config)[1].train
    expected = data.batch(batch_indices(1, config.batch_size, len(data), config.seed))
    assert expected.keys() == {name.removeprefix("batch.") for name in tensors if name.startswith("batch.")}
    for name, value in expected.items():
        assert torch.equal(tensors[f"batch.{name}"], value)
    for name, norm in report["parameter_norms"].items():
        found = tensors[f"policy.{name}"].norm().item()
        assert norm == pytest.approx(found) or norm == str(found)


def test_the_step_is_computed_again_and_the_first_bad_module_named(stopped, capsys):
    config, _ = stopped
    folder = config.out / "not_finite"
    lines = replay(folder)
    assert lines[0].startswith("step 1: training ")
    assert sum("first not finite in the output of " in line for line in lines) == 2
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert main([str(folder.parent)]) == 2
    assert "report.json" in capsys.readouterr().err


def test_the_norm_is_that_which_the_training_saw_of_all_parts(new_policy, batch_of, tmp_path, train_config):
    with open_workers("cpu", "float32", 2) as workers:
        state = TrainingState(new_policy(), OptimizerConfig(gradient_clip=1e9), workers)
        batch = batch_of(state.policy, 4)
        write_not_finite(tmp_path / "step", NotFinite("loss", math.nan, 0), state, batch, to_plain(train_config))
        state.update(batch, train_config.seed, steps=10)
        gradients = [parameter.grad for parameter in state.policy.parameters() if parameter.grad is not None]
    seen = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    told = next(line for line in replay(tmp_path / "step") if line.startswith("gradient norm"))
    assert float(told.split()[2].rstrip(",")) == pytest.approx(seen, rel=1e-4)


def test_a_weight_that_is_not_finite_is_named_with_the_parameter(new_policy, batch_of, tmp_path, train_config):
    policy = new_policy()
    name, parameter = list(policy.named_parameters())[-1]
    with torch.no_grad():
        parameter.view(-1)[0] = float("nan")
    state, batch = TrainingState(policy, OptimizerConfig()), batch_of(policy, 4)
    with pytest.raises(NotFinite, match="training loss is nan at step 0") as error:
        state.update(batch, seed=0, steps=10)
    write_not_finite(tmp_path / "not_finite", error.value, state, batch, to_plain(train_config))
    assert f"weight {name} is not finite" in replay(tmp_path / "not_finite")
