"""Residuals that were learned once and are kept in a folder, as `kept_training` keeps policies."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from armature.config import from_plain
from armature.errors import ConfigError
from armature.provenance import git_commit
from data_collection.store import open_dataset
from policies.checkpoint import load_policy
from policies.online_state import FOLDER as STATE
from policies.sampler import changes
from policies.train_dsrl import DsrlTrainConfig, train_dsrl
from policies.train_residual import ResidualTrainConfig, train_residual
from policies.train_residual_log import CURVE

_CIRCUMSTANCES = ("base", "dataset", "out", "processes", "threads", "resume")
"""Say where and how something was learned, not what."""


def train_once(config: ResidualTrainConfig | DsrlTrainConfig) -> str:
    """Train, unless that was done, and return the commits that did, mostly one; what was interrupted is gone on with.

    Raises ConfigError where something else was trained, or where it is interrupted.
    """
    done, origins = config.out / "done", _origins(config)
    if done.exists():
        return _require_same(config, origins)
    if not (resume := (config.out / STATE).is_dir()):
        _clear_what_has_not_begun(config.out)
    begun = config.out.with_name(f"{config.out.name}.commits")
    commits = [*(begun.read_text().split() if resume and begun.exists() else []), git_commit()]
    begun.parent.mkdir(parents=True, exist_ok=True)
    begun.write_text(" ".join(commits))
    config = replace(config, resume=resume)
    curve = train_dsrl(config) if isinstance(config, DsrlTrainConfig) else train_residual(config)
    if curve[-1].step < config.steps:
        raise ConfigError(f"{config.out}: interrupted after {curve[-1].step} of {config.steps} steps")
    commit = " ".join(dict.fromkeys(commits))
    done.write_text(json.dumps({**origins, "commit": commit}) + "\n")
    begun.unlink()
    return commit


def _clear_what_has_not_begun(out: Path) -> None:
    """Remove what is left of a training that was ended before its first evaluation: there is nothing to go on from."""
    curve = out / CURVE
    if curve.exists() and not curve.read_text():
        shutil.rmtree(out)


def _origins(config: ResidualTrainConfig | DsrlTrainConfig) -> dict[str, str | None]:
    """Return what a training begins with, wherever that lies."""
    base = None if config.base is None else load_policy(config.base).policy_id
    return {"base": base, "demonstrations": open_dataset(config.dataset).fingerprint}


def _require_same(config: ResidualTrainConfig | DsrlTrainConfig, origins: dict[str, str | None]) -> str:
    """Return the commits of a kept training; raise ConfigError where it is not what would be trained."""
    if not (told := (config.out / "done").read_text()):
        raise ConfigError(f"{config.out}: does not say which base and demonstrations it was learned with; remove it")
    kept = json.loads(told)
    for name, wanted in origins.items():
        if kept[name] != wanted:
            raise ConfigError(
                f"{config.out}: was learned with other {name} ({kept[name]}) than asked for ({wanted}); remove it"
            )
    # Through the config, so that an option that is younger than the training has its default there.
    recorded = from_plain(type(config), json.loads((config.out / "config.json").read_text()))
    for name, (before, wanted) in changes(recorded, config).items():
        if name.partition(".")[0] not in _CIRCUMSTANCES:
            raise ConfigError(f"{config.out}: was learned with {name} {before}, asked for is {wanted}; remove it")
    return kept["commit"]
