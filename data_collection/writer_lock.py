"""One writer for each dataset: an flock, which the kernel releases however the process ends, that names its owner."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from armature.errors import DatasetError

LOCK_NAME = "writer.lock"


class WriterLock:
    """Holds the lock from construction to `release`; a second writer gets a DatasetError that names the first."""

    def __init__(self, dataset: Path) -> None:
        try:
            self._descriptor = os.open(dataset / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise DatasetError(f"{dataset}: cannot be written to: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _describe_owner(os.pread(self._descriptor, 4096, 0))
            os.close(self._descriptor)
            raise DatasetError(f"{dataset}: is being written by {owner}; a dataset has one writer at a time") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def release(self) -> None:
        """Let the next writer in."""
        os.close(self._descriptor)


def remove_draft(draft: Path) -> None:
    """Remove a dataset in the making, if there is one; raise DatasetError, naming the writer, where it is at work."""
    if not draft.exists():
        return
    lock = WriterLock(draft)
    try:
        shutil.rmtree(draft, ignore_errors=True)
    finally:
        lock.release()


def abandon_draft(draft: Path) -> None:
    """Remove a dataset whose making has failed, unless another process is writing it already."""
    with suppress(DatasetError):
        remove_draft(draft)


def _describe_owner(content: bytes) -> str:
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
