"""Writes that survive a killed process and a power cut: nothing counts before its fsync has returned."""

from __future__ import annotations

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """Force one file or directory to disk; OSError means that it must not be trusted."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Force a folder to disk: every file, then every directory from the leaves up, `root` last."""
    for folder, _, files in os.walk(root, topdown=False):
        for file in files:
            sync_path(Path(folder, file))
        sync_path(Path(folder))


def append_bytes(path: Path, data: bytes) -> None:
    """Append to a file and force it to disk; after an OSError nobody knows how much of `data` is there."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def truncate(path: Path, size: int) -> None:
    """Cut a file to `size` bytes and force it to disk."""
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())
