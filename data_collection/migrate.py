"""Datasets of older format versions, copied into the present one; the original is left as it is.

Version 1: one commit line per whole episode, `stamp_ns` and `received_ns` as arrays of their own, images in plain
chunks of several frames, no encodings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from armature.errors import ArmatureError, DatasetError
from armature.spec import RobotSpec
from data_collection.commit_log import LOG_NAME, decode_line
from data_collection.dataset_writer import DatasetWriter
from data_collection.store import FORMAT, Dataset, create_dataset, open_dataset
from data_collection.writer_lock import abandon_draft, remove_draft

_ROWS = 256


def migrate(old: Path, new: Path, on_episode: Callable[[int], None] = lambda _: None) -> Dataset:
    """Copy a dataset of version 1 to `new` and compare what was written with what was read.

    Raises DatasetError on another version, on damage, and where the copy differs; then nothing is left at `new`.
    """
    attributes, entries = _open_v1(old)
    if new.exists():
        raise DatasetError(f"{new}: exists already; choose a new path")
    draft = new.with_name(f".{new.name}.migrating")
    remove_draft(draft)
    try:
        dataset = create_dataset(draft, RobotSpec.from_json(attributes["spec"]), attributes["task"])
        with dataset.writer() as writer:
            for count, entry in enumerate(entries, start=1):
                _copy_episode(old, writer, entry)
                on_episode(count)
            # While the draft is still ours: another migration would remove it.
            _compare(old, dataset, entries)
            writer.fs.rename(draft, new)
            writer.fs.sync(new.parent)
    except ArmatureError:
        abandon_draft(draft)
        raise
    except OSError as error:
        abandon_draft(draft)
        raise DatasetError(f"{new}: cannot be written: {error}") from error
    return open_dataset(new)


def _open_v1(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]
        lines = (path / LOG_NAME).read_bytes()
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path}: there is no dataset here: {error}") from error
    version = attributes.get("format_version")
    if attributes.get("format") != FORMAT or version != 1:
        raise DatasetError(f"{path}: format version {version!r} cannot be migrated. Valid: 1")
    try:
        return attributes, [decode_line(line) for line in lines[: lines.rfind(b"\n") + 1].splitlines(keepends=True)]
    except ValueError as error:
        raise DatasetError(f"{path}: {LOG_NAME} is damaged: {error}") from error


def _copy_episode(old: Path, writer: DatasetWriter, entry: dict[str, Any]) -> None:
    origin = {"format_version": 1, "episode": entry["episode"], "versions": entry["metadata"].get("versions")}
    out = writer.begin({**entry["metadata"], "migrated_from": origin})
    for stream in entry["streams"]:
        for stamps_ns, received_ns, data in _blocks_v1(old, entry, stream):
            out.append(stream, stamps_ns, received_ns, data)
    out.end({})


def _blocks_v1(old: Path, entry: dict[str, Any], stream: str) -> Iterator[tuple[NDArray[Any], ...]]:
    length = entry["streams"][stream]["length"]
    where = f"{old}: episode {entry['episode']}, stream {stream}"
    try:
        group = zarr.open_group(old / "episodes" / f"{entry['episode']:06d}" / stream, mode="r", zarr_format=3)
        arrays = [_array(group[name], length) for name in ("stamp_ns", "received_ns", "data")]
        for begin in range(0, length, _ROWS):
            rows = slice(begin, min(begin + _ROWS, length))
            yield tuple(np.asarray(array[rows]) for array in arrays)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DatasetError(f"{where}: damaged: {error}") from error


def _array(array: Any, length: int) -> Any:
    # Zarr fills in zeros for a chunk that is not there.
    if array.shape[0] < length or array.nchunks_initialized < -(-length // array.chunks[0]):
        raise ValueError(f"{array.name} lacks chunks")
    return array


def _compare(old: Path, dataset: Dataset, entries: list[dict[str, Any]]) -> None:
    episodes = dataset.episodes
    if len(episodes) != len(entries):
        raise DatasetError(f"{old}: has {len(entries)} episodes, {len(episodes)} were written")
    for entry, episode in zip(entries, episodes, strict=True):
        for stream in entry["streams"]:
            written = episode.read(stream)
            columns = zip(*_blocks_v1(old, entry, stream), strict=True)
            pairs = [(np.concatenate(parts), copy) for parts, copy in zip(columns, written, strict=False)]
            alike = all(a.tobytes() == b.tobytes() for a, b in pairs)
            if not alike or len(written[0]) != entry["streams"][stream]["length"]:
                raise DatasetError(f"{old}: episode {entry['episode']}, stream {stream}: the copy differs")
