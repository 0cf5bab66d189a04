"""A checkpoint can be sampled otherwise with the same weights; what training depends on cannot be changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from armature.cli import main
from armature.errors import ConfigError
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from policies.checkpoint import WEIGHTS, load_policy, read_document, save_checkpoint
from policies.nets.denoisers import UnetConfig
from policies.registry import METHODS, method_class
from policies.sampler import changes, resampled

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)


@pytest.fixture
def checkpoint(new_policy, tmp_path) -> Path:
    return save_checkpoint(tmp_path / "trained", new_policy("score", observations=VECTORS), {"command": "train"})


OTHERWISE = {
    "diffusion": {"sampler": "dpm++", "sampling_steps": 5, "spacing": "trailing"},
    "score": {"sampling_steps": 5, "guidance": 2.0, "edm.first_sigma": 0.8, "edm.last_sigma": 0.1}
    | {"edm.schedule": "linear", "edm.rho": 7.0, "edm.sampler": "heun"},
    "mode": {"sampling_steps": 7, "cache_experts": False, "edm.first_sigma": 5.0, "edm.last_sigma": 0.05}
    | {"edm.schedule": "karras", "edm.rho": 7.0, "edm.sampler": "euler_ancestral"},
    "hrdt": {"sampling_steps": 2, "last_time": 0.9},
    "ebt": {"steps_max": 4, "min_gradient": 0.1, "candidates": 3},
    "bc": {},
}
SAME_CHUNKS = {"guidance", "edm.rho", "cache_experts", "min_gradient"}
"""Without a goal there is no guidance, without Karras' schedule no rho; the cache of experts is exact; what stops
at a small gradient takes one more step, here the last in any case."""
CASES = [(family, name, value) for family, changed in OTHERWISE.items() for name, value in changed.items()]


@pytest.mark.parametrize("family", METHODS)
def test_every_field_of_sampling_is_tried(family):
    assert set(OTHERWISE[family]) == set(method_class(family).sampling_fields)


@pytest.mark.parametrize(("family", "name", "value"), CASES)
def test_neither_weights_nor_loss_depend_on_a_field_of_sampling_and_chunks_do(
    new_policy, batch_of, family, name, value
):
    torch.manual_seed(0)
    policy = new_policy(family, observations=VECTORS)
    for parameter in policy.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    policy.requires_grad_(False).eval()
    other = resampled(policy, with_field(policy.method_config, name, value))
    before, after = policy.state_dict(), other.state_dict()
    assert all(torch.equal(before[each], after[each]) for each in before)
    batch, noise = batch_of(policy, 3), torch.randn(3, 8, 3)
    chunks = [each.sample(batch, noise, torch.Generator().manual_seed(0)).actions for each in (policy, other)]
    assert torch.allclose(*chunks, atol=1e-5) == (name in SAME_CHUNKS)
    losses = [each.train().loss(batch, torch.Generator().manual_seed(0)) for each in (policy, other)]
    assert torch.equal(*losses)


def with_field(method: Any, name: str, value: Any) -> Any:
    """Replace a field by its dotted name."""
    head, _, rest = name.partition(".")
    return replace(method, **{head: with_field(getattr(method, head), rest, value) if rest else value})


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        (
            "hrdt",
            {"width": 64},
            "hrdt: width is more than sampling, it was trained so. Valid: sampling_steps, last_time",
        ),
        (
            "bc",
            {"unet": UnetConfig(dims=(16, 32), kernel=7, groups=4, step_dim=16)},
            "bc: unet.kernel is more than sampling, it was trained so. Valid: none",
        ),
        ("diffusion", {"noise_draws": 9}, "diffusion: noise_draws is more than sampling"),
        ("hrdt", {"last_time": 1.5}, "last_time is 1.5"),
    ],
)
def test_what_was_trained_stays_so(new_policy, family, changed, message):
    policy = new_policy(family, observations=VECTORS)
    with pytest.raises(ConfigError, match=message):
        resampled(policy, replace(policy.method_config, **changed))


def test_levels_of_training_are_told_from_those_of_sampling(new_policy):
    policy = new_policy("score", observations=VECTORS)
    method = policy.method_config
    other = resampled(policy, replace(method, edm=replace(method.edm, last_sigma=0.1)))
    assert changes(method, other.method_config) == {"edm.last_sigma": (None, 0.1)}
    with pytest.raises(ConfigError, match=r"score: edm.sigma_max is more than sampling"):
        resampled(policy, replace(method, edm=replace(method.edm, sigma_max=2.0)))


@pytest.mark.parametrize("save_dtype", ["float32", "float16"])
def test_a_copy_has_the_same_weights_and_says_what_it_is_a_copy_of(new_policy, tmp_path, capsys, save_dtype):
    policy = new_policy("score", observations=VECTORS)
    checkpoint = save_checkpoint(tmp_path / "trained", policy, {"command": "train"}, save_dtype)
    out = tmp_path / "few"
    assert main(["sampler", str(checkpoint), str(out), "--sampling-steps", "2", "--edm.last-sigma", "0.1"]) == 0
    assert "few: sampling_steps 3 -> 2, edm.last_sigma None -> 0.1" in capsys.readouterr().err
    before, after = load_policy(checkpoint), load_policy(out)
    assert (after.method_config.sampling_steps, after.method_config.edm.last_sigma) == (2, 0.1)
    assert before.policy_id != after.policy_id
    assert after.policy_id.startswith(before.policy_id)
    told = {"sampling_steps": [3, 2], "edm.last_sigma": [None, 0.1]}
    provenance = {"command": "train", "sampler": {"of": before.policy_id, "changes": told}}
    assert read_document(out)["provenance"] == provenance
    assert (checkpoint / WEIGHTS).read_bytes() == (out / WEIGHTS).read_bytes()


def test_a_copy_of_a_copy_is_one_of_what_was_trained(checkpoint, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert main(["sampler", str(checkpoint), str(first), "--sampling-steps", "2"]) == 0
    assert main(["sampler", str(first), str(second), "--edm.last-sigma", "0.1"]) == 0
    trained = load_policy(checkpoint).policy_id
    changed = {"sampling_steps": [3, 2], "edm.last_sigma": [None, 0.1]}
    assert read_document(second)["provenance"]["sampler"] == {"of": trained, "changes": changed}
    assert main(["sampler", str(first), str(third), "--sampling-steps", "3"]) == 0
    assert load_policy(third).policy_id == trained
    assert read_document(third)["provenance"] == {"command": "train"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing would change. Valid: sampling_steps, guidance, edm.first_sigma"),
        (["--width", "64"], "score: width is more than sampling"),
        (["--edm.last-sigma", "0.0001"], "first_sigma 1.0 > last_sigma 0.0001 >= sigma_min 0.005"),
        (["--guidance", "inf"], "guidance is inf"),
    ],
)
def test_mistakes_write_nothing(checkpoint, tmp_path, capsys, options, message):
    assert main(["sampler", str(checkpoint), str(tmp_path / "new"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_is_never_overwritten(checkpoint, capsys):
    assert main(["sampler", str(checkpoint), str(checkpoint), "--sampling-steps", "2"]) == 2
    assert "exists: choose another folder" in capsys.readouterr().err
    assert load_policy(checkpoint).method_config.sampling_steps == 3


def test_it_says_how_it_is_called(capsys):
    assert main(["sampler", "--help"]) == 0
    said = capsys.readouterr().out
    assert "armature sampler CHECKPOINT OUT" in said
    assert "hrdt: sampling_steps, last_time" in said
    assert "bc: none" in said


@pytest.mark.parametrize("arguments", [[], ["checkpoint"], ["checkpoint", "--sampling-steps", "2"]])
def test_folders_come_first(arguments, capsys):
    assert main(["sampler", *arguments]) == 2
    said = f"needs CHECKPOINT and OUT first, then options; got {' '.join(arguments) or 'nothing'}"
    assert said in capsys.readouterr().err
