"""The commit log: an episode exists if and only if its checksummed line stands in `commits.jsonl`.

Zarr has no commit of its own: a killed writer leaves arrays that are longer than what was written to them, and they
read back as zeros without an error. So the data goes to disk first, then one line is appended, and readers believe only
the log.
A line is JSON, `{"crc32": "9a0f3c21", "entry": {...}}`, with the checksum over the bytes of the entry.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armature.errors import DatasetError
from data_collection import durable

LOG_NAME = "commits.jsonl"


@dataclass(frozen=True)
class CommitLog:
    """The log as read at one moment: its entries, and how many leading bytes of the file they fill."""

    entries: tuple[dict[str, Any], ...]
    valid: bytes
    """The whole lines; whatever follows them is a line that was never finished."""


def encode_line(entry: Mapping[str, Any]) -> bytes:
    """Word one entry as a checksummed line; inverse of `decode_line`."""
    body = json.dumps(entry, sort_keys=True, allow_nan=False).encode()
    return b'{"crc32": "%08x", "entry": %s}\n' % (zlib.crc32(body), body)


def decode_line(line: bytes) -> dict[str, Any]:
    """Return the entry of one whole line; raise ValueError when it is not what `encode_line` wrote."""
    head, separator, tail = line.partition(b', "entry": ')
    body = tail.removesuffix(b"}\n")
    if not separator or head != b'{"crc32": "%08x"' % zlib.crc32(body):
        raise ValueError("checksum does not match")
    return json.loads(body)


def read_log(path: Path) -> CommitLog:
    """Read the log; a last line without its newline was never acknowledged and is ignored.

    Raises DatasetError naming the line when a whole line is damaged: that is no crash but a changed file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    valid = data[: data.rfind(b"\n") + 1]
    lines = valid.splitlines(keepends=True)
    return CommitLog(tuple(_checked(path, number, line) for number, line in enumerate(lines)), valid)


def append_entry(path: Path, entry: Mapping[str, Any]) -> None:
    """Commit: the entry counts once this has returned."""
    durable.append_bytes(path, encode_line(entry))


def drop_unfinished_line(path: Path) -> None:
    """Cut off what a killed writer left behind the last whole line; only for the holder of the writer's lock."""
    valid = read_log(path).valid
    if path.stat().st_size > len(valid):
        durable.truncate(path, len(valid))


def _checked(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = decode_line(line)
    except ValueError as error:
        raise DatasetError(f"{path}: line {number + 1} is damaged ({error})") from error
    if entry.get("episode") != number:
        raise DatasetError(f"{path}: line {number + 1} commits episode {entry.get('episode')}, expected {number}")
    return entry
