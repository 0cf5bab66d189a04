from __future__ import annotations

import copy
import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from armature.errors import CheckpointError, ConfigError
from armature.testing import check_policy, random_observation
from policies.checkpoint import load_policy, read_document, save_checkpoint
from policies.nets.observation import VisionConfig
from policies.nets.pretrained_vision import PretrainedEncoder, PretrainedVision, fit_square
from policies.training_state import OptimizerConfig, TrainingState


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("an encoder asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder_copy(pretrained_folder, tmp_path):
    """Return a function that copies a folder, to be damaged: folder_copy(kind) -> path."""
    return lambda kind: shutil.copytree(pretrained_folder(kind), tmp_path / kind)


def encoder(*folders, pooling="tokens", **options) -> PretrainedEncoder:
    return PretrainedEncoder(PretrainedVision(tuple(map(str, folders)), **options), pooling)


SHAPES = {
    ("dinov2", "tokens"): (16, 8),
    ("dinov2", "average"): (1, 8),
    ("dinov2", "pooled"): (1, 8),
    ("registers", "tokens"): (16, 8),
    ("siglip", "tokens"): (16, 12),
    ("siglip", "pooled"): (1, 12),
    ("clip", "tokens"): (16, 8),
    ("clip", "pooled"): (1, 6),
    ("clip_vision", "tokens"): (16, 8),
}


@pytest.mark.parametrize(("kind", "pooling"), SHAPES)
def test_an_image_of_any_size_becomes_tokens(pretrained_folder, images, kind, pooling):
    tower = encoder(pretrained_folder(kind), pooling=pooling)
    tokens = tower(images)
    assert tokens.shape == (2, *SHAPES[kind, pooling])
    assert (tower.count_tokens(20, 30), tower.dim) == SHAPES[kind, pooling]
    assert torch.equal(tokens, encoder(pretrained_folder(kind), pooling=pooling)(images))
    torch.testing.assert_close(tower(images[:1]), tokens[:1])


@pytest.mark.parametrize(
    ("kind", "class_name", "skipped"),
    [("dinov2", "Dinov2Model", 1), ("registers", "Dinov2WithRegistersModel", 5), ("siglip", "SiglipModel", 0),
     ("clip", "CLIPModel", 1)],
)  # fmt: skip
def test_tokens_are_those_of_the_saved_network(pretrained_folder, kind, class_name, skipped):
    import transformers

    folder = pretrained_folder(kind)
    network = getattr(transformers, class_name).from_pretrained(folder).eval()
    network = getattr(network, "vision_model", network)
    images = torch.randint(0, 256, (2, 28, 28, 3), dtype=torch.uint8)
    mean, deviation = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    pixels = ((images / 255 - mean) / deviation).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = network(pixel_values=pixels, output_hidden_states=True)
    torch.testing.assert_close(encoder(folder)(images), found.last_hidden_state[:, skipped:])
    torch.testing.assert_close(encoder(folder, layer=-2)(images), found.hidden_states[-2][:, skipped:])
    torch.testing.assert_close(encoder(folder, class_tokens=True)(images), found.last_hidden_state)
    average = found.last_hidden_state[:, skipped:].mean(dim=1, keepdim=True)
    torch.testing.assert_close(encoder(folder, pooling="average")(images), average)


@pytest.mark.parametrize("kind", ["dinov2", "siglip", "clip"])
def test_a_tower_can_see_larger_images_than_it_was_trained_on(pretrained_folder, images, kind):
    assert encoder(pretrained_folder(kind), image_size_px=43)(images).shape[1] == 36


def test_tokens_of_two_towers_stand_side_by_side(pretrained_folder, images):
    folders = [pretrained_folder(kind) for kind in ("registers", "siglip")]
    alone = [encoder(folder, layer=-2)(images) for folder in folders]
    assert torch.equal(encoder(*folders, layer=-2)(images), torch.cat(alone, dim=-1))
    with pytest.raises(ConfigError, match=r"do not go together \(.*registers: 21, .*siglip: 16\)"):
        encoder(*folders, class_tokens=True)


def test_letterbox_keeps_the_shape_and_stretching_fills_the_square():
    images = torch.full((1, 3, 10, 20), 255, dtype=torch.uint8)
    mean, deviation = torch.full((3, 1, 1), 155.0), torch.full((3, 1, 1), 50.0)
    boxed = fit_square(images, 8, mean, deviation, "letterbox")
    assert boxed.shape == (1, 3, 8, 8)
    bars = torch.tensor([0.0, 0, 2, 2, 2, 2, 0, 0])
    torch.testing.assert_close(boxed[0, 0, :, 3], bars)
    torch.testing.assert_close(fit_square(images.mT, 8, mean, deviation, "letterbox")[0, 0, 3], bars)
    torch.testing.assert_close(fit_square(images, 8, mean, deviation, "stretch"), torch.full((1, 3, 8, 8), 2.0))


def test_an_unknown_fit_is_refused():
    with pytest.raises(ConfigError, match=r"unknown vision\.pretrained\.fit 'crop'\. Valid: letterbox, stretch"):
        PretrainedVision(fit="crop")


def test_frozen_weights_are_no_parameters_but_move_along_and_are_shared_by_copies(pretrained_folder, images):
    tower = encoder(pretrained_folder("dinov2"))
    assert list(tower.parameters()) == []
    assert tower.state_dict() == {}
    assert not tower.train()(images).requires_grad
    copied = copy.deepcopy(tower)
    assert copied.towers[0].network is tower.towers[0].network
    assert tower.double()(images).dtype == torch.float64


def policy_with(new_policy, folder, **options):
    vision = VisionConfig(
        network="pretrained", pooling="tokens", crop_margin_px=4, pretrained=PretrainedVision((str(folder),), **options)
    )
    return new_policy(vision=vision)


def trained(policy, batch) -> TrainingState:
    state = TrainingState(policy, OptimizerConfig(learning_rate=1e-2, warmup_steps=1))
    for _ in range(2):
        state.update(batch, seed=0, steps=10)
    return state


def test_a_policy_learns_around_frozen_towers_and_its_checkpoint_leaves_them_out(
    new_policy, batch_of, pretrained_folder, tmp_path
):
    policy = policy_with(new_policy, pretrained_folder("siglip"))
    check_policy(policy)
    assert (policy.encoder.context_spec.image_tokens, policy.encoder.context_spec.image_dim) == (32, 12)
    state = trained(policy, batch_of(policy, 4))
    state.save(tmp_path / "state", {}, "")
    assert not [n for n in state.average.state_dict() if n.startswith("encoder.cameras")]
    path = save_checkpoint(tmp_path / "checkpoint", state.average, {})
    loaded = load_policy(path)
    assert np.array_equal(*(chunk_of(each) for each in (loaded, state.average)))
    pins = read_document(path)["policy"]["vision"]["pretrained"]["fingerprints"]
    assert len(pins[0]) == 16


@pytest.mark.parametrize("kind", ["dinov2", "siglip"])
@pytest.mark.parametrize("layer", [-1, -2])
def test_towers_that_learn_are_in_the_checkpoint(new_policy, batch_of, pretrained_folder, tmp_path, kind, layer):
    policy = policy_with(new_policy, pretrained_folder(kind), frozen=False, layer=layer)
    before = copy.deepcopy(policy.state_dict())
    state = trained(policy, batch_of(policy, 4))
    learned = [(n, p) for n, p in policy.named_parameters() if p.requires_grad]
    assert all(p.grad is not None and not torch.equal(p, before[n]) for n, p in learned)
    assert any(n.startswith("encoder.cameras") for n, _ in learned)
    state.save(tmp_path / "state", {}, "")
    again = TrainingState(policy_with(new_policy, pretrained_folder(kind), frozen=False, layer=layer), state.config)
    again.load(tmp_path / "state")
    losses = [each.eval().loss(*loss_of(batch_of, policy)) for each in (again.policy, policy)]
    assert torch.equal(*losses)
    loaded = load_policy(save_checkpoint(tmp_path / "checkpoint", state.average, {}))
    assert np.array_equal(*(chunk_of(each) for each in (loaded, state.average)))


def loss_of(batch_of, policy):
    return batch_of(policy, 2), torch.Generator().manual_seed(0)


def chunk_of(policy):
    policy.reset(3)
    return policy.infer(random_observation(policy.spec, policy.obs_steps, np.random.default_rng(0), 0)).actions


def test_a_checkpoint_names_a_folder_that_is_gone_or_changed(new_policy, folder_copy, tmp_path):
    folder = folder_copy("dinov2")
    path = save_checkpoint(tmp_path / "checkpoint", policy_with(new_policy, folder), {})
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{folder}: its fingerprint is .*, the policy was trained with"):
        load_policy(path)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=f"{folder}: there is no such folder"):
        load_policy(path)


def test_relative_folders_are_looked_for_where_the_environment_says(pretrained_folder, images, monkeypatch, tmp_path):
    folder = pretrained_folder("dinov2")
    monkeypatch.setenv("ARMATURE_MODELS", str(folder.parent))
    assert torch.equal(encoder("dinov2")(images), encoder(folder)(images))
    with pytest.raises(
        ConfigError, match=r"no such folder \(relative .*\$ARMATURE_MODELS\)\. Valid beside it: .*dinov2"
    ):
        encoder("dinov3")


def change_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_wrong_folders_are_refused(folder_copy, tmp_path):
    folder = folder_copy("dinov2")
    with pytest.raises(ConfigError, match=r"folders is empty"):
        encoder()
    with pytest.raises(ConfigError, match=r"1 folders, but 2 fingerprints"):
        encoder(folder, fingerprints=("a", "b"))
    with pytest.raises(ConfigError, match=r"layer -4: .* allows -3\.\.-1"):
        encoder(folder, layer=-4)
    with pytest.raises(ConfigError, match=r"image_size_px 6: a patch of .* has 7"):
        encoder(folder, image_size_px=6)
    change_json(folder / "preprocessor_config.json", image_mean=None)
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json: image_mean"):
        encoder(folder)
    change_json(folder / "config.json", model_type="dinov9")
    with pytest.raises(ConfigError, match=r"unknown model_type 'dinov9'\. Did you mean 'dinov2'"):
        encoder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: is not JSON"):
        encoder(folder)


def test_weights_of_other_sizes_and_missing_ones_are_refused(folder_copy):
    folder = folder_copy("dinov2")
    change_json(folder / "config.json", num_hidden_layers=4)
    with pytest.raises(ConfigError, match="lacks weights of a Dinov2Model: encoder"):
        encoder(folder)
    change_json(folder / "config.json", num_hidden_layers=3, hidden_size=16)
    with pytest.raises(ConfigError, match="is no Dinov2Model"):
        encoder(folder)


@pytest.mark.fault(row=37)
@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_safetensors_are_named(folder_copy, keep):
    folder = folder_copy("dinov2")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"model\.safetensors: damaged \(\d+ bytes\)"):
        encoder(folder)


@pytest.mark.fault(row=38)
def test_a_pickle_is_refused_unread(folder_copy, tmp_path):
    folder, marker = folder_copy("dinov2"), tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return (marker.touch, ())

    torch.save({**load_file(folder / "model.safetensors"), "more": Malicious()}, folder / "pytorch_model.bin")
    encoder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"holds pickled weights only \(pytorch_model\.bin\)"):
        encoder(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match="holds no safetensors"):
        encoder(folder)
    assert not marker.exists()


def test_code_in_a_folder_is_not_run(folder_copy, tmp_path, images):
    folder, marker = folder_copy("dinov2"), tmp_path / "executed"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    change_json(folder / "config.json", auto_map={"AutoConfig": "own.Own", "AutoModel": "own.Own"})
    assert encoder(folder)(images).shape == (2, 16, 8)
    assert not marker.exists()


def test_without_a_folder_transformers_is_not_imported():
    code = "import sys, policies.train; sys.exit('transformers' in sys.modules or 'tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pinned_folders_are_written_into_the_config(new_policy, pretrained_folder):
    policy = policy_with(new_policy, pretrained_folder("dinov2"))
    pretrained = policy.config.vision.pretrained
    assert replace(pretrained, fingerprints=()) == PretrainedVision((str(pretrained_folder("dinov2")),))
    assert policy.config.pinned() == policy.config
