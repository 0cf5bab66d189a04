"""The one writer of a dataset: takes up what a dead one left, begins episodes, appends to the commit log."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata as packages
from pathlib import Path
from typing import Any

from armature.errors import DatasetError
from armature.filesystem import Fs, append_line
from armature.spec import ArraySpec, RobotSpec
from data_collection import commit_log, history
from data_collection.commit_log import LINE, LOG_NAME, CommitLog
from data_collection.episode_writer import EpisodeWriter, check_metadata
from data_collection.history import DISCARD, DROP, END, INCOMPLETE, RELABEL, EpisodeRecord
from data_collection.layout import EPISODES, Encoding, episode_folder
from data_collection.recovery import close_arrays, sweep
from data_collection.streams import stream_specs
from data_collection.writer_lock import WriterLock

DEFAULTS: dict[str, Any] = {
    "prompt": "", "seed": None, "success": None, "operator": "", "outcome": "", "termination": "", "calibration": None,
    "clocks": {"stamp_ns": "of the source", "received_ns": "CLOCK_MONOTONIC of the recorder"},
}  # fmt: skip


class DatasetWriter:
    """Holds the dataset's lock until `close`. Use it in a `with` block."""

    def __init__(
        self, path: Path, task: str, spec: RobotSpec, encodings: Mapping[str, Encoding], fs: Fs | None = None
    ) -> None:
        self.path = path
        self.fs = Fs() if fs is None else fs
        self.streams: Mapping[str, ArraySpec] = stream_specs(spec)
        self.encodings = encodings
        self._defaults = DEFAULTS | {"task": task}
        self._provenance = {"spec_fingerprint": spec.fingerprint, "versions": _versions()}
        self._current: EpisodeWriter | None = None
        self._is_trustworthy = True
        self._lock = WriterLock(path)
        self._identity = _identity(path)
        try:
            self._recover()
        except OSError as error:
            self._lock.release()
            raise DatasetError(f"{path}: cannot be written to: {error}") from error
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, metadata: Mapping[str, Any] | None = None) -> EpisodeWriter:
        """Begin the next episode; one at a time."""
        if self._current is not None:
            raise DatasetError(f"episode {self._current.index} of {self.path} is still open: end or discard it first")
        check_metadata(metadata or {})
        begun = {"begun_utc": _now_utc()}
        self._current = self._new_episode(self._defaults | begun | dict(metadata or {}) | self._provenance)
        return self._current

    def relabel(self, index: int, metadata: Mapping[str, Any]) -> None:
        """Change metadata of a closed episode, such as `outcome` and `success`."""
        check_metadata(metadata)
        self._require_closed(index)
        self.append({"kind": RELABEL, "episode": index, "metadata": dict(metadata)})

    def drop(self, index: int) -> None:
        """Take a closed episode out for ever; its number is not given again."""
        self._require_closed(index)
        self.append({"kind": DROP, "episode": index})
        self.fs.remove_tree(episode_folder(self.path, index))

    def adopt(self, record: EpisodeRecord) -> None:
        """Commit an episode whose files were put into its folder and synced; it gets the number of `next_index`."""
        begun = self._defaults | record.metadata
        self.append({"kind": END, "episode": record.index, "streams": record.streams, "metadata": begun})

    @property
    def next_index(self) -> int:
        """Return the number of the next episode."""
        return history.next_index(self._read_log().entries)

    def append(self, entry: dict[str, Any]) -> None:
        """Commit one entry: it counts once this has returned. Raises OSError when the disk refuses."""
        if not self._is_trustworthy:
            raise DatasetError(f"{self.path}: an earlier commit failed, so its log is in doubt; open a new writer")
        if _identity(self.path) != self._identity:
            raise OSError(f"{self.path} is no longer the folder that was opened")
        if entry["kind"] == END:
            entry["metadata"] = {"ended_utc": _now_utc()} | entry["metadata"]
        line = commit_log.encode_line({**entry, LINE: self._next_line})
        # After a failed fsync nothing may be retried: the kernel has dropped the page, and a second try would pass.
        self._is_trustworthy = False
        try:
            append_line(self.fs, self.path / LOG_NAME, line)
        except OSError:
            # It could still be read, until the power goes: no reader and no later writer may build on it.
            with suppress(OSError):
                self.fs.truncate(self.path / LOG_NAME, self._log_bytes)
            raise
        self._next_line += 1
        self._log_bytes += len(line)
        self._is_trustworthy = True

    def forget(self) -> None:
        """Let go of an episode that was closed; only EpisodeWriter calls this."""
        self._current = None

    def close(self) -> None:
        """Close an open episode as incomplete and release the lock."""
        try:
            if self._current is not None and self._is_trustworthy:
                self._current.fail("writer closed")
        finally:
            self._lock.release()

    def _new_episode(self, metadata: Mapping[str, Any]) -> EpisodeWriter:
        index = self.next_index
        try:
            return EpisodeWriter(self, index, metadata)
        except OSError as error:
            # Nothing of it may be in the way of the next attempt.
            with suppress(OSError):
                self.fs.remove_tree(episode_folder(self.path, index))
            raise DatasetError(f"{self.path}: episode {index} cannot be begun: {error}") from error

    def _require_closed(self, index: int) -> None:
        records = history.replay(self._read_log().entries)
        closed = [str(record.index) for record in records.values() if record.is_ended]
        if str(index) not in closed:
            raise DatasetError(f"{self.path}: there is no episode {index}. Valid: {', '.join(closed) or '(none)'}")

    def _read_log(self) -> CommitLog:
        return commit_log.parse_log((self.path / LOG_NAME).read_bytes())

    def _recover(self) -> None:
        """Take up what a dead writer left: what it committed stays, the rest goes."""
        file = self.path / LOG_NAME
        data = file.read_bytes()
        log = commit_log.parse_log(data)
        if log.problems:
            raise DatasetError(f"{self.path}: {log.problems[0]}; run 'armature data repair {self.path}' first")
        if len(data) > len(log.whole):
            self.fs.truncate(file, len(log.whole))
            self.fs.sync(file)
        self._next_line, self._log_bytes = log.next_line, len(log.whole)
        records = history.replay(log.entries)
        for record in records.values():
            if not record.is_ended:
                self._close_left_open(record)
        kept = [record.index for record in records.values() if record.is_ended or record.has_rows]
        sweep(self.fs, self.path / EPISODES, kept)

    def _close_left_open(self, record: EpisodeRecord) -> None:
        if not record.has_rows:
            self.append({"kind": DISCARD, "episode": record.index})
            return
        close_arrays(self.fs, episode_folder(self.path, record.index), record, self.streams, self.encodings)
        metadata = {"outcome": INCOMPLETE, "success": None, "termination": "the writer died"}
        self.append({"kind": END, "episode": record.index, "streams": record.streams, "metadata": metadata})


def _identity(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _now_utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@cache
def _versions() -> dict[str, str]:
    packages_of = {"armature": "armature-robot-learning", "numpy": "numpy", "zarr": "zarr"}
    return {"python": platform.python_version()} | {name: _version(package) for name, package in packages_of.items()}


def _version(package: str) -> str:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return "not installed"
