"""Imports a foreign dataset episode by episode: interrupted, it goes on where it was; a bad source leaves nothing."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from armature.errors import ArmatureError, DatasetError, InvalidValue
from armature.filesystem import Fs
from data_collection.converters.source import Source, SourceEpisode, fingerprint_of
from data_collection.dataset_writer import DatasetWriter
from data_collection.store import Dataset, create_dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED


def import_source(source: Source, path: Path, on_episode: Callable[[int], None] = lambda _: None) -> Dataset:
    """Copy `source` into a new dataset at `path`; `on_episode(count)` is called as episodes are done.

    The work is done in a draft beside `path`. After Ctrl-C or a crash the same call resumes from its committed
    episodes; an error in the source removes the draft. Raises DatasetError naming source, episode and field.
    """
    if path.exists():
        raise DatasetError(f"{path}: exists already; choose a new path")
    draft = path.with_name(f".{path.name}.importing")
    try:
        dataset = _open_draft(source, draft)
        _copy(source, dataset, on_episode)
    except ArmatureError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written: {error}; the same import goes on where it was") from error
    fs = Fs()
    fs.rename(draft, path)
    fs.sync(path.parent)
    return open_dataset(path)


def _open_draft(source: Source, draft: Path) -> Dataset:
    """Open the draft of an interrupted import of the same source, else begin a new one."""
    key = fingerprint_of(source)
    if draft.exists():
        found = open_dataset(draft)
        if found.attributes.get("import_key") == key:
            return found
        shutil.rmtree(draft)
    attributes = {"source": dict(source.attributes), "import_key": key}
    return create_dataset(draft, source.spec, source.task, encodings=source.encodings, attributes=attributes)


def _copy(source: Source, dataset: Dataset, on_episode: Callable[[int], None]) -> None:
    with dataset.writer() as writer:
        done = {episode.metadata["source_episode"] for episode in dataset.episodes if episode.record.is_ended}
        for count, episode in enumerate(source.episodes, start=1):
            if episode.name not in done:
                _copy_episode(source, episode, writer)
            on_episode(count)


def _copy_episode(source: Source, episode: SourceEpisode, writer: DatasetWriter) -> None:
    clocks = {"stamp_ns": "of the source", "received_ns": "of the source"}
    out = writer.begin({"clocks": clocks, **episode.metadata, "source_episode": episode.name})
    lengths: Counter[str] = Counter()
    for name, stamps_ns, received_ns, values in episode.blocks():
        try:
            out.append(name, stamps_ns, received_ns, values)
        except InvalidValue as error:
            raise DatasetError(f"{source.path}: {episode.name}: {error}") from error
        lengths[name] += len(stamps_ns)
    if lengths[ACTION_EXECUTED] != episode.steps:
        raise DatasetError(
            f"{source.path}: {episode.name}: claims {episode.steps} actions, {lengths[ACTION_EXECUTED]} were found"
        )
    out.end({})
