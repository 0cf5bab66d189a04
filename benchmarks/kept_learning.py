"""Residuals that were learned once and are kept in a folder, as `kept_training` keeps policies."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from armature.config import to_plain
from armature.errors import ConfigError
from armature.provenance import git_commit
from data_collection.store import open_dataset
from policies.checkpoint import load_policy
from policies.online_state import FOLDER as STATE
from policies.train_dsrl import DsrlTrainConfig, train_dsrl
from policies.train_residual import ResidualTrainConfig, train_residual

_CIRCUMSTANCES = ("base", "dataset", "out", "processes", "threads", "resume")
"""Say where and how something was learned, not what."""


def train_once(config: ResidualTrainConfig | DsrlTrainConfig) -> str:
    """Train, unless that was done, and return the commit that finished it; what was interrupted is gone on with.

    Raises ConfigError where something else was trained, or where it is interrupted.
    """
    done, origins = config.out / "done", _origins(config)
    if done.exists():
        return _require_same(config, origins)
    commit = git_commit()
    config = replace(config, resume=(config.out / STATE).is_dir())
    curve = train_dsrl(config) if isinstance(config, DsrlTrainConfig) else train_residual(config)
    if curve[-1].step < config.steps:
        raise ConfigError(f"{config.out}: interrupted after {curve[-1].step} of {config.steps} steps")
    done.write_text(json.dumps({**origins, "commit": commit}) + "\n")
    return commit


def _origins(config: ResidualTrainConfig | DsrlTrainConfig) -> dict[str, str | None]:
    """Return what a training begins with, wherever that lies."""
    base = None if config.base is None else load_policy(config.base).policy_id
    return {"base": base, "demonstrations": open_dataset(config.dataset).fingerprint}


def _require_same(config: ResidualTrainConfig | DsrlTrainConfig, origins: dict[str, str | None]) -> str:
    """Return the commit of a kept training; raise ConfigError where it is not what would be trained."""
    if not (told := (config.out / "done").read_text()):
        raise ConfigError(f"{config.out}: does not say which base and demonstrations it was learned with; remove it")
    kept, recorded = json.loads(told), json.loads((config.out / "config.json").read_text())
    for name, wanted in origins.items():
        if kept[name] != wanted:
            raise ConfigError(
                f"{config.out}: was learned with other {name} ({kept[name]}) than asked for ({wanted}); remove it"
            )
    for name, wanted in json.loads(json.dumps(to_plain(config), default=str)).items():
        if name not in _CIRCUMSTANCES and not _agree(recorded.get(name, wanted), wanted):
            raise ConfigError(
                f"{config.out}: was learned with {name} {recorded[name]}, asked for is {wanted}; remove it"
            )
    return kept["commit"]


def _agree(recorded: Any, wanted: Any) -> bool:
    """Compare what was configured with what would be; what is younger than the training says nothing."""
    if isinstance(recorded, dict) and isinstance(wanted, dict):
        return all(_agree(recorded[name], wanted[name]) for name in recorded.keys() & wanted.keys())
    return bool(recorded == wanted)
