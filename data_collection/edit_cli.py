"""`armature data repair|relabel|drop|merge|split|migrate`: changes to datasets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from rich.console import Console

from armature.errors import ConfigError, DatasetError
from data_collection import copying
from data_collection.migrate import migrate
from data_collection.repair import repair
from data_collection.store import open_dataset

C = TypeVar("C")
Place = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
New = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="NEW")]


@dataclass(frozen=True)
class RepairConfig:
    """Keep of every episode the longest prefix that can be read; the rest goes to lost/ in the dataset."""

    dataset: Place


@dataclass(frozen=True)
class RelabelConfig:
    """Change the outcome of an episode."""

    dataset: Place
    episode: Annotated[int, tyro.conf.Positional]
    outcome: Annotated[Literal["success", "failure", "incomplete"], tyro.conf.Positional]


@dataclass(frozen=True)
class DropConfig:
    """Take episodes out of a dataset, for ever."""

    dataset: Place
    episodes: Annotated[tuple[int, ...], tyro.conf.Positional]


@dataclass(frozen=True)
class MergeConfig:
    """Copy the complete episodes of several datasets into a new one."""

    datasets: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path
    """The new dataset."""


@dataclass(frozen=True)
class SplitConfig:
    """Copy the complete episodes of a dataset into two new ones, at random."""

    dataset: Place
    first: Path
    second: Path
    fraction: float = 0.9
    """How many of the episodes go to the first."""
    seed: int = 0


@dataclass(frozen=True)
class MigrateConfig:
    """Copy a dataset of an older format version into the present one."""

    old: Place
    new: New


def repair_main(argv: list[str]) -> int:
    """Run `armature data repair`; the exit code is 1 when something had to be repaired."""
    config = _parse(RepairConfig, argv, "repair")
    with _told(config.dataset):
        done = repair(config.dataset)
    for line in done:
        _say(line)
    _say(f"{config.dataset}: {'repaired' if done else 'is sound, nothing was changed'}")
    return 1 if done else 0


def relabel_main(argv: list[str]) -> int:
    """Run `armature data relabel`."""
    config = _parse(RelabelConfig, argv, "relabel")
    success = {"success": True, "failure": False, "incomplete": None}[config.outcome]
    with _told(config.dataset), open_dataset(config.dataset).writer() as writer:
        writer.relabel(config.episode, {"outcome": config.outcome, "success": success})
    _say(f"{config.dataset}: episode {config.episode} is now '{config.outcome}'")
    return 0


def drop_main(argv: list[str]) -> int:
    """Run `armature data drop`."""
    config = _parse(DropConfig, argv, "drop")
    dataset = open_dataset(config.dataset)
    episodes = tuple(dict.fromkeys(config.episodes))
    if not episodes:
        raise ConfigError(f"{config.dataset}: name the episodes to drop, by their numbers")
    for index in episodes:
        dataset.episode(index)
    with _told(config.dataset), dataset.writer() as writer:
        for index in episodes:
            writer.drop(index)
    _say(f"{config.dataset}: {len(episodes)} dropped, {len(dataset.episodes)} left")
    return 0


def merge_main(argv: list[str]) -> int:
    """Run `armature data merge`."""
    config = _parse(MergeConfig, argv, "merge")
    if not config.datasets:
        raise ConfigError("merge: name at least one dataset")
    merged = copying.merge([open_dataset(path) for path in config.datasets], config.out)
    _say(f"{config.out}: {len(merged.episodes)} episodes")
    return 0


def split_main(argv: list[str]) -> int:
    """Run `armature data split`."""
    config = _parse(SplitConfig, argv, "split")
    parts = copying.split(open_dataset(config.dataset), config.fraction, config.seed, config.first, config.second)
    for part in parts:
        _say(f"{part.path}: {len(part.episodes)} episodes")
    return 0


def migrate_main(argv: list[str]) -> int:
    """Run `armature data migrate`."""
    config = _parse(MigrateConfig, argv, "migrate")
    dataset = migrate(config.old, config.new)
    _say(f"{config.new}: {len(dataset.episodes)} episodes, equal to those of {config.old}")
    return 0


def _parse(config: type[C], argv: list[str], command: str) -> C:
    return tyro.cli(config, args=argv, prog=f"armature data {command}")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn an error of the disk into one that names the dataset."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written: {error}") from error


def _say(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
