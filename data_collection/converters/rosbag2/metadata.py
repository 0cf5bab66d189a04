"""The metadata.yaml of a bag, read as what a stranger wrote: every field checked before anything is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from reprlib import repr as short
from typing import Any

import yaml

from armature.errors import DatasetError, unknown

METADATA_NAME = "metadata.yaml"
VERSION_MAX = 9
_BYTES_MAX = 4 << 20
_COMPRESSIONS = {"": "", "none": "", "storage": "", "file": "file", "message": "message"}


@dataclass(frozen=True)
class Metadata:
    """What metadata.yaml says."""

    storage: str
    files: tuple[Path, ...]
    compression: str
    counts: dict[str, int]
    types: dict[str, str]
    custom: dict[str, str]


def read_metadata(folder: Path) -> Metadata:
    """Read metadata.yaml of a bag's folder; raise DatasetError naming the field that is missing or wrong."""
    path = folder / METADATA_NAME
    info = _information(path)
    version = _field(path, info, "version", int)
    if not 1 <= version <= VERSION_MAX:
        raise DatasetError(f"{path}: version {version} is not known; this Armature reads 1 to {VERSION_MAX}")
    storage = _field(path, info, "storage_identifier", str)
    if storage not in ("mcap", "sqlite3"):
        raise DatasetError(f"{path}: storage_identifier: {unknown('storage', storage, ('mcap', 'sqlite3'))}")
    topics = [_topic(path, entry) for entry in _field(path, info, "topics_with_message_count", list)]
    total, claimed = sum(count for _, _, count in topics), _field(path, info, "message_count", int)
    if total != claimed:
        raise DatasetError(f"{path}: message_count is {claimed}, its topics add up to {total}")
    counts: dict[str, int] = {}
    for name, _, count in topics:
        # Two publishers with different QoS settings give one topic twice.
        counts[name] = counts.get(name, 0) + count
    return Metadata(
        storage=storage,
        files=tuple(_inside(path, name, version) for name in _field(path, info, "relative_file_paths", list)),
        compression=_compression(path, info),
        counts=counts,
        types={name: kind for name, kind, _ in topics},
        custom=_custom(path, info),
    )


def _information(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_BYTES_MAX + 1)
        if len(text) > _BYTES_MAX:
            raise DatasetError(f"{path}: is larger than {_BYTES_MAX} bytes")
        data = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: holds no mapping")
    return _field(path, data, "rosbag2_bagfile_information", dict)


def _field(path: Path, data: Mapping[str, Any], name: str, kind: type) -> Any:
    value = data.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DatasetError(f"{path}: {name} is {short(value)}, expected {kind.__name__}")
    return value


def _topic(path: Path, entry: Any) -> tuple[str, str, int]:
    if not isinstance(entry, dict):
        raise DatasetError(f"{path}: topics_with_message_count holds {short(entry)}, expected a mapping")
    topic = _field(path, entry, "topic_metadata", dict)
    count = _field(path, entry, "message_count", int)
    name = _field(path, topic, "name", str)
    if count < 0:
        raise DatasetError(f"{path}: topic {name}: message_count is {count}")
    return name, _field(path, topic, "type", str), count


def _inside(path: Path, name: Any, version: int) -> Path:
    if not isinstance(name, str) or not name:
        raise DatasetError(f"{path}: relative_file_paths holds {short(name)}, expected a file's name")
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name:
        raise DatasetError(f"{path}: relative_file_paths holds '{name}': absolute paths and '..' are not allowed")
    # Before version 4 the paths began at the folder that holds the bag.
    return path.parent / (relative.name if version < 4 else relative)


def _compression(path: Path, info: Mapping[str, Any]) -> str:
    mode = str(info.get("compression_mode") or "").lower()
    if mode not in _COMPRESSIONS:
        raise DatasetError(f"{path}: compression_mode: {unknown('mode', mode, _COMPRESSIONS)}")
    form = info.get("compression_format") or ""
    if _COMPRESSIONS[mode] and form != "zstd":
        raise DatasetError(f"{path}: compression_format: {unknown('compression', str(form), ['zstd'])}")
    return _COMPRESSIONS[mode]


def _custom(path: Path, info: Mapping[str, Any]) -> dict[str, str]:
    custom = info.get("custom_data") or {}
    # Nested YAML aliases may stand for more than fits into memory, so that nothing is ever turned into text here.
    if not isinstance(custom, dict) or not all(isinstance(text, str) for pair in custom.items() for text in pair):
        raise DatasetError(f"{path}: custom_data is {short(custom)}, expected texts by name")
    return custom
