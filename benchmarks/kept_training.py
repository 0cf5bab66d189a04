"""Trainings that are kept in a folder and not repeated: a benchmark can be run one training at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from armature.config import to_plain
from armature.errors import ConfigError
from policies.checkpoint import read_document
from policies.train import train
from policies.train_config import TrainConfig, read_recorded

# Says where and how a training ran, not what was learned.
_CIRCUMSTANCES = ("dataset", "out", "resume", "stop_at_step", "save_every_steps", "validate_every_steps", "threads",
                  "device", "windows", "cache", "compiled")  # fmt: skip


def trained(config: TrainConfig) -> Path:
    """Return the checkpoint of a training: what is there if it is what would be trained, else after the training.

    Raises ConfigError where something else is there.
    """
    if (config.out / "checkpoint").exists():
        _require_same(config)
        if read_document(config.out / "checkpoint")["provenance"]["training"]["steps"] == config.steps:
            return config.out / "checkpoint"
    return train(replace(config, resume=(config.out / "training_state").exists()))


def _require_same(config: TrainConfig) -> None:
    recorded = read_document(config.out / "checkpoint")["provenance"]["training"]["config"]
    try:
        told = to_plain(read_recorded(recorded, config))
    except ConfigError as error:
        raise ConfigError(f"{config.out}: was trained as another version did: {error}") from error
    for name, wanted in to_plain(config).items():
        if name not in _CIRCUMSTANCES and told[name] != wanted:
            raise ConfigError(
                f"{config.out}: was trained with {name} {told[name]}, the recipe says {wanted}; "
                "remove it or choose another --out"
            )
