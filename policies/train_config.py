"""What a training run is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from armature.alignment import AlignmentConfig
from armature.config import from_plain
from armature.control.chunk_scheduler import SchedulerConfig
from armature.errors import ConfigError
from data_collection.sampling import SamplingConfig
from policies.bc import BcConfig
from policies.checkpoint import SaveDtype
from policies.diffusion import DiffusionConfig
from policies.ebt import EbtConfig
from policies.hrdt import HrdtConfig
from policies.mode import ModeConfig
from policies.policy_config import PolicyConfig
from policies.score import ScoreConfig
from policies.train_workers import Precision
from policies.training_state import OptimizerConfig

MethodConfig = DiffusionConfig | ScoreConfig | EbtConfig | ModeConfig | HrdtConfig | BcConfig


@dataclass(frozen=True)
class RolloutConfig:
    """Episodes in simulation while training, to keep the best checkpoint and not only the last."""

    every_steps: int = 0
    """Evaluate the averaged weights whenever so many steps are done, and at the end; 0: never."""
    task: str = "lift"
    """The simulated task, as in `armature eval`."""
    prompt: str = ""
    """What a policy that takes prompts is told: one of the dataset's; empty where the dataset has only one."""
    episodes: int = 20
    """Episodes per evaluation, with the seeds seed, seed + 1, ..."""
    seed: int = 50_000
    """Seed of the first episode. Others than those of `armature eval`: the best was chosen for doing well on these."""
    horizon_steps: int | None = None
    """Steps after which an attempt has failed; the task's own number if unset."""
    scheduler: SchedulerConfig = field(default_factory=lambda: SchedulerConfig("receding_horizon", 8))

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name, least in (("every_steps", 0), ("episodes", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"rollout.{name} is {getattr(self, name)}, must be at least {least}")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    dataset: Path
    """Folder of the recorded demonstrations."""
    out: Path
    """Folder for checkpoint, training state and tensorboard."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    method: Annotated[MethodConfig, tyro.conf.AvoidSubcommands] = field(default_factory=DiffusionConfig)
    """Config of the method; its type says which family is trained."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    preset: str = "lift_pixels"
    """Where the values come from that are not given on the command line: family_size, or a recipe for a task."""
    steps: int = 3000
    """Optimiser steps of the whole training; the learning rate reaches zero there, if its warm-up is over before."""
    batch_size: int = 64
    """Windows per optimiser step, over all processes."""
    accumulate_steps: int = 1
    """Parts in which each process computes its share of a batch: less memory, the same step. Parts differ in their
    random draws, so the result is that of the whole batch only up to those."""
    precision: Precision = "float32"
    """What the networks compute in while training; weights, optimiser and average stay float32. bf16 is for GPUs."""
    seed: int = 0
    """Fixes initial weights, order of the windows, noise, image windows and dropout."""
    validation_fraction: float = 0.05
    """Share of the episodes that is kept out of training, to measure the loss on."""
    episodes: Literal["successful", "all"] = "successful"
    """Learn from the complete episodes that are not marked as failed, or from all, failed and incomplete ones too."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    windows: Literal["memory", "mapped"] = "memory"
    """Hold the aligned episodes in memory, or map them from a cache on disk that is built once; the result is equal."""
    cache: Path | None = None
    """Folder of the cache of `mapped`; None is the folder .cache in the dataset."""
    validate_every_steps: int = 500
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Success in simulation, by which `out`/best is kept."""
    save_every_steps: int = 1000
    stop_at_step: int | None = None
    """Stop here with a resumable state, before the training is complete."""
    init_from: Path | None = None
    """Checkpoint of the same family to begin with; the robot must be the same, or see `new_embodiment`."""
    new_embodiment: bool = False
    """Take only the trunk of `init_from` and make anew what belongs to a robot: its adapters and decoder."""
    resume: bool = False
    """Continue from `out`/training_state."""
    save_dtype: SaveDtype = "float32"
    """float16 halves the checkpoint; it is computed in float32 either way."""
    export: bool = False
    """Also write the engine of the checkpoint (`armature export`), once the training is complete."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ...; of many processes on GPUs each takes its own."""
    threads: int | None = None
    """CPU threads of torch; None leaves torch's own choice."""
    compiled: bool = False
    """Compile what training spends its time on. Only ebt can: a step then takes 0.55 of the time, after a minute for
    a C++ compiler."""


def read_recorded(recorded: Mapping[str, Any], like: TrainConfig) -> TrainConfig:
    """Read the config of a training of the family of `like`; what began before an option existed had its default."""
    # The method apart: which of the methods' configs it is cannot be told from its fields.
    method = from_plain(type(like.method), recorded["method"])
    return replace(from_plain(TrainConfig, {**recorded, "method": {}}), method=method)
