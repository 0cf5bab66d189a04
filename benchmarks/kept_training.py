"""Trainings that are kept in a folder and not repeated: a benchmark can be run one training at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from armature.config import to_plain
from armature.errors import ConfigError
from data_collection.store import open_dataset
from policies.checkpoint import WEIGHTS, read_document
from policies.signed_folder import SHA256
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
    provenance = read_document(config.out / "checkpoint")["provenance"]
    origins = {"dataset": (provenance["dataset_fingerprint"], open_dataset(config.dataset).fingerprint)}
    if config.init_from is not None:
        origins["init_from"] = (provenance["init_from"]["sha256"], read_document(config.init_from)[SHA256][WEIGHTS])
    for name, (found, wanted) in origins.items():
        if found != wanted:
            raise ConfigError(
                f"{config.out}: was trained with another {name} ({found[:12]}) than {getattr(config, name)} "
                f"({wanted[:12]}); remove it or choose another --out"
            )
    recorded = provenance["training"]["config"]
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
