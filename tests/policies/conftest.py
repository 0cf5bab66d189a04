"""A small robot, a dataset of it written by the real store, and a tiny training."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from armature.normalizer import FieldStats, Normalizer
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
from armature.testing import random_observation
from data_collection.store import create_dataset
from policies.chunk_policy import ChunkPolicy
from policies.presets.catalog import PRESETS
from policies.registry import family_of
from policies.train_config import TrainConfig
from policies.train_residual_log import ResidualLog

# The module beside this file that makes folders of pretrained encoders.
sys.path.insert(0, str(Path(__file__).parent))

PERIOD_NS = 50_000_000


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def spec() -> RobotSpec:
    joint = ArraySpec(JOINT_POSITION, (2,), "float32", "rad", low=(-2.0, -2.0), high=(2.0, 2.0), labels=("j1", "j2"))
    gripper = ArraySpec(GRIPPER_OPENING, (1,), "float32", "m", low=(0.0,), high=(0.08,), labels=("gripper",))
    cameras = [ArraySpec(name, (24, 32, 3), "uint8", "rgb8") for name in (CAMERA_SCENE, CAMERA_WRIST)]
    return RobotSpec(
        "arm", ObservationSpec((*cameras, joint, gripper), 20.0), ActionSpec("joint_position", (joint, gripper), 20.0)
    )


Outcome = bool | None | Literal["incomplete"]


def write_dataset(
    path: Path,
    spec: RobotSpec,
    lengths: list[int],
    success: Outcome | list[Outcome] = True,
    spoil: tuple[str, int, int, float] | None = None,
    prompts: list[str] | None = None,
) -> Path:
    """Write episodes in which the arm moves on circles, and the command leads the measurement by one tick.

    `spoil` names a stream, an episode and a row where the first element is to be another number.
    """
    outcomes = success if isinstance(success, list) else [success] * len(lengths)
    rng = np.random.default_rng(0)
    with create_dataset(path, spec, "circle").writer() as writer:
        for seed, length in enumerate(lengths):
            episode = writer.begin({} if prompts is None else {"prompt": prompts[seed]})
            stamps = np.arange(length, dtype=np.int64) * PERIOD_NS
            angle = np.linspace(0, 3, length + 1) + rng.uniform(0, 1)
            arm = np.stack([np.sin(angle), np.cos(angle), 0.04 + 0.04 * np.sin(angle)], axis=1)
            values = {JOINT_POSITION: arm[:-1, :2].astype(np.float32), GRIPPER_OPENING: arm[:-1, 2:].astype(np.float32)}
            for camera in (CAMERA_SCENE, CAMERA_WRIST):
                values[camera] = rng.integers(0, 256, (length, 24, 32, 3), dtype=np.uint8)
            values |= {"action/executed": arm[1:], "action/requested": arm[1:]}
            if spoil is not None and spoil[1] == seed:
                values[spoil[0]][spoil[2], 0] = spoil[3]
            for stream, data in values.items():
                episode.append(stream, stamps, stamps, data)
            if outcomes[seed] == "incomplete":
                episode.commit()
                episode.fail("the disk was full")
            else:
                episode.end({"seed": seed, "success": outcomes[seed]})
    return path


@pytest.fixture(scope="session")
def dataset(tmp_path_factory, spec) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "circle", spec, [12, 5, 9, 10])


@pytest.fixture
def record(tmp_path, spec):
    """Return a function that writes another dataset: record(lengths, success, spoil, prompts) -> path."""
    return lambda *what, **how: write_dataset(tmp_path / "recorded", spec, *what, **how)


@pytest.fixture
def train_config(dataset, tmp_path) -> TrainConfig:
    return PRESETS["diffusion_tiny"](dataset, tmp_path / "run")


def make_policy(spec: RobotSpec, family: str = "diffusion", seed: int = 0, method=None, **changes) -> ChunkPolicy:
    """Make an untrained policy of the family's tiny preset, ready for inference.

    `changes` are those of the PolicyConfig, `method` a dict of those of the method's. Its statistics are the bounds of
    the spec.
    """
    preset = PRESETS[f"{family}_tiny"](Path(), Path())
    config, method = replace(preset.policy, **changes), replace(preset.method, **(method or {}))
    bounds = {array.name: np.array([array.low, array.high]) for array in config.seen(spec).observation.vectors}
    bounds["action"] = np.stack([spec.action.low, spec.action.high])
    fields = {name: FieldStats.of(value) for name, value in bounds.items()}
    torch.manual_seed(seed)
    return ChunkPolicy(
        family_of(method), config, method, spec, Normalizer(fields, dict.fromkeys(fields, "limits"))
    ).eval()


@pytest.fixture(scope="session")
def new_policy(spec):
    """Return a function that makes an untrained policy: new_policy(family, seed=0, method={...}, **policy_changes)."""
    return lambda *family, **changes: make_policy(spec, *family, **changes)


def random_batch(policy: ChunkPolicy, count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Draw valid observations and actions, as a training batch of `count` windows."""
    rng = np.random.default_rng(seed)
    observations = [random_observation(policy.spec, policy.obs_steps, rng, 0).values for _ in range(count)]
    names = policy.spec.observation.names
    values = {name: torch.from_numpy(np.stack([o[name] for o in observations])) for name in names}
    bounds = policy.spec.action.low, policy.spec.action.high
    actions = rng.uniform(*bounds, (count, policy.config.chunk_steps, policy.spec.action.dim))
    return {**values, "action": torch.from_numpy(actions).float()}


@pytest.fixture
def batch_of():
    """Return a function that draws a batch for a policy: batch_of(policy, count, seed=0)."""
    return random_batch


@pytest.fixture(scope="session")
def pretrained_folder(tmp_path_factory):
    """Return a function that saves a tiny pretrained encoder once: pretrained_folder(kind) -> path."""
    from pretrained_folders import make_folder

    root = tmp_path_factory.mktemp("pretrained")

    def make(kind: str) -> Path:
        path = root / kind
        return path if path.is_dir() else make_folder(path, kind)

    return make


@pytest.fixture
def interrupted(monkeypatch):
    """A context in which a training of a robot is interrupted after so many steps; -1: while it warms up."""

    @contextmanager
    def context(module: str, after_steps: int):
        stop = threading.Event()

        @contextmanager
        def interruption():
            yield stop

        class Stopping(ResidualLog):
            def step(self, step, figures, learner):
                super().step(step, figures, learner)
                if step >= after_steps:
                    stop.set()

        with monkeypatch.context() as patch:
            patch.setattr("policies.train_online.interruption", interruption)
            patch.setattr(f"policies.{module}.ResidualLog", Stopping)
            yield

    return context
