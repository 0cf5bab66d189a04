"""What an importer offers: a foreign dataset as a robot spec and episodes that can be read piece by piece."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from armature.errors import DatasetError
from armature.spec import RobotSpec

Block = tuple[str, NDArray[np.int64], NDArray[np.int64], NDArray[Any]]
"""A stream's name and N of its samples: stamps (N,) [ns], receive times (N,) [ns], values (N, *shape)."""

DATA_BYTES_MAX = 1 << 40
"""No array of more than a tebibyte is believed."""


class SourceEpisode(Protocol):
    """One foreign episode."""

    name: str
    """What the source calls it: for messages, and kept as metadata `source_episode`."""
    steps: int
    """How many actions the source claims; the import fails where another number arrives."""
    metadata: Mapping[str, Any]
    """`success`, `outcome`, `seed`, `prompt`, ... as far as the source says."""

    def blocks(self) -> Iterator[Block]:
        """Read the episode in pieces of a few MiB; raise DatasetError naming file and field."""
        ...


@dataclass(frozen=True)
class Source:
    """A foreign dataset, opened and checked; nothing large has been read."""

    path: Path
    task: str
    spec: RobotSpec
    episodes: Sequence[SourceEpisode]
    attributes: Mapping[str, Any]
    """What a later export needs to give back the same names and types; stored with the dataset under `source`."""
    encodings: Mapping[str, str] = field(default_factory=dict[str, str])


def stream_name(key: str) -> str:
    """Turn a foreign key into a stream's name: lower case, `.` and `/` become levels, all else `_`.

    Raises DatasetError on a key that could lead out of the dataset.
    """
    parts = re.split(r"[./]", key)
    if any(not part for part in parts):
        raise DatasetError(f"key {key!r}: empty, absolute and '..' levels are not allowed")
    return "/".join(re.sub(r"[^a-z0-9_]", "_", part.lower()) for part in parts)


def require_plausible(what: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Raise DatasetError, naming `what`, on a shape or dtype that no recording has; call it before anything is read."""
    if dtype.hasobject or dtype.kind not in "biuf":
        raise DatasetError(f"{what}: dtype {dtype} is not allowed; valid: booleans, integers, floats")
    size_bytes = dtype.itemsize
    for length in shape:
        size_bytes *= int(length)
    if any(length < 0 for length in shape) or size_bytes > DATA_BYTES_MAX:
        raise DatasetError(f"{what}: shape {tuple(shape)} would need {size_bytes} bytes, at most {DATA_BYTES_MAX}")


def fingerprint_of(source: Source) -> str:
    """Return a hash of what is imported and from where, by which an interrupted import is recognised."""
    told = (source.task, source.spec.fingerprint, sorted(source.encodings.items()), dict(source.attributes))
    text = repr((str(source.path.resolve()), *told, _files_of(source.path)))
    names = "\n".join(f"{episode.name} {episode.steps}" for episode in source.episodes)
    return hashlib.sha256(f"{text}\n{names}".encode()).hexdigest()[:16]


def _files_of(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change [ns] of every file, by which content that was replaced is recognised."""
    files = {file.relative_to(path): file for file in (path, *path.rglob("*")) if file.is_file()}
    # Not of hidden folders: the draft is one, perhaps beside the source's files.
    told = [(name, file.stat()) for name, file in files.items() if not any(p.startswith(".") for p in name.parts[:-1])]
    return sorted((name.as_posix(), status.st_size, status.st_mtime_ns) for name, status in told)
