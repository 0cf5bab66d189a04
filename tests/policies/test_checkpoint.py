from __future__ import annotations

import hashlib
import json
import re
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


@pytest.mark.fault(row=37)
def test_every_flipped_block_of_the_weights_is_noticed(saved):
    file = saved / "weights.safetensors"
    content = file.read_bytes()
    for position in range(0, len(content), 4096):
        file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(CheckpointError, match=r"weights\.safetensors: damaged"):
            load_policy(saved)


@pytest.mark.fault(row=37)
def test_truncated_weights_are_noticed(saved):
    file = saved / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_policy(saved)


@pytest.mark.fault(row=37)
def test_a_flipped_bit_in_the_document_is_refused_or_means_the_same(saved):
    file = saved / "policy.json"
    content, document = file.read_bytes(), read_document(saved)
    refused = 0
    for position in range(0, len(content), 13):
        file.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        try:
            assert read_document(saved) == document
        except CheckpointError:
            refused += 1
    assert refused > 100


@pytest.mark.fault(row=37)
def test_a_changed_document_is_noticed(saved):
    file = saved / "policy.json"
    file.write_text(file.read_text().replace('"sampling_steps": 4', '"sampling_steps": 2'))
    with pytest.raises(CheckpointError, match="changed after it was saved"):
        load_policy(saved)


@pytest.mark.fault(row=37)
@pytest.mark.parametrize("name", ["weights.safetensors", "policy.json"])
def test_an_absent_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_policy(saved)


def test_an_absent_folder_is_named_with_the_ones_beside_it(saved):
    with pytest.raises(CheckpointError, match=f"nowhere: there is no such folder. Valid beside it: {saved}$"):
        load_policy(saved.parent / "nowhere")


@pytest.mark.fault(row=37)
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


@pytest.mark.fault(row=37)
@pytest.mark.parametrize(("message", "change"), CHANGES.items(), ids=CHANGES.keys())
def test_documents_that_do_not_fit_are_refused(saved, message, change):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_policy(saved)


@pytest.mark.fault(row=41)
def test_a_missing_normaliser_field_is_named(saved):
    def drop(document):
        for part in ("fields", "modes"):
            document["normalizer"][part].pop("joint/position")

    rewrite(saved, drop)
    with pytest.raises(MissingStatistics, match="joint/position"):
        load_policy(saved)


@pytest.mark.fault(row=37)
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


@pytest.mark.fault(row=37)
def test_weights_of_another_shape_are_refused_with_both(saved):
    file = saved / "weights.safetensors"
    weights = load_file(file)
    name, tensor = next((n, t) for n, t in weights.items() if t.ndim == 2)
    save_file({**weights, name: tensor[:-1].contiguous()}, file)
    rewrite(saved, lambda _: None)
    wide = tuple(tensor.shape)
    with pytest.raises(CheckpointError, match=re.escape(f"{name} is {(wide[0] - 1, wide[1])}, expected {wide}")):
        load_policy(saved)


def statistics(name, **changes):
    """Return a change of the document: other statistics of a field."""
    return lambda document: document["normalizer"]["fields"][name].update(changes)


SEVEN = {key: [0.5] * 7 for key in ("minimum", "maximum", "mean", "std")}
STATISTICS = {
    "statistics of joint/position: minimum is not finite": statistics("joint/position", minimum=[float("nan"), 0.0]),
    "statistics of action: maximum is not finite": statistics("action", maximum=[float("inf")] * 3),
    "mean has 1 elements, minimum 2": statistics("joint/position", mean=[0.0]),
    r"std \(-1.0, 0.0\) of \d+ rows": statistics("joint/position", std=[-1.0, 0.0]),
    "of 0 rows": statistics("joint/position", count=0),
    "minimum .* is above maximum": statistics("joint/position", minimum=[9.0, 9.0]),
    "statistics of joint/position are of 7 elements, arm has 2": statistics("joint/position", **SEVEN),
    "statistics of action are of 7 elements, arm has 3": statistics("action", **SEVEN),
}


@pytest.mark.fault(row=41)
@pytest.mark.parametrize(("message", "change"), STATISTICS.items(), ids=STATISTICS.keys())
def test_statistics_that_make_no_sense_or_are_another_robots_are_refused(saved, message, change):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_policy(saved)


@pytest.mark.fault(row=41)
@pytest.mark.parametrize("mode", ["limits", "gaussian"])
def test_a_field_that_never_varied_is_not_divided_by(saved, mode):
    def flatten(document):
        for stats in document["normalizer"]["fields"].values():
            stats.update(maximum=stats["minimum"], mean=stats["minimum"], std=[0.0] * len(stats["std"]))
        document["normalizer"]["modes"] = dict.fromkeys(document["normalizer"]["modes"], mode)

    rewrite(saved, flatten)
    with np.errstate(all="raise"):
        actions = chunk_of(load_policy(saved))
    assert np.isfinite(actions).all()
    lowest = np.array([-2.0, -2.0, 0.0])
    # A network's normalised output is of the order of 1, and so is then the action's distance from the constant.
    assert np.abs(actions - lowest).max() < 20


@pytest.mark.fault(row=38)
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


@pytest.mark.fault(row=38)
def test_a_pickled_file_offered_as_a_checkpoint_is_refused_unread(saved, tmp_path):
    marker, file = tmp_path / "executed", tmp_path / "policy.pt"

    class Malicious:
        def __reduce__(self):
            return (marker.touch, ())

    torch.save({"weight": Malicious()}, file)
    with pytest.raises(CheckpointError, match=r"policy\.pt: there is no such folder"):
        load_policy(file)
    (saved / "policy.json").write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"policy\.json: is not JSON"):
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


def test_a_device_that_is_not_there_is_named(saved):
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        load_policy(saved, "gpu")
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ConfigError, match=f"'{absent}'"):
        load_policy(saved, absent)
