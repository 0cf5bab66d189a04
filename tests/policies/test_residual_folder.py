"""A residual on disk: it comes back as it was, and is refused by name where it is damaged or of something else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from residual_arm import LIMITS, SEEING_SPEC, SIGHT, SPEC, actor_weights, residual, seeing_residual

from armature.errors import CheckpointError, ConfigError, SpecMismatch
from policies.durable_learner import DurableLearner
from policies.residual_encoder import ResidualEncoder
from policies.residual_folder import DOCUMENT, ENCODER, WEIGHTS, ResidualSettings, load_residual, save_residual
from policies.signed_folder import SHA256, digest


@pytest.fixture
def folder(tmp_path):
    save_residual(tmp_path / "residual", residual(version=7))
    return tmp_path / "residual"


def test_what_was_saved_comes_back(folder):
    saved, found = residual(version=7), load_residual(folder)
    assert replace(found, weights=saved.weights) == saved
    assert (found.weights.version, found.weights.base_id, found.learner) == (7, "bc", {"seed": 3})
    assert all(np.array_equal(array, found.weights.arrays[name]) for name, array in saved.weights.arrays.items())


def test_it_is_read_without_torch(folder):
    code = "import sys; from pathlib import Path; from policies.residual_folder import load_residual; " \
           f"load_residual(Path({str(folder)!r})); print('torch' in sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_correction_reaches_as_far_as_the_gate_lets_pass_and_no_further(folder):
    found = load_residual(folder)
    view = found.view(SPEC, LIMITS)
    # Half of 1 rad/s in 0.1 s, of 4 rad/s, and of 0.04 m; four fifths of that.
    assert found.reach(view).tolist() == pytest.approx([0.04, 0.16, 0.016], rel=2e-3)


@pytest.mark.parametrize("name", [DOCUMENT, WEIGHTS])
def test_every_changed_byte_is_found(folder, name):
    file = folder / name
    content = file.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 40)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError):
            load_residual(folder)


def test_a_folder_that_is_not_there_is_named_beside_those_that_are(folder):
    with pytest.raises(CheckpointError, match=f"no such folder. Valid beside it: {folder}"):
        load_residual(folder.with_name("other"))


def test_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match="photos: exists and is no residual"):
        save_residual(tmp_path / "photos", residual())


def test_another_robot_is_refused_naming_what_differs():
    other = replace(SPEC, name="large")
    with pytest.raises(SpecMismatch, match="needs 'small', offered 'large'"):
        residual().view(other, LIMITS)


def test_a_gate_with_other_limits_is_refused_naming_both():
    faster = replace(LIMITS, velocity_max=(2.0, 4.0, float("inf")))
    with pytest.raises(ConfigError, match=r"unit \[0\.2, 0\.8, 0\.04\], this robot's has \[0\.4, 0\.8, 0\.04\]"):
        residual().view(SPEC, faster)
    wider = replace(LIMITS, request=replace(LIMITS.request, residual_share=1.0))
    with pytest.raises(ConfigError, match=r"residual_max \[0\.2\d+, .*\], this robot's has \[0\.(5|49)\d*, "):
        residual().view(SPEC, wider)


def test_weights_of_another_policy_or_size_are_refused():
    with pytest.raises(CheckpointError, match="correct policy 'act', expected 'bc'"):
        residual().require_weights(actor_weights(base_id="act"))
    smaller = actor_weights()
    arrays = {**smaller.arrays, "layers.0.weight": smaller.arrays["layers.0.weight"][:, 1:]}
    with pytest.raises(CheckpointError, match=r"take 8 numbers and give 3, expected \(9, 3\)"):
        residual().require_weights(replace(smaller, arrays=arrays))
    with pytest.raises(CheckpointError, match="are those of no actor"):
        residual().require_weights(replace(smaller, arrays={"x": np.zeros(1, np.float32)}))


def test_weights_in_the_folder_of_another_policy_are_refused(folder):
    document = json.loads((folder / DOCUMENT).read_text())
    document["base_id"] = "act"
    document[SHA256][DOCUMENT] = digest(document)
    (folder / DOCUMENT).write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="weights correct policy 'bc', the document 'act'"):
        load_residual(folder)


@pytest.mark.parametrize("changes", [{"scale": 0.0}, {"scale": 1.1}, {"steps": 0}, {"discount": 0.0}])
def test_a_setting_that_cannot_be_is_refused_by_name(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        ResidualSettings(**{"scale": 0.5, "steps": 3, "discount": 0.9, **changes})


@pytest.fixture
def seeing(tmp_path):
    save_residual(tmp_path / "seeing", seeing_residual(version=7))
    return tmp_path / "seeing"


def test_one_without_cameras_is_of_a_version_of_its_own(folder):
    document = json.loads((folder / DOCUMENT).read_text())
    assert (document["format_version"], "sight" in document) == (3, False)
    assert sorted(file.name for file in folder.iterdir()) == [WEIGHTS, DOCUMENT]


def test_one_that_looks_at_cameras_comes_back_with_its_encoder(seeing):
    saved, found = seeing_residual(version=7), load_residual(seeing)
    assert (found.sight, found.spec.observation.names) == (SIGHT, ("camera/wrist", "object/pose"))
    found.view(SEEING_SPEC, LIMITS)
    assert {name: array.tolist() for name, array in found.encoder.items()} == {
        name: array.tolist() for name, array in saved.encoder.items()
    }
    images, vectors = torch.randint(0, 256, (2, 1, 16, 16, 3), dtype=torch.uint8), torch.zeros(2, 6)
    assert torch.equal(ResidualEncoder.of(found)(vectors, images), ResidualEncoder(SIGHT, seed=1)(vectors, images))


@pytest.mark.parametrize("name", [DOCUMENT, WEIGHTS, ENCODER])
def test_every_changed_byte_of_one_that_looks_at_cameras_is_found(seeing, name):
    file = seeing / name
    content = file.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 40)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError):
            load_residual(seeing)


def test_an_encoder_that_is_absent_not_finite_or_of_other_settings_is_refused(seeing, tmp_path):
    (seeing / ENCODER).unlink()
    with pytest.raises(CheckpointError, match=rf"{ENCODER}: cannot be read"):
        load_residual(seeing)
    residual = seeing_residual()
    spoilt = {**residual.encoder, "cameras.0.1.bias": np.full(5, np.nan, np.float32)}
    save_residual(tmp_path / "spoilt", replace(residual, encoder=spoilt))
    with pytest.raises(CheckpointError, match=r"cameras\.0\.1\.bias is not finite"):
        load_residual(tmp_path / "spoilt")
    wider = replace(residual, sight=replace(SIGHT, encoder=replace(SIGHT.encoder, channels=(8, 4))))
    with pytest.raises(CheckpointError, match="the encoder of the residual does not fit its settings"):
        ResidualEncoder.of(wider)


def test_an_actor_that_takes_no_features_is_refused_beside_an_encoder():
    with pytest.raises(CheckpointError, match=r"take 9 numbers and give 3, expected \(14, 3\)"):
        seeing_residual().require_weights(actor_weights())


def test_a_robot_without_the_camera_is_refused_by_name():
    with pytest.raises(SpecMismatch, match="observation camera/wrist: needed"):
        seeing_residual().view(SPEC, LIMITS)


def test_the_processes_on_a_graph_refuse_one_that_looks_at_cameras_and_say_what_to_do(seeing):
    residual().require_no_cameras("residual_node")
    words = (
        "looks at camera/wrist, which residual_node cannot yet: learn one from vectors, by `armature train-residual`"
    )
    with pytest.raises(ConfigError, match=words):
        load_residual(seeing).require_no_cameras("residual_node")
    with pytest.raises(ConfigError, match="which learner_node cannot yet"):
        DurableLearner.open(seeing)
    assert not (seeing / "learner").exists()
