"""Episodes from one dataset to another, file by file: nothing is encoded again, and every checksum is checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from armature.errors import ArmatureError, DatasetError, SpecMismatch
from armature.filesystem import PARTIAL, Fs, sync_tree
from armature.spec import differences
from data_collection.dataset_writer import DatasetWriter
from data_collection.episode import Episode
from data_collection.history import EpisodeRecord
from data_collection.layout import EPISODES, episode_folder
from data_collection.store import Dataset, create_dataset
from data_collection.verify import verified_length

OnEpisode = Callable[[int], None]


def merge(datasets: Sequence[Dataset], path: Path, on_episode: OnEpisode = lambda _: None) -> Dataset:
    """Copy the complete episodes of several datasets of one robot and task into a new one at `path`."""
    first = datasets[0]
    for other in datasets[1:]:
        _require_alike(first, other)
    episodes = [episode for dataset in datasets for episode in dataset.episodes if episode.is_complete]
    return copy_episodes(first, episodes, path, on_episode)


def split(dataset: Dataset, fraction: float, seed: int, first: Path, second: Path) -> tuple[Dataset, Dataset]:
    """Copy a random `fraction` of the complete episodes to `first` and the others to `second`."""
    if not 0.0 < fraction < 1.0:
        raise DatasetError(f"fraction is {fraction:g}, must be between 0 and 1")
    episodes = [episode for episode in dataset.episodes if episode.is_complete]
    order = np.random.default_rng(seed).permutation(len(episodes))
    count = round(fraction * len(episodes))
    if not 0 < count < len(episodes):
        raise DatasetError(f"{dataset.path}: {len(episodes)} episodes cannot be split at {fraction:g}")
    parts = (sorted(order[:count]), sorted(order[count:]))
    one, two = ([episodes[i] for i in part] for part in parts)
    return copy_episodes(dataset, one, first), copy_episodes(dataset, two, second)


def copy_episodes(
    like: Dataset, episodes: Sequence[Episode], path: Path, on_episode: OnEpisode = lambda _: None
) -> Dataset:
    """Copy episodes into a new dataset, whole or not at all; raise DatasetError on a damaged one."""
    if path.exists():
        raise DatasetError(f"{path}: exists already; choose a new path")
    draft = path.with_name(f".{path.name}.copying")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        dataset = create_dataset(draft, like.spec, like.task, encodings=like.encodings, attributes=like.attributes)
        with dataset.writer() as writer:
            for count, episode in enumerate(episodes, start=1):
                _copy_episode(writer, dataset, episode)
                on_episode(count)
    except (ArmatureError, OSError):
        shutil.rmtree(draft, ignore_errors=True)
        raise
    fs = Fs()
    fs.rename(draft, path)
    fs.sync(path.parent)
    return replace(dataset, path=path, files=type(dataset.files)(path))  # type: ignore[call-arg]


def _copy_episode(writer: DatasetWriter, dataset: Dataset, episode: Episode) -> None:
    index = writer.next_index
    target = episode_folder(dataset.path, index)
    source = episode_folder(Path(episode.dataset), episode.index)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(f"*{PARTIAL}"))
    origin = {"dataset": Path(episode.dataset).name, "episode": episode.index}
    record = EpisodeRecord(index, {**episode.metadata, "copied_from": origin}, episode.record.streams, is_ended=True)
    copy = replace(episode, dataset=str(dataset.path), files=dataset.files, record=record)
    for name in copy.streams:
        if verified_length(copy, name) != copy.length(name):
            raise DatasetError(f"{episode.dataset}: episode {episode.index}, stream {name}: damaged; repair it first")
    sync_tree(writer.fs, target)
    writer.fs.sync(dataset.path / EPISODES)
    writer.adopt(record)


def _require_alike(one: Dataset, other: Dataset) -> None:
    found: list[Any] = [*differences(one.spec, other.spec), *differences(other.spec, one.spec)]
    if one.task != other.task:
        found.append(f"task: '{one.task}' and '{other.task}'")
    if dict(one.encodings) != dict(other.encodings):
        found.append(f"encodings: {dict(one.encodings)} and {dict(other.encodings)}")
    if found:
        raise SpecMismatch(f"{one.path} and {other.path} cannot be merged: {'; '.join(found)}")
