"""Episodes from one dataset to another, file by file: nothing is encoded again, and every checksum is checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from armature.errors import ArmatureError, DatasetError, SpecMismatch
from armature.filesystem import PARTIAL, sync_tree
from armature.spec import differences
from data_collection.dataset_writer import DatasetWriter
from data_collection.episode import Episode
from data_collection.history import EpisodeRecord
from data_collection.layout import EPISODES, episode_folder
from data_collection.store import Dataset, create_dataset
from data_collection.verify import verified_length
from data_collection.writer_lock import abandon_draft, remove_draft

OnEpisode = Callable[[int], None]

_OF_ONE_FILE = {"path", "mask", "data_attributes", "version", "robot_type"}
"""What an import's `source` says of the foreign file; all else says how each stream is named and scaled there."""


def merge(datasets: Sequence[Dataset], path: Path, on_episode: OnEpisode = lambda _: None) -> Dataset:
    """Copy the complete episodes of several datasets of one robot and task into a new one at `path`.

    Of what imports remember for exports, only what is true of every episode comes along.
    """
    first = datasets[0]
    for other in datasets[1:]:
        _require_alike(first, other)
    episodes = [episode for dataset in datasets for episode in dataset.episodes if episode.is_complete]
    like = replace(first, attributes=_common_attributes(datasets, episodes))
    return copy_episodes(like, episodes, path, on_episode)


def split(dataset: Dataset, fraction: float, seed: int, first: Path, second: Path) -> tuple[Dataset, Dataset]:
    """Copy a random `fraction` of the complete episodes to `first` and the others to `second`."""
    if not 0.0 < fraction < 1.0:
        raise DatasetError(f"fraction is {fraction:g}, must be between 0 and 1")
    if first.resolve() == second.resolve():
        raise DatasetError(f"{second}: is given for both parts; choose two paths")
    for part in (first, second):
        _require_new(part)
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
    _require_new(path)
    draft = path.with_name(f".{path.name}.copying")
    remove_draft(draft)
    try:
        dataset = create_dataset(draft, like.spec, like.task, encodings=like.encodings, attributes=like.attributes)
        with dataset.writer() as writer:
            for count, episode in enumerate(episodes, start=1):
                _copy_episode(writer, dataset, episode)
                on_episode(count)
            # While the draft is still ours: another copy would remove it.
            writer.fs.rename(draft, path)
            writer.fs.sync(path.parent)
    except ArmatureError:
        abandon_draft(draft)
        raise
    except OSError as error:
        abandon_draft(draft)
        raise DatasetError(f"{path}: cannot be written: {error}") from error
    return replace(dataset, path=path, files=type(dataset.files)(path))  # type: ignore[call-arg]


def _copy_episode(writer: DatasetWriter, dataset: Dataset, episode: Episode) -> None:
    index = writer.next_index
    target = episode_folder(dataset.path, index)
    source = episode_folder(Path(episode.dataset), episode.index)
    if not source.is_dir():
        raise DatasetError(f"{episode.dataset}: episode {episode.index}: {source} is missing; repair it first")
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


def _require_new(path: Path) -> None:
    if path.exists():
        raise DatasetError(f"{path}: exists already; choose a new path")


def _common_attributes(datasets: Sequence[Dataset], episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return what all datasets say; without `source` where imports named or scaled a stream differently."""
    common = _common([dataset.attributes for dataset in datasets])
    sources = [dataset.attributes.get("source", {}) for dataset in datasets]
    source = _common(sources)
    if all("data_attributes" in said for said in sources):
        source["data_attributes"] = _common([said["data_attributes"] for said in sources])
    names = [episode.metadata.get("source_episode") for episode in episodes]
    if len(set(names)) < len(names):  # an export numbers them anew, and the filter keys would name others
        source.pop("mask", None)
    differing = {key for said in sources for key in said} - source.keys() - _OF_ONE_FILE
    return {**common, "source": {} if differing else source} if any(sources) else common


def _common(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = mappings
    return {k: v for k, v in first.items() if all(k in other and other[k] == v for other in others)}


def _require_alike(one: Dataset, other: Dataset) -> None:
    found: list[Any] = [*differences(one.spec, other.spec), *differences(other.spec, one.spec)]
    if one.task != other.task:
        found.append(f"task: '{one.task}' and '{other.task}'")
    if dict(one.encodings) != dict(other.encodings):
        found.append(f"encodings: {dict(one.encodings)} and {dict(other.encodings)}")
    if found:
        raise SpecMismatch(f"{one.path} and {other.path} cannot be merged: {'; '.join(found)}")
