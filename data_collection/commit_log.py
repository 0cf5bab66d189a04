"""The commit log: what stands in `commits.jsonl` exists, and nothing else does.

Zarr has no commit of its own: a killed writer leaves arrays that are longer than what was written to them, and they
read back as zeros without an error. So the data goes to disk first, then one line is appended, and readers believe only
the log.
A line is JSON, `{"crc32": "9a0f3c21", "entry": {...}}`, with the checksum over the bytes of the entry. `entry["line"]`
counts from 0, so that a line that is gone is noticed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOG_NAME = "commits.jsonl"
LINE = "line"


@dataclass(frozen=True)
class CommitLog:
    """The log as read at one moment."""

    entries: tuple[dict[str, Any], ...]
    """Every entry that is whole, in order."""
    whole: bytes
    """The bytes up to the last newline; what follows was never acknowledged."""
    problems: tuple[str, ...]
    """Lines that are damaged or missing: not from a crash, somebody or the disk has changed them."""

    @property
    def next_line(self) -> int:
        """Number the next line."""
        return self.whole.count(b"\n")


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


def parse_log(data: bytes) -> CommitLog:
    """Read the log's bytes; damaged lines are skipped and named."""
    whole = _without_torn_line(data)
    entries, problems = list[dict[str, Any]](), list[str]()
    for number, line in enumerate(whole.splitlines(keepends=True)):
        try:
            entry = decode_line(line)
            _check(entry)
        except ValueError as error:
            problems.append(f"{LOG_NAME}: line {number + 1} is damaged ({error})")
            continue
        if entry[LINE] != number:
            problems.append(f"{LOG_NAME}: line {number + 1} was written as line {entry[LINE] + 1}")
        entries.append(entry)
    return CommitLog(tuple(entries), whole, tuple(problems))


def _check(entry: Any) -> None:
    """Raise ValueError where an entry is not of the form that everything else relies on: checksums can be forged."""
    if not isinstance(entry, dict) or not all(_is_count(entry.get(key)) for key in (LINE, "episode")):
        raise ValueError("line and episode must be numbers")
    streams, metadata = entry.get("streams", {}), entry.get("metadata", {})
    if not isinstance(entry.get("kind"), str) or not isinstance(metadata, dict) or not isinstance(streams, dict):
        raise ValueError("kind must be text, metadata and streams objects")
    for name, extent in streams.items():
        if not isinstance(extent, dict) or not _is_extent(extent):
            raise ValueError(f"extent of {name} is {extent}")


def _is_extent(extent: dict[str, Any]) -> bool:
    stamps = [extent.get(key) for key in ("first_ns", "last_ns")] if extent.get("length") else []
    return _is_count(extent.get("length")) and all(isinstance(stamp_ns, int) for stamp_ns in stamps)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _without_torn_line(data: bytes) -> bytes:
    """Cut what a crash has left of a line: its beginning, or its end behind zeros where the beginning did not come."""
    whole = data[: data.rfind(b"\n") + 1]
    last = whole.rfind(b"\n", 0, -1) + 1
    return whole[:last] if b"\0" in whole[last:] else whole
