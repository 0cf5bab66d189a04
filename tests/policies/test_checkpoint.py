from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from armature.cli import main as armature
from armature.errors import CheckpointError, ConfigError, InvalidValue, MissingStatistics
from armature.policy import Policy
from armature.testing import random_observation
from policies.checkpoint import load_policy, read_document, save_checkpoint
from policies.registry import method_class


@pytest.fixture
def saved(new_policy, tmp_path):
    return save_checkpoint(tmp_path / "checkpoint", new_policy(), {"command": "armature train"})


def chunk_of(policy):
    policy.reset(3)
    return policy.infer(random_observation(policy.spec, policy.obs_steps, np.random.default_rng(0), 0)).actions


def rewrite(path, change):
    """Change policy.json as somebody would who knows how to sign it."""
    document = json.loads((path / "policy.json").read_text())
    change(document)
    rest = {key: value for key, value in document.items() if key != "sha256"}
    document["sha256"]["policy.json"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    document["sha256"]["weights.safetensors"] = hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest()
    (path / "policy.json").write_text(json.dumps(document))


def test_a_loaded_policy_gives_the_same_chunks(new_policy, saved):
    policy = load_policy(saved)
    assert isinstance(policy, Policy)
    assert np.array_equal(chunk_of(policy), chunk_of(new_policy()))
    assert policy.policy_id.startswith("diffusion-")
    assert not policy.training
    assert not any(p.requires_grad for p in policy.parameters())


def test_half_precision_halves_the_file_and_loads_as_float32(new_policy, saved, tmp_path):
    half = save_checkpoint(tmp_path / "half", new_policy(), {}, save_dtype="float16")
    sizes = [(path / "weights.safetensors").stat().st_size for path in (half, saved)]
    assert sizes[0] < 0.6 * sizes[1]
    policy = load_policy(half)
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    np.testing.assert_allclose(chunk_of(policy), chunk_of(new_policy()), atol=0.02)


def test_weights_too_large_for_half_precision_are_not_saved(new_policy, tmp_path):
    policy = new_policy()
    next(policy.parameters()).data.fill_(1e6)
    with pytest.raises(CheckpointError, match="not finite as float16"):
        save_checkpoint(tmp_path / "half", policy, {}, save_dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_saving_again_replaces_the_folder_and_leaves_nothing_else(new_policy, saved, tmp_path):
    save_checkpoint(saved, new_policy(seed=1), {"command": "second"})
    assert read_document(saved)["provenance"] == {"command": "second"}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_every_flipped_block_of_the_weights_is_noticed(saved):
    file = saved / "weights.safetensors"
    content = file.read_bytes()
    for position in range(0, len(content), 4096):
        file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(CheckpointError, match=r"weights\.safetensors: damaged"):
            load_policy(saved)


def test_truncated_weights_are_noticed(saved):
    file = saved / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_policy(saved)


def test_a_changed_document_is_noticed(saved):
    file = saved / "policy.json"
    file.write_text(file.read_text().replace('"sampling_steps": 4', '"sampling_steps": 2'))
    with pytest.raises(CheckpointError, match="changed after it was saved"):
        load_policy(saved)


@pytest.mark.parametrize("name", ["weights.safetensors", "policy.json"])
def test_an_absent_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_policy(saved)


def test_an_absent_folder_is_named_with_the_ones_beside_it(saved):
    with pytest.raises(CheckpointError, match=f"nowhere: there is no such folder. Valid beside it: {saved}$"):
        load_policy(saved.parent / "nowhere")


def test_a_half_written_document_is_named(saved):
    file = saved / "policy.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(CheckpointError, match=r"policy\.json: is not JSON"):
        load_policy(saved)


CHANGES = {
    "unknown policy family 'difusion'. Did you mean 'diffusion'": lambda d: d.update(family="difusion"),
    "unknown key 'extra'": lambda d: d.update(extra=1),
    "lacks normalizer": lambda d: d.pop("normalizer"),
    "chunk_step": lambda d: d["policy"].update(chunk_step=8),
    "format armature-policy 1, this version reads armature-policy 2": lambda d: d.update(format_version=1),
    "RobotSpec lacks key 'action'": lambda d: d["spec"].pop("action"),
    "unet: expected the fields of UnetConfig, got 3": lambda d: d["method"].update(unet=3),
    "does not fit its config": lambda d: d["method"]["unet"].update(dims=[16, 64]),
    "unknown observation 'joint/positions'": lambda d: d["policy"].update(observations=["joint/positions"]),
}


@pytest.mark.parametrize(("message", "change"), CHANGES.items(), ids=CHANGES.keys())
def test_documents_that_do_not_fit_are_refused(saved, message, change):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_policy(saved)


def test_a_missing_normaliser_field_is_named(saved):
    def drop(document):
        for part in ("fields", "modes"):
            document["normalizer"][part].pop("joint/position")

    rewrite(saved, drop)
    with pytest.raises(MissingStatistics, match="joint/position"):
        load_policy(saved)


def test_renamed_and_non_finite_weights_are_refused(saved):
    file = saved / "weights.safetensors"
    weights = load_file(file)
    name, tensor = next(iter(weights.items()))
    save_file({**{n: t for n, t in weights.items() if n != name}, "other": tensor}, file)
    rewrite(saved, lambda _: None)
    with pytest.raises(CheckpointError, match=f"lacks {name}; has an unknown other"):
        load_policy(saved)
    save_file({**weights, name: tensor * float("nan")}, file)
    rewrite(saved, lambda _: None)
    with pytest.raises(CheckpointError, match="is not finite"):
        load_policy(saved)


def test_a_pickle_is_refused_unread(saved, tmp_path):
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return (marker.touch, ())

    torch.save({"weight": Malicious()}, saved / "weights.safetensors")
    rewrite(saved, lambda _: None)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(saved)
    assert not marker.exists()


def test_unknown_family_lists_the_known():
    with pytest.raises(ConfigError, match=r"Valid: .*diffusion"):
        method_class("nothing")


def test_a_world_with_cameras_of_another_size_is_refused_with_both_sizes(saved, capsys):
    assert armature(["eval", "--checkpoint", str(saved), "--task", "lift"]) == 2
    error = capsys.readouterr().err
    assert "observation camera/scene.shape: needs (24, 32, 3), offered (24, 24, 3)" in error
    assert error.count("\n") == 1


def test_an_image_of_another_size_is_refused_with_both_sizes(new_policy):
    policy = new_policy()
    observation = random_observation(policy.spec, policy.obs_steps, np.random.default_rng(0), 0)
    images = np.zeros((1, 48, 64, 3), np.uint8)
    with pytest.raises(InvalidValue, match=r"camera/wrist: shape \(48, 64, 3\), expected \(24, 32, 3\)"):
        policy.infer(replace(observation, values={**observation.values, "camera/wrist": images}))
