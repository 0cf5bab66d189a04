"""The steps of a robot that is corrected, as they happen: an append-only file of records that survives its writer.

The file begins with a line of JSON that says whose steps these are; records of one size follow, each with a checksum.
A record counts once it was handed to the kernel: a killed process loses nothing of it, a power cut what was not synced.
Only what was synced is for others to hear of: what they know, the log still has after any crash, under the same number.
What a crash has left of a record is cut off when the file is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import uuid
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError
from armature.filesystem import Fs, replace_file

Vector = NDArray[np.float32]
Records = NDArray[np.void]
TOLD_BY_TOPIC, TOLD_BY_LABEL = "topic", "label"
FORMAT = "armature residual steps 2"
HEAD_MAX_BYTES = 65_536
SYNC_PERIOD_S = 1.0
PIECE_RECORDS = 10_000
"""Of a log that is looked through."""

FIRST, TERMINATED, CUT, EXPLORING, CONTROL, CORRECTED, ENDED, HUMAN, HELPED = 1, 2, 4, 8, 16, 32, 64, 128, 256
LATCHED = 512
"""Bits of `flags`: first of its episode; the task ended with it; broken off after it; with noise; by the base alone, to
compare; its own correction acted; its episode came to its end, with the task done where TERMINATED is there too; a
person had weight in its action; beside ENDED, that they had in some action of the episode, whose outcome is theirs too;
beside CUT and ENDED, that the gate latched in it: of the failed episode nothing of any value could follow.
A record before a FIRST that says neither end is CUT: its writer was killed."""


@dataclass(frozen=True)
class LogHead:
    """Whose steps a log holds; two logs never have the same `log_id`."""

    task: str
    robot: str
    """Fingerprint of the robot's contract."""
    base_id: str
    """The policy that is corrected."""
    observation_dim: int
    action_dim: int
    log_id: str = ""
    rewards: str = TOLD_BY_TOPIC
    """Who tells them: a topic, a simulator's for instance, or the label that a person gives an episode."""

    @property
    def record(self) -> np.dtype[np.void]:
        """Return the layout of a record."""
        seen, dim = (self.observation_dim,), (self.action_dim,)
        fields: list[Any] = [
            ("stamp_ns", "<i8"),
            ("episode", "<u4"),
            ("version", "<u4"),
            ("flags", "<u4"),
            ("share", "<f4"),
            ("reward", "<f4"),
            ("observation", "<f4", seen),
            ("base", "<f4", dim),
            ("action", "<f4", dim),
            ("next_observation", "<f4", seen),
            ("next_base", "<f4", dim),
            ("crc32", "<u4"),
        ]
        return np.dtype(fields)

    def require(self, other: LogHead, who: str) -> None:
        """Raise ConfigError naming every field in which `other` is of something else; the log's id does not matter."""
        for name, expected in asdict(self).items():
            found = getattr(other, name)
            if name != "log_id" and found != expected:
                raise ConfigError(f"{who}: {name} is {found!r}, expected {expected!r}")


def sealed(record: Records) -> bytes:
    """Return the bytes of one record with its checksum."""
    body = record.tobytes()[:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def count_whole(data: bytes, size: int) -> int:
    """Count the records of `size` bytes that are whole, up to the first that is not."""
    for index in range(len(data) // size):
        record = data[index * size : (index + 1) * size]
        if zlib.crc32(record[:-4]) != int.from_bytes(record[-4:], "little"):
            return index
    return len(data) // size


class StepLog:
    """The log of one robot, opened for writing by one process; raises ConfigError where it is of another robot."""

    def __init__(self, path: Path, head: LogHead) -> None:
        """Open the file, or begin it with a new id; what a crash has left behind the last whole record is cut off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.fault = ""
        """Why nothing is logged any more; `retry` begins anew."""
        self.has_failed = False
        self.damaged: Path | None = None
        """Where what was cut off is kept, if it is more than a crash leaves behind."""
        self._closing = threading.Event()
        self._syncing: threading.Thread | None = None
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
            self.head = self._read_head(head) or self._write_head(head)
            self._record = self.head.record
            self.torn_bytes = self._cut_torn_tail()
            os.fdatasync(self._file)
        except BaseException:
            os.close(self._file)
            raise
        self.synced = self._count
        """So many records outlast a power cut."""

    def __len__(self) -> int:
        """Return how many records count."""
        return self._count

    def close(self) -> None:
        """Make everything outlast a power cut, and give the file back."""
        if self._file >= 0:
            self._closing.set()
            if self._syncing is not None:
                self._syncing.join()
            self.sync()
            os.close(self._file)
            self._file = -1

    def append(self, **fields: Any) -> bool:
        """Add one record; return False where it is not logged: `fault` says why, and nothing is until that is over."""
        if self.fault:
            return False
        record = np.zeros((), self._record)
        for name, value in fields.items():
            record[name] = value
        end = self._offset(self._count)
        try:
            _write_all(self._file, sealed(record), end)
        except OSError as error:
            self._fail(error, end)
            return False
        self._count += 1
        return True

    def sync(self) -> None:
        """Make what counts outlast a power cut."""
        count = self._count
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self.fault, self.has_failed = f"{self.path}: {error.strerror}", True
            return
        self.synced = count

    def begin_syncing(self) -> None:
        """Sync once a second what is new, by a thread of its own: a disk may take longer than a tick has time."""
        self._syncing = threading.Thread(target=self._sync_on, name="sync of the step log", daemon=True)
        self._syncing.start()

    def _sync_on(self) -> None:
        while not self._closing.wait(SYNC_PERIOD_S):
            if self.synced < self._count:
                self.sync()

    def retry(self) -> None:
        """Log again: there may be room by now."""
        self.fault = ""

    def last(self) -> Records | None:
        """Return the newest record."""
        return self.read(self._count - 1, 1)[0] if self._count else None

    def read(self, first: int, count: int) -> Records:
        """Return records from number `first` on, fewer than `count` where there are no more."""
        return np.frombuffer(self.read_bytes(first, count), self._record)

    def read_bytes(self, first: int, count: int) -> bytes:
        """Return the bytes of records."""
        count = min(count, self._count - first)
        return os.pread(self._file, count * self._record.itemsize, self._offset(first)) if count > 0 else b""

    def _offset(self, index: int) -> int:
        return self._begin + index * self._record.itemsize

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{self.path}: another process writes to it") from error

    def _read_head(self, expected: LogHead) -> LogHead | None:
        """Return the head of a log that is there; None for a file without a whole one, which holds no record."""
        line, newline, _ = os.pread(self._file, HEAD_MAX_BYTES, 0).partition(b"\n")
        if not newline:
            return None
        try:
            document = json.loads(line)
            if document.pop("format") != FORMAT:
                raise ConfigError(f"{self.path}: is no log of the format '{FORMAT}'")
            found = LogHead(**document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self.path}: is no log of steps: {error}") from error
        expected.require(found, str(self.path))
        self._begin = len(line) + 1
        return found

    def _write_head(self, head: LogHead) -> LogHead:
        named = LogHead(**{**asdict(head), "log_id": uuid.uuid4().hex})
        line = json.dumps({"format": FORMAT, **asdict(named)}).encode() + b"\n"
        try:
            os.ftruncate(self._file, 0)
            _write_all(self._file, line, 0)
            os.fsync(self._file)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._begin = len(line)
        return named

    def _cut_torn_tail(self) -> int:
        size = os.fstat(self._file).st_size
        # In pieces: one read returns 2 GiB at most.
        self._count, whole = 0, PIECE_RECORDS
        while whole == PIECE_RECORDS:
            data = os.pread(self._file, PIECE_RECORDS * self._record.itemsize, self._offset(self._count))
            whole = count_whole(data, self._record.itemsize)
            self._count += whole
        torn = size - self._offset(self._count)
        if torn > self._record.itemsize:
            # No crash leaves that much: a record in the middle is damaged, and whoever repairs it wants those after it.
            self.damaged = self._keep_damaged(os.pread(self._file, torn, size - torn))
        os.ftruncate(self._file, self._offset(self._count))
        return torn

    def _keep_damaged(self, data: bytes) -> Path:
        path = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex[:8]}.damaged")
        try:
            replace_file(Fs(), path, data)
        except OSError as error:
            raise ConfigError(f"{path}: what is damaged of the log cannot be kept: {error.strerror}") from error
        return path

    def _fail(self, error: OSError, end: int) -> None:
        self.fault, self.has_failed = f"{self.path}: {error.strerror}", True
        # Where even that fails, the next record is written over what is left of this one.
        try:
            os.ftruncate(self._file, end)
        except OSError as also:
            self.fault += f", and cannot be cut: {also.strerror}"


def _write_all(file: int, data: bytes, offset: int) -> None:
    """Write at an offset; raise OSError where not all of it fits."""
    written = os.pwrite(file, data, offset)
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)
