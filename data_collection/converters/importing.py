"""Imports a foreign dataset episode by episode: interrupted, it goes on where it was; a bad source leaves nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from armature.errors import ArmatureError, DatasetError, InvalidValue
from armature.filesystem import Fs
from data_collection.converters.source import Source, SourceEpisode, fingerprint_of
from data_collection.dataset_writer import DatasetWriter
from data_collection.store import Dataset, create_dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED
from data_collection.writer_lock import abandon_draft, remove_draft


def import_source(source: Source, path: Path, on_episode: Callable[[int], None] = lambda _: None) -> Dataset:
    """Copy `source` into a new dataset at `path`; `on_episode(count)` is called as episodes are done.

    The work is done in a draft beside `path`. After Ctrl-C or a crash the same call resumes from its committed
    episodes; an error in the source removes the draft. Raises DatasetError naming source, episode and field, or the
    process that is importing to `path` already; its draft is left alone.
    """
    if path.exists():
        raise DatasetError(f"{path}: exists already; choose a new path")
    draft = path.with_name(f".{path.name}.importing")
    try:
        dataset = _open_draft(source, draft)
        with dataset.writer() as writer:
            _copy(source, dataset, writer, on_episode)
            _rename(draft, path)
    except ArmatureError:
        abandon_draft(draft)
        raise
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written: {error}; the same import goes on where it was") from error
    return open_dataset(path)


def _open_draft(source: Source, draft: Path) -> Dataset:
    """Open the draft of an interrupted import of the same source, else begin a new one."""
    key = fingerprint_of(source)
    if draft.exists():
        found = open_dataset(draft)
        if found.attributes.get("import_key") == key:
            return found
        remove_draft(draft)
    attributes = {"source": dict(source.attributes), "import_key": key}
    return create_dataset(draft, source.spec, source.task, encodings=source.encodings, attributes=attributes)


def _copy(source: Source, dataset: Dataset, writer: DatasetWriter, on_episode: Callable[[int], None]) -> None:
    done = _episodes_done(dataset, writer)
    for count, episode in enumerate(source.episodes, start=1):
        if episode.name not in done:
            _copy_episode(source, episode, writer)
        on_episode(count)


def _episodes_done(dataset: Dataset, writer: DatasetWriter) -> set[str]:
    """Return the source's names of the episodes that came over whole; drop those that a writer had to close."""
    done: set[str] = set()
    for episode in dataset.episodes:
        if episode.metadata["source_episode"] is None:
            writer.drop(episode.index)
        else:
            done.add(episode.metadata["source_episode"])
    return done


def _copy_episode(source: Source, episode: SourceEpisode, writer: DatasetWriter) -> None:
    clocks = {"stamp_ns": "of the source", "received_ns": "of the source"}
    # Its name is told at the end: an episode that a writer closes, dying, has all metadata but this.
    out = writer.begin({"clocks": clocks, **episode.metadata, "source_episode": None})
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
    out.end({"source_episode": episode.name})


def _rename(draft: Path, path: Path) -> None:
    fs = Fs()
    fs.rename(draft, path)
    fs.sync(path.parent)
