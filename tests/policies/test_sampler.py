"""A checkpoint can be sampled otherwise with the same weights; what training depends on cannot be changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from armature.cli import main
from armature.config import to_plain
from armature.errors import ConfigError
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from policies.checkpoint import load_policy, read_checkpoint, read_document, save_checkpoint
from policies.registry import METHODS, method_class
from policies.sampler import changes, resampled

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)


@pytest.fixture
def checkpoint(new_policy, tmp_path) -> Path:
    return save_checkpoint(tmp_path / "trained", new_policy("score", observations=VECTORS), {"command": "train"})


@pytest.mark.parametrize("family", METHODS)
def test_every_family_names_fields_that_it_has(family):
    made = method_class(family)
    plain = to_plain(made.Config())
    for name in made.sampling_fields:
        value = plain
        for part in name.split("."):
            value = value[part]


@pytest.mark.parametrize("family", [family for family in METHODS if method_class(family).sampling_fields])
def test_more_steps_have_the_same_weights_and_loss_and_make_other_chunks(new_policy, batch_of, family):
    torch.manual_seed(0)
    policy = new_policy(family, observations=VECTORS)
    for parameter in policy.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    policy.requires_grad_(False).eval()
    steps = "steps_max" if family == "ebt" else "sampling_steps"
    other = resampled(policy, replace(policy.method_config, **{steps: 2 + getattr(policy.method_config, steps)}))
    assert all(
        torch.equal(a, b) for a, b in zip(policy.state_dict().values(), other.state_dict().values(), strict=True)
    )
    batch, noise = batch_of(policy, 3), torch.randn(3, 8, 3)
    losses = [each.loss(batch, torch.Generator().manual_seed(0)) for each in (policy, other)]
    assert torch.equal(*losses)
    chunks = [each.sample(batch, noise, torch.Generator().manual_seed(0)).actions for each in (policy, other)]
    assert not torch.equal(*chunks)


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        (
            "hrdt",
            {"width": 64},
            "hrdt: width is more than sampling, it was trained so. Valid: sampling_steps, last_time",
        ),
        ("bc", {"network": "transformer"}, "bc: network is more than sampling, it was trained so. Valid: none"),
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


def test_a_copy_says_what_it_is_a_copy_of(checkpoint, tmp_path, capsys):
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
    first, second = (read_checkpoint(path)[1] for path in (checkpoint, out))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing would change. Valid: sampling_steps, guidance, edm.first_sigma"),
        (["--width", "64"], "score: width is more than sampling"),
        (["--edm.last-sigma", "0.0001"], "last_sigma 0.0001 must fall within"),
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


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["checkpoint", "--sampling-steps"], 2)])
def test_without_folders_it_says_how_it_is_called(arguments, code, capsys):
    assert main(["sampler", *arguments]) == code
    printed = capsys.readouterr()
    assert "armature sampler CHECKPOINT OUT" in printed.out + printed.err
