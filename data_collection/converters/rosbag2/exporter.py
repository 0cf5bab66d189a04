"""`armature data export mcap DATASET TARGET`: every episode as a rosbag2 folder that ROS 2 and Foxglove open.

TARGET/episode_000000/   one bag per episode, every stream on its own topic at its own rate
TARGET/mapping.yaml      by which `armature data import rosbag2 TARGET ...` gives back the same spec and arrays

header.stamp and log time are the acquisition stamps; the receive times, on
the recorder's steady clock, are on `<topic>/received_ns`. JPEG streams keep their very bytes.
"""

from __future__ import annotations

import heapq
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from armature.errors import ArmatureError, DatasetError, InvalidValue
from armature.filesystem import Fs, append_line, sync_tree
from data_collection.converters.rosbag2 import messages as ros
from data_collection.converters.rosbag2.importer import EPISODE_KEY
from data_collection.converters.rosbag2.mapping import MAPPING_NAME, dump_mapping
from data_collection.converters.rosbag2.message_types import jazzy
from data_collection.converters.rosbag2.topics import StreamTopic, mapping_of, stream_topics
from data_collection.store import Dataset, Episode, open_dataset

COMMENT = "Written by `armature data export mcap`; `armature data import rosbag2` takes it by itself."
DONE_NAME = ".done"


@dataclass(frozen=True)
class ExportConfig:
    """Export a dataset as rosbag2 recordings with mcap storage."""

    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """The new folder."""
    episode: int | None = None
    """Export only the episode of this number."""
    compression: Literal["none", "zstd"] = "none"
    """Of the chunks inside the mcap files; with zstd the export takes about five times as long."""


def export(config: ExportConfig, on_episode: Callable[[int, int], None] = lambda *_: None) -> None:
    """Write the bags in a draft beside the target; interrupted, the same call goes on after the last whole bag."""
    if config.target.exists():
        raise DatasetError(f"{config.target}: exists already; choose a new path")
    dataset = open_dataset(config.dataset)
    episodes = dataset.episodes if config.episode is None else [dataset.episode(config.episode)]
    if not episodes:
        raise DatasetError(f"{config.dataset}: has no episodes to export")
    draft, fs = config.target.with_name(f".{config.target.name}.exporting"), Fs()
    try:
        _write(config, dataset, episodes, draft, on_episode)
        sync_tree(fs, draft)
    except ArmatureError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    except OSError as error:
        raise DatasetError(f"{draft}: cannot be written: {error}; the same command goes on from here") from error
    fs.rename(draft, config.target)
    fs.sync(config.target.parent)


def _write(
    config: ExportConfig, dataset: Dataset, episodes: list[Episode], draft: Path, on_episode: Callable[[int, int], None]
) -> None:
    topics = stream_topics(dataset.spec, dataset.encodings)
    done = _begin(draft, f"{dataset.fingerprint} {config.episode} {config.compression}")
    for count, episode in enumerate(episodes, start=1):
        name = f"episode_{episode.index:06d}"
        if name not in done:
            shutil.rmtree(draft / name, ignore_errors=True)
            _write_bag(draft / name, episode, topics, config.compression)
            append_line(Fs(), draft / DONE_NAME, f"{name}\n".encode())
        on_episode(count, len(episodes))
    (draft / MAPPING_NAME).write_text(dump_mapping(mapping_of(dataset.spec, dataset.task, topics), COMMENT))
    (draft / DONE_NAME).unlink()


def _begin(draft: Path, key: str) -> set[str]:
    """Return the bags that an interrupted export of the same has finished, else begin a new draft."""
    if draft.exists():
        lines = (draft / DONE_NAME).read_text().splitlines() if (draft / DONE_NAME).is_file() else []
        if lines and lines[0] == key:
            return set(lines[1:])
        shutil.rmtree(draft)
    draft.mkdir(parents=True)
    append_line(Fs(), draft / DONE_NAME, f"{key}\n".encode())
    return set()


def _write_bag(folder: Path, episode: Episode, topics: list[StreamTopic], compression: str) -> None:
    writer = Writer(folder, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP)
    if compression == "zstd":
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    metadata = {**episode.metadata, "outcome": episode.outcome}
    writer.set_custom_data(EPISODE_KEY, json.dumps(metadata))
    with writer:
        connections = [_connect(writer, topic) for topic in topics]
        samples = heapq.merge(*(_samples(episode, topic, place) for place, topic in enumerate(topics)))
        for stamp_ns, place, received_ns, data in samples:
            connection, received = connections[place]
            writer.write(connection, stamp_ns, data)
            writer.write(received, stamp_ns, _serialized(ros.int64_message(received_ns), ros.INT64))
    sync_tree(Fs(), folder)


def _connect(writer: Writer, topic: StreamTopic) -> tuple[Any, Any]:
    return (
        writer.add_connection(topic.topic, topic.type_name, typestore=jazzy()),
        writer.add_connection(topic.received, ros.INT64, typestore=jazzy()),
    )


def _samples(episode: Episode, topic: StreamTopic, place: int) -> Iterator[tuple[int, int, int, memoryview]]:
    """Yield stamp, the stream's place, receive time and serialised message of every sample, in order."""
    name = topic.array.name
    for stamp_ns, received_ns, value in _encoded(episode, name) if topic.is_jpeg else _values(episode, name):
        try:
            # Where there is no header, the log time alone tells the stamp; it has the same limits.
            ros.require_stamp(stamp_ns)
            message = topic.to_message(value, stamp_ns)
        except InvalidValue as error:
            raise DatasetError(f"{episode.dataset}: episode {episode.index}, stream {name}: {error}") from error
        yield stamp_ns, place, received_ns, _serialized(message, topic.type_name)


def _values(episode: Episode, name: str) -> Iterator[tuple[int, int, Any]]:
    for stamps_ns, received_ns, values in episode.blocks(name):
        yield from zip(stamps_ns.tolist(), received_ns.tolist(), values, strict=True)


def _encoded(episode: Episode, name: str) -> Iterator[tuple[int, int, bytes]]:
    stamps_ns, received_ns = episode.read_stamps(name)
    for row, times in enumerate(zip(stamps_ns.tolist(), received_ns.tolist(), strict=True)):
        yield *times, episode.read_encoded(name, row)


def _serialized(message: Any, type_name: str) -> memoryview:
    return jazzy().serialize_cdr(message, type_name, little_endian=True)
