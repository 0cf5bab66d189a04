"""rosbag2 recordings as raw messages: mcap or sqlite3, one file or many, with or without a metadata.yaml.

The files are read through rosbags' storage readers. Its directory reader is left out: it matches the topics of
metadata.yaml and file by their QoS settings too, and gives no messages, silently, where those are written differently
(ROS's own sample bags are such). Here every message is counted, and another number than claimed is an error.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import apsw
from rich.table import Table
from rosbags.interfaces import MessageDefinition
from rosbags.rosbag2 import Reader

# The standard library's from Python 3.14 on, before that the backport that rosbags brings.
from rosbags.rosbag2.reader import zstd

from armature.errors import ArmatureError, DatasetError
from data_collection.converters.rosbag2.limits import BYTES_MAX, check_index, check_mcap
from data_collection.converters.rosbag2.metadata import METADATA_NAME, Metadata, read_metadata

STORAGES = {".mcap": "mcap", ".db3": "sqlite3"}
FREE_BYTES_MIN = 2_000_000_000
"""A file-compressed bag is unpacked into the temporary folder only as long as so much stays free there."""


class Message(NamedTuple):
    """One recorded message, as CDR bytes."""

    topic: str
    number: int
    """Counted from 0 on its topic, over all files of the bag."""
    log_ns: int
    """When the recorder received it."""
    data: bytes
    file: Path


@dataclass(frozen=True)
class Topic:
    """A topic of a bag, with the number of messages that the bag claims."""

    name: str
    type: str
    count: int
    definition: MessageDefinition


@dataclass(frozen=True)
class Bag:
    """A recording, opened and checked; no message has been read."""

    path: Path
    files: tuple[Path, ...]
    topics: dict[str, Topic]
    start_ns: int
    end_ns: int
    compression: str
    """`file`, `message` or empty; a compression inside of mcap files is not meant."""
    custom: dict[str, str]
    """What its writer left in metadata.yaml under `custom_data`."""

    def topic(self, name: str) -> Topic:
        """Return a topic; raise DatasetError listing all topics and their types where there is no such."""
        if name not in self.topics:
            known = ", ".join(f"{topic.name} ({topic.type})" for topic in self.topics.values())
            raise DatasetError(f"{self.path}: there is no topic '{name}'. Valid: {known or '(none)'}")
        return self.topics[name]


def find_bags(source: Path, each_file: bool = False) -> list[Path]:
    """List the bags at `source`: a storage file, a bag's folder, or a folder of either, in the order of their numbers.

    A folder that holds storage files is one bag in pieces; with `each_file` every file in it is a bag.
    """
    if not source.exists():
        raise DatasetError(f"{source}: there is no such file or folder")
    if source.is_file() or (_is_bag(source) and not each_file):
        return [source]
    found = [path for path in _by_number(source) if _suffix(path) in STORAGES or (path.is_dir() and _is_bag(path))]
    if not found:
        raise DatasetError(f"{source}: holds no bag: no metadata.yaml, no .mcap and no .db3 file")
    return found


def open_bag(path: Path) -> Bag:
    """Open a bag; raise DatasetError naming file and field where it is not what it claims to be."""
    metadata = read_metadata(path) if path.is_dir() and (path / METADATA_NAME).exists() else None
    files = _files(path, metadata)
    compression = metadata.compression if metadata else ("file" if files[0].suffix == ".zstd" else "")
    topics: dict[str, Topic] = {}
    times: list[int] = []
    for file in files:
        with _naming(file), _storage(file, compression, check=True) as reader:
            _add_topics(file, reader, topics)
            times += [reader.start_time, reader.end_time] if reader.message_count else []
    if metadata:
        _require_counts(path, metadata, topics)
    custom = metadata.custom if metadata else {}
    return Bag(path, files, topics, min(times, default=0), max(times, default=0), compression, custom)


def read_messages(bag: Bag, topics: Iterator[str] | set[str] | None = None) -> Iterator[Message]:
    """Read the messages of some topics, or of all, file by file in the order of their log times.

    Raises DatasetError naming the file where it is damaged, and the topic where more or fewer messages than claimed
    come.
    """
    wanted = set(bag.topics if topics is None else topics)
    numbers: Counter[str] = Counter()
    for file in bag.files:
        with _naming(file), _storage(file, bag.compression) as reader:
            connections = [connection for connection in reader.connections if connection.topic in wanted]
            # To rosbags no connection means all.
            for connection, log_ns, data in reader.messages(connections) if connections else ():
                name = connection.topic
                if not isinstance(data, bytes) or not isinstance(log_ns, int) or not 0 <= log_ns < 1 << 63:
                    raise DatasetError(
                        f"{file}: {name}: message {numbers[name]}: log time {log_ns!r}, {type(data).__name__}"
                    )
                raw = _unpacked(data) if bag.compression == "message" else data
                yield Message(name, numbers[name], log_ns, raw, file)
                numbers[name] += 1
    for name in sorted(wanted):
        if numbers[name] != bag.topic(name).count:
            raise DatasetError(
                f"{bag.path}: topic {name}: claims {bag.topic(name).count} messages, {numbers[name]} were read"
            )


def describe_bag(path: Path) -> Table:
    """Return a table of a bag's topics: type, count, mean rate."""
    bag = open_bag(path)
    duration_s = (bag.end_ns - bag.start_ns) / 1e9
    count = sum(topic.count for topic in bag.topics.values())
    table = Table("topic", "type", "messages", "rate [Hz]", title=f"{path}: {count} messages in {duration_s:.3f} s")
    for topic in sorted(bag.topics.values(), key=lambda topic: topic.name):
        rate = f"{(topic.count - 1) / duration_s:.2f}" if topic.count > 1 and duration_s > 0 else "-"
        table.add_row(topic.name, topic.type, str(topic.count), rate)
    return table


def _suffix(path: Path) -> str:
    """Return the ending that tells the storage, also of `a.mcap.zstd`."""
    return Path(path.stem).suffix if path.suffix == ".zstd" else path.suffix


def _is_bag(folder: Path) -> bool:
    return (folder / METADATA_NAME).exists() or any(_suffix(path) in STORAGES for path in folder.iterdir())


def _by_number(folder: Path) -> list[Path]:
    """Sort so that part_10 comes after part_9; hidden files are left out."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(
        paths, key=lambda path: [part.zfill(20) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
    )


def _files(path: Path, metadata: Metadata | None) -> tuple[Path, ...]:
    if path.is_file():
        files = (path,)
    elif metadata:
        files = metadata.files
    else:
        files = tuple(file for file in _by_number(path) if _suffix(file) in STORAGES)
    root = path.resolve() if path.is_dir() else path.resolve().parent
    for file in files:
        _require_storage(file, root, metadata)
    if len({(_suffix(file), file.suffix) for file in files}) > 1:
        raise DatasetError(f"{path}: files of several storages: {', '.join(file.name for file in files)}")
    return files


def _require_storage(file: Path, root: Path, metadata: Metadata | None) -> None:
    if not file.is_file():
        raise DatasetError(f"{file}: is named in {METADATA_NAME} but missing")
    if not file.resolve().is_relative_to(root):
        raise DatasetError(f"{file}: leads out of the bag, to {file.resolve()}")
    storage = STORAGES.get(_suffix(file))
    if storage is None or (metadata and metadata.storage != storage):
        expected = metadata.storage if metadata else "mcap or sqlite3"
        raise DatasetError(f"{file}: is no {expected} file. Valid endings: {', '.join(STORAGES)}, and .zstd after them")
    wal = file.with_name(f"{file.name}-wal")
    if wal.exists() and wal.stat().st_size:
        # Opened read-only, SQLite would pass over what lies there, and messages would be lost without a word.
        raise DatasetError(f"{wal}: holds messages that are not in the bag yet: run `sqlite3 {file.name} .tables` once")


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except ArmatureError:
        raise
    except Exception as error:
        # Bytes that nobody vouches for go through four parsers here; whatever they stumble over is the file's fault.
        raise DatasetError(f"{file}: cannot be read: {type(error).__name__}: {error}") from error


@contextmanager
def _storage(file: Path, compression: str, check: bool = False) -> Iterator[Any]:
    with TemporaryDirectory() as folder:
        plain = _unpack_file(file, Path(folder)) if compression == "file" else file
        if plain.suffix == ".db3":
            _require_pages(plain)
        chunks = check_mcap(plain) if check and plain.suffix == ".mcap" else None
        with Reader(plain) as reader:
            if chunks is not None:
                check_index(plain, chunks, reader.storage.chunks)
            if plain.suffix == ".db3":
                reader.storage.dbconn.limit(apsw.SQLITE_LIMIT_LENGTH, BYTES_MAX)
            yield reader


def _require_pages(file: Path) -> None:
    """Raise DatasetError where an sqlite3 file is shorter than its head says: SQLite itself reads what is left."""
    with file.open("rb") as raw:
        head = raw.read(100)
    page_bytes, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    expected = (65536 if page_bytes == 1 else page_bytes) * pages
    if len(head) < 100 or file.stat().st_size < expected:
        raise DatasetError(f"{file}: is cut: it has {file.stat().st_size} bytes, its head says {expected}")


def _unpack_file(file: Path, folder: Path) -> Path:
    plain = folder / file.stem
    with file.open("rb") as raw, zstd.open(raw, "rb") as source, plain.open("wb") as target:
        while block := source.read(1 << 20):
            if shutil.disk_usage(folder).free < FREE_BYTES_MIN:
                raise DatasetError(
                    f"{file}: unpacked, it would leave less than {FREE_BYTES_MIN} bytes in {folder.parent}"
                )
            target.write(block)
    return plain


def _unpacked(data: bytes) -> bytes:
    decompressor = zstd.ZstdDecompressor()
    raw = decompressor.decompress(data, max_length=BYTES_MAX)
    if not decompressor.eof:
        raise DatasetError(f"a compressed message is cut, or larger than {BYTES_MAX} bytes")
    return raw


def _add_topics(file: Path, reader: Any, topics: dict[str, Topic]) -> None:
    for connection in reader.connections:
        encoding = connection.ext.serialization_format
        if encoding != "cdr":
            raise DatasetError(f"{file}: topic {connection.topic}: serialization '{encoding}'. Valid: cdr")
        name, known = connection.topic, topics.get(connection.topic)
        if known and known.type != connection.msgtype:
            raise DatasetError(f"{file}: topic {name}: is both {known.type} and {connection.msgtype}")
        count = connection.msgcount + (known.count if known else 0)
        topics[name] = Topic(name, connection.msgtype, count, known.definition if known else connection.msgdef)


def _require_counts(path: Path, metadata: Metadata, topics: dict[str, Topic]) -> None:
    found = {topic.name: topic.count for topic in topics.values() if topic.count}
    for name in sorted(found.keys() | metadata.counts.keys()):
        claimed = metadata.counts.get(name, 0)
        if claimed != found.get(name, 0):
            raise DatasetError(
                f"{path / METADATA_NAME}: topic {name}: message_count is {claimed}, the files hold {found.get(name, 0)}"
            )
    for name, kind in metadata.types.items():
        topic = topics.setdefault(name, Topic(name, kind, 0, MessageDefinition(None, "")))
        if topic.type != kind:
            raise DatasetError(f"{path / METADATA_NAME}: topic {name}: type is {kind}, the files say {topic.type}")
