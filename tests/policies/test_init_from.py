"""Trainings that begin with the weights of another: fine-tuning, and the trunk on another robot."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from armature.errors import CheckpointError, ConfigError, SpecMismatch
from armature.spec import (
    CAMERA_SCENE,
    CAMERA_WRIST,
    GRIPPER_OPENING,
    JOINT_POSITION,
    ActionSpec,
    ArraySpec,
    ObservationSpec,
    RobotSpec,
)
from data_collection.store import create_dataset
from policies.checkpoint import load_policy, read_document, save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.init_from import initialised
from policies.language import TextConfig
from policies.nets.observation import VisionConfig
from policies.nets.pretrained_vision import PretrainedVision
from policies.policy_config import PolicyConfig
from policies.presets.catalog import PRESETS
from policies.train import train
from policies.train_config import TrainConfig

PERIOD_NS = 50_000_000


def other_arm(cameras: tuple[str, ...]) -> RobotSpec:
    joint = ArraySpec(JOINT_POSITION, (3,), "float32", "rad", low=(-2.0,) * 3, high=(2.0,) * 3, labels=("a", "b", "c"))
    gripper = ArraySpec(GRIPPER_OPENING, (1,), "float32", "m", low=(0.0,), high=(0.08,), labels=("gripper",))
    images = tuple(ArraySpec(name, (24, 32, 3), "uint8", "rgb8") for name in cameras)
    action = ActionSpec("joint_position", (joint, gripper), 20.0)
    return RobotSpec("other arm", ObservationSpec((*images, joint, gripper), 20.0), action)


def record_other_arm(path: Path, cameras: tuple[str, ...], length: int = 9) -> Path:
    """Write four episodes of an arm with three joints that moves on waves."""
    rng, spec = np.random.default_rng(0), other_arm(cameras)
    with create_dataset(path, spec, "waves").writer() as writer:
        for seed in range(4):
            episode = writer.begin()
            stamps = np.arange(length, dtype=np.int64) * PERIOD_NS
            angle = np.linspace(0, 3, length + 1)[:, None] + rng.uniform(0, 1, 4)
            arm = np.sin(angle) * (1, 1, 1, 0.04) + (0, 0, 0, 0.04)
            values = {JOINT_POSITION: arm[:-1, :3].astype(np.float32), GRIPPER_OPENING: arm[:-1, 3:].astype(np.float32)}
            values |= {name: rng.integers(0, 256, (length, 24, 32, 3), dtype=np.uint8) for name in cameras}
            for stream, data in {**values, "action/executed": arm[1:], "action/requested": arm[1:]}.items():
                episode.append(stream, stamps, stamps, data)
            episode.end({"seed": seed, "success": True})
    return path


@pytest.fixture(scope="module")
def both_cameras(tmp_path_factory, spec) -> Path:
    names = tuple(array.name for array in spec.observation.images)
    return record_other_arm(tmp_path_factory.mktemp("other") / "waves", names)


@pytest.fixture(scope="module")
def one_camera(tmp_path_factory) -> Path:
    return record_other_arm(tmp_path_factory.mktemp("other") / "waves", (CAMERA_SCENE,))


@pytest.fixture(scope="module")
def trunk(dataset, tmp_path_factory) -> Path:
    """Return the checkpoint of a short training on the circling arm."""
    return train(hrdt(dataset, tmp_path_factory.mktemp("trunk") / "run", steps=6))


def hrdt(dataset: Path, out: Path, **changes) -> TrainConfig:
    return replace(PRESETS["hrdt_tiny"](dataset, out), **changes)


def started(config: TrainConfig) -> dict[str, torch.Tensor]:
    """Return the weights of a training after one step of almost no size: those that it began with."""
    nearly_still = replace(config.optimizer, learning_rate=1e-12, weight_decay=0.0)
    return load_policy(train(replace(config, steps=1, optimizer=nearly_still))).state_dict()


def kept_parts(trunk: Path, weights: dict[str, torch.Tensor]) -> set[str]:
    """Name the parts (the first two words of a weight's name) of which every weight is that of the trunk."""
    brought = load_policy(trunk).state_dict()
    part = {name: ".".join(name.split(".")[:2]) for name in weights}
    changed = {
        part[name]
        for name, weight in weights.items()
        if weight.shape != brought[name].shape or not torch.allclose(weight, brought[name], atol=1e-9, rtol=0)
    }
    return set(part.values()) - changed


TRUNK = {"method.position", "method.time", "method.blocks", "method.image_adapter"}


def test_the_trunk_goes_to_another_robot_and_its_own_parts_are_new(trunk, both_cameras, tmp_path):
    weights = started(hrdt(both_cameras, tmp_path / "run", init_from=trunk, new_embodiment=True))
    assert kept_parts(trunk, weights) == TRUNK | {"method.image_position", "encoder.cameras"}
    assert weights["method.action_adapter.0.weight"].shape == (32, 4)


def test_other_cameras_are_new_too(trunk, one_camera, tmp_path):
    weights = started(hrdt(one_camera, tmp_path / "run", init_from=trunk, new_embodiment=True))
    assert kept_parts(trunk, weights) == TRUNK


def test_what_is_new_is_drawn_by_the_seed(trunk, both_cameras, tmp_path):
    one, other = (
        started(hrdt(both_cameras, tmp_path / f"{seed}", init_from=trunk, new_embodiment=True, seed=seed))
        for seed in (1, 2)
    )
    name = "method.state_adapter.0.weight"
    assert not torch.equal(one[name], other[name])


def test_fine_tuning_takes_everything_with_its_normaliser(trunk, record, tmp_path):
    other_data = record([12, 6, 7, 8])
    config = hrdt(other_data, tmp_path / "run", init_from=trunk)
    weights = started(config)
    assert kept_parts(trunk, weights) == {".".join(name.split(".")[:2]) for name in weights}
    assert read_document(config.out / "checkpoint")["normalizer"] == read_document(trunk)["normalizer"]
    alone = train(hrdt(other_data, tmp_path / "alone", steps=1))
    assert read_document(alone)["normalizer"] != read_document(trunk)["normalizer"]


def test_actions_that_no_sample_could_reach_are_refused_by_name(trunk, record, tmp_path):
    wider = record([12, 6, 7, 8], spoil=("action/executed", 0, 3, 1.9))
    config = hrdt(wider, tmp_path / "run", init_from=trunk, validation_fraction=0.0)
    with pytest.raises(ConfigError, match=r"action j1 goes from -0\.\d+ to 1\.9, that of .* and what it samples no"):
        train(config)


def test_the_checkpoint_says_where_its_trunk_is_from(trunk, both_cameras, dataset, tmp_path):
    assert "init_from" not in read_document(trunk)["provenance"]
    path = train(hrdt(both_cameras, tmp_path / "run", init_from=trunk, new_embodiment=True, steps=1))
    document = read_document(trunk)
    assert read_document(path)["provenance"]["init_from"] == {
        "checkpoint": str(trunk),
        "sha256": document["sha256"]["weights.safetensors"],
        "dataset_fingerprint": document["provenance"]["dataset_fingerprint"],
        "new_embodiment": True,
    }


@pytest.mark.parametrize("new_embodiment", [False, True])
def test_resumes_exactly_and_without_the_first_checkpoint(trunk, both_cameras, record, tmp_path, new_embodiment):
    trunk = shutil.copytree(trunk, tmp_path / "trunk")
    data = both_cameras if new_embodiment else record([12, 6, 7, 8])
    through = hrdt(data, tmp_path / "through", steps=4, init_from=trunk, new_embodiment=new_embodiment)
    parts = replace(through, out=tmp_path / "parts")
    train(through)
    train(replace(parts, stop_at_step=2))
    shutil.rmtree(trunk)
    train(replace(parts, resume=True))
    documents = [read_document(run.out / "checkpoint") for run in (through, parts)]
    assert documents[0]["sha256"]["weights.safetensors"] == documents[1]["sha256"]["weights.safetensors"]
    assert documents[0]["normalizer"] == documents[1]["normalizer"]
    assert documents[0]["provenance"]["init_from"] == documents[1]["provenance"]["init_from"]


def test_resumes_with_the_state_alone(trunk, record, tmp_path):
    through = hrdt(record([12, 6, 7, 8]), tmp_path / "through", steps=4, init_from=trunk)
    parts = replace(through, out=tmp_path / "parts")
    train(through)
    # Killed between writing the state and writing the checkpoint.
    shutil.rmtree(train(replace(parts, stop_at_step=2)))
    train(replace(parts, resume=True))
    documents = [read_document(run.out / "checkpoint") for run in (through, parts)]
    assert documents[0]["sha256"]["weights.safetensors"] == documents[1]["sha256"]["weights.safetensors"]
    assert documents[0]["normalizer"] == documents[1]["normalizer"]


def test_new_embodiment_needs_a_checkpoint(dataset, tmp_path):
    with pytest.raises(ConfigError, match="new_embodiment is true, but init_from is not set"):
        train(hrdt(dataset, tmp_path / "run", new_embodiment=True))


def test_another_family_is_refused(new_policy, dataset, tmp_path):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy("diffusion"), {})
    with pytest.raises(CheckpointError, match="is of the family diffusion, this training is of hrdt"):
        train(hrdt(dataset, tmp_path / "run", init_from=path, new_embodiment=True))


def test_a_family_without_a_trunk_is_refused_by_name(new_policy, dataset, tmp_path):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy("diffusion"), {})
    config = replace(PRESETS["diffusion_tiny"](dataset, tmp_path / "run"), init_from=path, new_embodiment=True)
    with pytest.raises(ConfigError, match=r"the family diffusion has no trunk\. Valid: .*hrdt"):
        train(config)


def test_another_robot_needs_to_be_told(trunk, both_cameras, tmp_path):
    with pytest.raises(SpecMismatch, match=r"--new-embodiment.*robot: needs 'arm', offered 'other arm'"):
        train(hrdt(both_cameras, tmp_path / "run", init_from=trunk))


def test_an_absent_checkpoint_is_refused(dataset, tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        train(hrdt(dataset, tmp_path / "run", init_from=tmp_path / "nothing"))


def begun(path: Path, policy: ChunkPolicy, **changes) -> ChunkPolicy:
    return initialised(policy, hrdt(path, path / "run", init_from=path, **changes))


def test_what_only_the_loss_or_the_sampler_depends_on_may_differ(new_policy, tmp_path):
    trunk = new_policy("mode", method={"balance_weight": 0.01, "noise_draws": 4})
    path = save_checkpoint(tmp_path / "checkpoint", trunk, {})
    tuned = {"balance_weight": 0.0, "noise_draws": 1, "expert_dropout": 0.1, "sampling_steps": 3}
    found = begun(path, new_policy("mode", seed=1, method=tuned)).state_dict()
    assert all(torch.equal(weight, found[name]) for name, weight in trunk.state_dict().items())
    with pytest.raises(ConfigError, match=r"method\.causal: has False, this training True$"):
        begun(path, new_policy("mode", method={**tuned, "causal": True}))


@pytest.mark.parametrize("new_embodiment", [False, True])
def test_cameras_that_nobody_has_are_not_compared(new_policy, tmp_path, new_embodiment):
    blind = {"observations": (JOINT_POSITION, GRIPPER_OPENING)}
    path = save_checkpoint(tmp_path / "checkpoint", new_policy("hrdt", **blind), {})
    begun(path, new_policy("hrdt", vision=VisionConfig(features=3), **blind), new_embodiment=new_embodiment)


@pytest.mark.parametrize("new_embodiment", [False, True])
def test_the_text_tower_has_to_be_the_same_wherever_it_lies(new_policy, pretrained_folder, tmp_path, new_embodiment):
    folder = pretrained_folder("clip")
    path = save_checkpoint(tmp_path / "checkpoint", new_policy("hrdt", text=TextConfig(str(folder), 8)), {})
    moved = shutil.copytree(folder, tmp_path / "moved")
    begun(path, new_policy("hrdt", text=TextConfig(str(moved), 8)), new_embodiment=new_embodiment)
    other = new_policy("hrdt", text=TextConfig(str(pretrained_folder("clip_text")), 8))
    with pytest.raises(ConfigError, match=r"policy\.text\.fingerprint: has"):
        begun(path, other, new_embodiment=new_embodiment)
    with pytest.raises(ConfigError, match=r"policy\.text\.max_tokens: has 8, this training 9"):
        begun(path, new_policy("hrdt", text=TextConfig(str(moved), 9)), new_embodiment=new_embodiment)


@pytest.mark.parametrize("cameras", [(CAMERA_SCENE, CAMERA_WRIST), (CAMERA_SCENE,)], ids=["same", "other"])
def test_a_pretrained_tower_has_to_be_the_same_wherever_it_lies(new_policy, pretrained_folder, tmp_path, cameras):
    def policy(folder, *cameras, pooling="average"):
        vision = VisionConfig(network="pretrained", pooling=pooling, pretrained=PretrainedVision((str(folder),)))
        observations = (*cameras, JOINT_POSITION, GRIPPER_OPENING)
        return new_policy("hrdt", vision=replace(vision, crop_margin_px=4), observations=observations)

    folder = pretrained_folder("dinov2")
    path = save_checkpoint(tmp_path / "checkpoint", policy(folder, CAMERA_SCENE, CAMERA_WRIST), {})
    moved = shutil.copytree(folder, tmp_path / "moved")
    begun(path, policy(moved, *cameras), new_embodiment=True)
    with pytest.raises(ConfigError, match=r"policy\.vision\.pretrained\.fingerprints: has"):
        begun(path, policy(pretrained_folder("registers"), *cameras), new_embodiment=True)
    with pytest.raises(ConfigError, match=r"policy\.vision\.pooling: has average, this training pooled"):
        begun(path, policy(moved, *cameras, pooling="pooled"), new_embodiment=True)


METHOD_CHANGES = {
    "method.layers: has 2, this training 3": {"layers": 3},
    "method.heads: has 4, this training 2; method.hidden: has 64, this training 32": {"heads": 2, "hidden": 32},
}
POLICY_CHANGES = {
    "policy.chunk_steps: has 8, this training 4": {"chunk_steps": 4},
    "policy.obs_steps: has 1, this training 2": {"obs_steps": 2},
    "policy.vision": {"vision": VisionConfig((4, 8), (2, 2), features=8, crop_margin_px=2)},
}


@pytest.mark.parametrize(("message", "changes"), METHOD_CHANGES.items(), ids=METHOD_CHANGES.keys())
def test_another_method_config_is_refused_by_its_fields(trunk, both_cameras, tmp_path, message, changes):
    config = hrdt(both_cameras, tmp_path / "run", init_from=trunk, new_embodiment=True)
    with pytest.raises(ConfigError, match=message):
        train(replace(config, method=replace(config.method, **changes)))


@pytest.mark.parametrize("new_embodiment", [False, True])
@pytest.mark.parametrize(("message", "changes"), POLICY_CHANGES.items(), ids=POLICY_CHANGES.keys())
def test_another_policy_config_is_refused(trunk, dataset, tmp_path, new_embodiment, message, changes):
    config = hrdt(dataset, tmp_path / "run", init_from=trunk, new_embodiment=new_embodiment)
    with pytest.raises(ConfigError, match=message):
        train(replace(config, policy=replace(config.policy, **changes)))


def test_relative_actions_are_another_thing_for_the_same_robot_only(trunk, dataset, both_cameras, tmp_path):
    policy = replace(hrdt(dataset, tmp_path).policy, relative_actions=True)
    with pytest.raises(ConfigError, match="relative_actions: has False, this training True"):
        train(hrdt(dataset, tmp_path / "same", init_from=trunk, policy=policy))
    train(hrdt(both_cameras, tmp_path / "other", init_from=trunk, policy=policy, new_embodiment=True, steps=1))


def test_a_trunk_with_eyes_does_not_go_to_a_blind_robot(trunk, both_cameras, tmp_path):
    blind = PolicyConfig(observations=(JOINT_POSITION, GRIPPER_OPENING), chunk_steps=8)
    with pytest.raises(ConfigError, match=r"tensor\.method\.\S+: has .*, this training none"):
        train(hrdt(both_cameras, tmp_path / "run", init_from=trunk, policy=blind, new_embodiment=True))
