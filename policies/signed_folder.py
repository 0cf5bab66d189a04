"""Folders that are written whole or not at all, and documents that know when they were changed. No torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from armature.errors import CheckpointError
from armature.filesystem import Fs, make_parents, sync_tree

SHA256 = "sha256"


def digest(document: Mapping[str, Any]) -> str:
    """Hash a document's values, whatever their layout in the file, without its own checksums."""
    rest = {key: value for key, value in document.items() if key != SHA256}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_file(path: Path) -> bytes:
    """Return the content of a file; raise CheckpointError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def replace_folder(path: Path, files: Mapping[str, bytes], fs: Fs | None = None) -> None:
    """Write a folder of `files` at `path`, in place of one that is there; a crash leaves the old one or the new one.

    A name may have one folder in front.
    Raises OSError where the disk refuses; then the old one is as it was, or the new one is in place already.
    """
    fs = Fs() if fs is None else fs
    # Hidden beside it until it is whole, then it holds what was replaced, if anything.
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    make_parents(fs, draft)
    for left in _left_over(path):
        fs.remove_tree(left)
    try:
        _write_folder(fs, draft, files)
        _put_in_place(fs, draft, path)
        fs.sync(path.parent)
    finally:
        if draft.exists():
            with suppress(OSError):
                fs.remove_tree(draft)


def _left_over(path: Path) -> list[Path]:
    """Return the drafts of processes that were killed while they wrote, and one of this process."""
    begin, end = f".{path.name}.", ".draft"
    named = [each for each in path.parent.iterdir() if each.name.startswith(begin) and each.name.endswith(end)]
    writers = {each: each.name.removeprefix(begin).removesuffix(end) for each in named}
    return [each for each, pid in writers.items() if pid.isdigit() and _is_over(int(pid))]


def _is_over(pid: int) -> bool:
    return pid == os.getpid() or not Path(f"/proc/{pid}").exists()


def _write_folder(fs: Fs, path: Path, files: Mapping[str, bytes]) -> None:
    fs.make_folder(path)
    for folder in {(path / name).parent for name in files} - {path}:
        fs.make_folder(folder)
    for name, content in files.items():
        fs.write(path / name, content)
    sync_tree(fs, path)


def _put_in_place(fs: Fs, draft: Path, path: Path) -> None:
    if not path.exists():
        fs.rename(draft, path)
        return
    try:
        fs.exchange(draft, path)
    except OSError:
        # A file system that cannot swap (NFS): the old one keeps a name of its own until the new one is in place.
        old = draft.with_suffix(".old")
        fs.rename(path, old)
        fs.rename(draft, path)
        fs.sync(path.parent)
        fs.remove_tree(old)
