"""The dataset on disk: a Zarr v3 hierarchy with a commit log beside it. What is not committed does not exist.

<dataset>/zarr.json                     root group; attributes: format, format version, task, robot spec
<dataset>/commits.jsonl                 one checksummed line per committed episode
<dataset>/writer.lock                   held by the one writer
<dataset>/episodes/000000/<stream>/     a group for each stream at its own rate: data, stamp_ns, received_ns
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from armature.errors import DatasetError, beside, unknown
from armature.spec import ArraySpec, RobotSpec
from data_collection import commit_log, durable
from data_collection.episode_writer import DATA, EPISODES, RECEIVED_NS, STAMP_NS, DatasetWriter, episode_folder
from data_collection.streams import ACTION_EXECUTED, stream_specs

FORMAT = "armature-dataset"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Episode:
    """One committed episode; every read is bounded by what its commit line says."""

    dataset: Path
    spec: RobotSpec
    index: int
    entry: dict[str, Any]

    @property
    def streams(self) -> tuple[str, ...]:
        """List the recorded streams."""
        return tuple(self.entry["streams"])

    @property
    def metadata(self) -> dict[str, Any]:
        """Return task, seed, success, operator, outcome, spec_fingerprint, versions; counts if a recorder wrote it."""
        return self.entry["metadata"]

    @property
    def steps(self) -> int:
        """Count the commands that were sent."""
        return self.length(ACTION_EXECUTED)

    @property
    def duration_s(self) -> float:
        """Return the time from the first to the last command [s]."""
        return self._span_s(ACTION_EXECUTED)

    def length(self, stream: str) -> int:
        """Count the committed samples of a stream; raise DatasetError on an unknown one."""
        return self._summary(stream)["length"]

    def rate_hz(self, stream: str) -> float:
        """Return the mean rate of a stream by its stamps, 0 for fewer than two samples."""
        span_s = self._span_s(stream)
        return (self.length(stream) - 1) / span_s if span_s > 0 else 0.0

    def read(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
        """Return stamps (N,) [ns], receive times (N,) [ns, steady clock] and data (N, *shape) of a stream.

        Raises DatasetError naming episode and stream where the files are not what was committed.
        """
        length, array = self.length(stream), stream_specs(self.spec)[stream]
        stamp = ArraySpec(STAMP_NS, (), "int64", "ns")
        expected = {STAMP_NS: stamp, RECEIVED_NS: stamp, DATA: array}
        try:
            group = zarr.open_group(episode_folder(self.dataset, self.index) / stream, mode="r", zarr_format=3)
            stamps_ns, received_ns, data = (_read_array(group, n, s, length) for n, s in expected.items())
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise DatasetError(f"{self.dataset}: episode {self.index}, stream {stream}: damaged: {error}") from error
        return stamps_ns, received_ns, data

    def _summary(self, stream: str) -> dict[str, Any]:
        if stream not in self.entry["streams"]:
            raise DatasetError(unknown("stream", stream, self.streams))
        return self.entry["streams"][stream]

    def _span_s(self, stream: str) -> float:
        summary = self._summary(stream)
        return (summary["last_ns"] - summary["first_ns"]) / 1e9 if summary["length"] else 0.0


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk. `episodes` and `fingerprint` read the commit log anew, so that they follow a recording."""

    path: Path
    task: str
    spec: RobotSpec

    @property
    def streams(self) -> dict[str, ArraySpec]:
        """Return what every episode records, by name."""
        return stream_specs(self.spec)

    @property
    def episodes(self) -> list[Episode]:
        """List the committed episodes, oldest first."""
        entries = self._log().entries
        return [Episode(self.path, self.spec, index, entry) for index, entry in enumerate(entries)]

    @property
    def fingerprint(self) -> str:
        """Return a short hash over the spec and every commit."""
        spec = json.dumps(self.spec.to_json(), sort_keys=True).encode()
        return hashlib.sha256(spec + self._log().valid).hexdigest()[:16]

    def writer(self) -> DatasetWriter:
        """Become the one writer; raise DatasetError naming the present one. Use it in a `with` block."""
        return DatasetWriter(self.path, self.task, self.spec)

    def _log(self) -> commit_log.CommitLog:
        return commit_log.read_log(self.path / commit_log.LOG_NAME)


def create_dataset(path: Path | str, spec: RobotSpec, task: str) -> Dataset:
    """Create an empty dataset, whole or not at all; raise DatasetError where something lies already."""
    path = Path(path)
    stream_specs(spec)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DatasetError(f"{path}: exists already; choose a new path, or open it to add episodes")
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_empty(draft, {"format": FORMAT, "format_version": FORMAT_VERSION, "task": task, "spec": spec.to_json()})
        draft.rename(path)
        durable.sync_path(path.parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise DatasetError(f"{path}: cannot be created: {error.strerror}") from error
    return Dataset(path, task, spec)


def open_dataset(path: Path | str) -> Dataset:
    """Open a dataset; raise DatasetError when there is none or its format is not this version's."""
    path = Path(path)
    attributes = _attributes(path)
    if attributes.get("format") != FORMAT:
        raise DatasetError(f"{path}: is no Armature dataset (its zarr.json says format {attributes.get('format')!r})")
    version = attributes.get("format_version")
    if version != FORMAT_VERSION:
        age = "newer" if isinstance(version, int) and version > FORMAT_VERSION else "other"
        raise DatasetError(
            f"{path}: has the {age} format version {version!r}; this Armature reads version {FORMAT_VERSION}"
        )
    try:
        spec = RobotSpec.from_json(attributes["spec"])
        dataset = Dataset(path, str(attributes["task"]), spec)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: its robot spec cannot be read: {error!r}") from error
    stream_specs(spec)
    return dataset


def _write_empty(folder: Path, attributes: dict[str, Any]) -> None:
    root = zarr.create_group(folder, zarr_format=3, attributes=attributes)
    root.create_group(EPISODES)
    (folder / commit_log.LOG_NAME).touch()
    durable.sync_tree(folder)


def _attributes(path: Path) -> dict[str, Any]:
    if not (path / "zarr.json").is_file():
        raise DatasetError(f"{path}: there is no dataset here. {beside(path, commit_log.LOG_NAME)}")
    try:
        return dict(zarr.open_group(path, mode="r", zarr_format=3).attrs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: zarr.json cannot be read: {error}") from error


def _read_array(group: zarr.Group, name: str, expected: ArraySpec, length: int) -> NDArray[Any]:
    # Zarr fills in zeros for a chunk that is not there, and allocates whatever a shape says: look before reading.
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is no array")
    if array.shape[1:] != expected.shape or array.dtype != np.dtype(expected.dtype) or array.shape[0] < length:
        raise ValueError(
            f"{name} is {array.dtype} {array.shape}, committed were {length} of {expected.dtype} {expected.shape}"
        )
    if array.nchunks_initialized < -(-length // array.chunks[0]):
        raise ValueError(f"{name} lacks chunks")
    return np.asarray(array[:length])
