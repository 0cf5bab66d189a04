"""Writing episodes: rows are gathered into blocks in memory, blocks become Zarr chunks, and a commit makes them count.

A block is one whole chunk, written once and never touched again (only an episode's last block is shorter), so that a
commit may cover any number of blocks.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Mapping
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from armature.errors import DatasetError, InvalidValue, unknown
from armature.spec import ArraySpec, RobotSpec
from data_collection import commit_log, durable
from data_collection.streams import stream_specs
from data_collection.writer_lock import WriterLock

EPISODES = "episodes"
DATA, STAMP_NS, RECEIVED_NS = "data", "stamp_ns", "received_ns"

# One zarr-python write costs 2-3 ms whatever its size. With 4 MiB a block, recording three 640x480 cameras at 30 Hz
# takes two fifths of one core, and flat out it runs at three times that rate.
_BLOCK_BYTES = 4 << 20
_BLOCK_ROWS_MAX = 256
# Lossless. On camera images lz4 is twice as fast as zstd; rendered ones shrink to a half or less. The checksum tells
# damage apart from data.
_CODECS = (BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec())


def episode_folder(dataset: Path, index: int) -> Path:
    """Return where an episode lies."""
    return dataset / EPISODES / f"{index:06d}"


def block_rows(array: ArraySpec) -> int:
    """Return how many samples of a stream make one block."""
    row_bytes = array.size * np.dtype(array.dtype).itemsize
    return max(1, min(_BLOCK_ROWS_MAX, _BLOCK_BYTES // row_bytes))


class StreamWriter:
    """Gathers the samples of one stream and writes them block by block."""

    def __init__(self, folder: Path, spec: ArraySpec) -> None:
        self.spec = spec
        self.length = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        rows = block_rows(spec)
        self._buffers = {
            DATA: np.empty((rows, *spec.shape), spec.dtype),
            STAMP_NS: np.empty(rows, np.int64),
            RECEIVED_NS: np.empty(rows, np.int64),
        }
        group = zarr.create_group(folder, zarr_format=3)
        self._arrays = {name: _create_array(group, name, buffer) for name, buffer in self._buffers.items()}
        self._folder = folder
        self._filled = 0
        self._blocks = 0

    def append(self, stamps_ns: NDArray[np.int64], received_ns: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Add N samples: stamps (N,) and values (N, *shape)."""
        self._check(stamps_ns, values)
        if len(stamps_ns) == 0:
            return
        if self.first_ns is None:
            self.first_ns = int(stamps_ns[0])
        self.last_ns = int(stamps_ns[-1])
        columns = {DATA: values, STAMP_NS: stamps_ns, RECEIVED_NS: received_ns}
        done = 0
        while done < len(stamps_ns):
            done += self._fill({name: column[done:] for name, column in columns.items()})
        self.length += len(stamps_ns)

    def flush(self) -> None:
        """Write what is gathered; a short block may only be an episode's last."""
        if self._filled == 0:
            return
        for name, array in self._arrays.items():
            array.append(self._buffers[name][: self._filled])
        # Data goes to disk while the episode runs, so that its commit does not have to wait for gigabytes.
        data = self._arrays[DATA]
        key = data.metadata.encode_chunk_key((self._blocks,) + (0,) * len(self.spec.shape))
        durable.sync_path(self._folder / DATA / key)
        self._blocks += 1
        self._filled = 0

    def summary(self) -> dict[str, Any]:
        """Return what the commit says about this stream."""
        return {"length": self.length, "first_ns": self.first_ns, "last_ns": self.last_ns}

    def _fill(self, columns: Mapping[str, NDArray[Any]]) -> int:
        room = len(self._buffers[STAMP_NS]) - self._filled
        count = min(room, len(columns[STAMP_NS]))
        for name, column in columns.items():
            self._buffers[name][self._filled : self._filled + count] = column[:count]
        self._filled += count
        if count == room:
            self.flush()
        return count

    def _check(self, stamps_ns: NDArray[np.int64], values: NDArray[Any]) -> None:
        spec = self.spec
        if values.shape != (len(stamps_ns), *spec.shape) or values.dtype != np.dtype(spec.dtype):
            raise InvalidValue(
                f"{spec.name}: got {values.dtype} {values.shape}, expected {spec.dtype} {(len(stamps_ns), *spec.shape)}"
            )
        previous = stamps_ns[:1] - 1 if self.last_ns is None else np.array([self.last_ns])
        if (np.diff(stamps_ns, prepend=previous) <= 0).any():
            raise InvalidValue(f"{spec.name}: stamps must rise; got {stamps_ns.tolist()} after {self.last_ns}")


class EpisodeWriter:
    """One episode being written: `append` blocks per stream, then `commit` or `discard`. For one thread."""

    def __init__(self, writer: DatasetWriter, index: int) -> None:
        self.index = index
        self._writer = writer
        self._folder = episode_folder(writer.path, index)
        zarr.create_group(self._folder, zarr_format=3)
        self._streams = {name: StreamWriter(self._folder / name, spec) for name, spec in writer.streams.items()}
        self._is_open = True

    def append(
        self, stream: str, stamps_ns: NDArray[np.int64], received_ns: NDArray[np.int64], values: NDArray[Any]
    ) -> None:
        """Add N samples to a stream: stamps (N,) rising, receive times (N,), values (N, *shape) of the spec's dtype."""
        if stream not in self._streams:
            raise DatasetError(unknown("stream", stream, self._streams))
        self._streams[stream].append(stamps_ns, received_ns, values)

    def commit(self, metadata: Mapping[str, Any]) -> None:
        """Force everything to disk, then append the commit line: the episode exists once this has returned.

        When the disk refuses, the episode is discarded and the error is passed on.
        """
        self._require_open()
        check_metadata(metadata)
        try:
            self._write_out()
        except Exception:
            self.discard()
            raise
        summaries = {name: stream.summary() for name, stream in self._streams.items()}
        self._is_open = False
        self._writer.append_commit({"episode": self.index, "streams": summaries, "metadata": dict(metadata)})

    def discard(self) -> None:
        """Remove what was written; the next episode takes the number."""
        self._require_open()
        self._is_open = False
        self._writer.forget()
        shutil.rmtree(self._folder)

    def _write_out(self) -> None:
        for stream in self._streams.values():
            stream.flush()
        durable.sync_tree(self._folder)
        durable.sync_path(self._folder.parent)

    def _require_open(self) -> None:
        if not self._is_open:
            raise DatasetError(f"episode {self.index} of {self._writer.path} has already been committed or discarded")


class DatasetWriter:
    """The one writer of a dataset: holds its lock, sweeps what a killed writer left, begins episodes."""

    def __init__(self, path: Path, task: str, spec: RobotSpec) -> None:
        self.path = path
        self.streams = stream_specs(spec)
        self._defaults = {"task": task, "seed": None, "success": None, "operator": "", "outcome": ""}
        self._provenance = {"spec_fingerprint": spec.fingerprint, "versions": _versions()}
        self._lock = WriterLock(path)
        try:
            self._next_index = _sweep(path)
        except BaseException:
            self._lock.release()
            raise
        self._is_trustworthy = True
        self._current: EpisodeWriter | None = None

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self) -> EpisodeWriter:
        """Begin the next episode; one at a time."""
        if self._current is not None:
            raise DatasetError(
                f"episode {self._current.index} of {self.path} is still open: commit or discard it first"
            )
        if not self._is_trustworthy:
            raise DatasetError(f"{self.path}: the last commit failed, so its log is in doubt; open a new writer")
        self._current = EpisodeWriter(self, self._next_index)
        return self._current

    def append_commit(self, entry: dict[str, Any]) -> None:
        """Complete the entry's metadata and commit it; only EpisodeWriter calls this."""
        committed = {"committed_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        entry["metadata"] = self._defaults | entry["metadata"] | self._provenance | committed
        self._current = None
        # After a failed fsync nothing may be retried: the kernel has dropped the page, and a second try would pass.
        self._is_trustworthy = False
        commit_log.append_entry(self.path / commit_log.LOG_NAME, entry)
        self._is_trustworthy = True
        self._next_index += 1

    def forget(self) -> None:
        """Let go of a discarded episode; only EpisodeWriter calls this."""
        self._current = None

    def close(self) -> None:
        """Discard an open episode and release the lock."""
        try:
            if self._current is not None:
                self._current.discard()
        finally:
            self._lock.release()


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise DatasetError unless `metadata` can be stored as JSON."""
    try:
        json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"episode metadata cannot be stored as JSON: {error}") from error


def _create_array(group: zarr.Group, name: str, block: NDArray[Any]) -> Any:
    # Zero chunks are written too: a chunk that is not there is then damage, never an image that was black. With "." all
    # chunks lie in one folder, instead of in three more for each block of images, every one of which needs an fsync.
    return group.create_array(
        name, shape=(0, *block.shape[1:]), chunks=block.shape, dtype=block.dtype, compressors=_CODECS,
        chunk_key_encoding={"name": "default", "separator": "."}, config={"write_empty_chunks": True},
    )  # fmt: skip


def _sweep(dataset: Path) -> int:
    """Remove what was never committed; return the next episode's number."""
    log = dataset / commit_log.LOG_NAME
    commit_log.drop_unfinished_line(log)
    count = len(commit_log.read_log(log).entries)
    committed = {episode_folder(dataset, index).name for index in range(count)}
    for folder in (dataset / EPISODES).iterdir():
        if folder.is_dir() and not folder.is_symlink() and folder.name not in committed:
            shutil.rmtree(folder)
    return count


def _versions() -> dict[str, str]:
    packages_of = {"armature": "armature-robot-learning", "numpy": "numpy", "zarr": "zarr"}
    return {"python": platform.python_version()} | {name: _version(package) for name, package in packages_of.items()}


def _version(package: str) -> str:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return "not installed"
