"""What a training run is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from armature.alignment import AlignmentConfig
from data_collection.sampling import SamplingConfig
from policies.bc import BcConfig
from policies.checkpoint import SaveDtype
from policies.diffusion import DiffusionConfig
from policies.hrdt import HrdtConfig
from policies.mode import ModeConfig
from policies.policy_config import PolicyConfig
from policies.score import ScoreConfig
from policies.training_state import OptimizerConfig

MethodConfig = DiffusionConfig | ScoreConfig | ModeConfig | HrdtConfig | BcConfig


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
    """Optimiser steps of the whole training; the learning rate reaches zero there."""
    batch_size: int = 64
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
    threads: int | None = None
    """CPU threads of torch; None leaves torch's own choice."""
