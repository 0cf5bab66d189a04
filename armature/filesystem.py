"""Everything that has to survive a crash does to a disk, so that a test can stand in for it and replay every crash.

Nothing counts before its `sync` has returned, and a name only once its folder was synced too.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import suppress
from pathlib import Path

PARTIAL = ".partial"

# What Python has no call for: renameat2(2), with paths that are relative to the working directory.
_LIBC = ctypes.CDLL(None, use_errno=True)
_HERE, _EXCHANGE = -100, 2


class Fs:
    """The local file system; every method may raise OSError, after which the file is not to be trusted."""

    def make_folder(self, path: Path) -> None:
        """Create one folder, whose parent exists."""
        path.mkdir()

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Create or overwrite a file."""
        path.write_bytes(data)

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a file."""
        with path.open("ab") as file:
            file.write(data)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to `size` bytes."""
        os.truncate(path, size)

    def rename(self, old: Path, new: Path) -> None:
        """Put a file or folder in another's place."""
        old.replace(new)

    def exchange(self, one: Path, other: Path) -> None:
        """Swap two names of one folder, so that at every moment both are there; Linux, and not on every file system."""
        failed = _LIBC.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
        if failed:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(one), None, str(other))

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def remove_tree(self, path: Path) -> None:
        """Remove a folder with all that is in it."""
        shutil.rmtree(path)

    def sync(self, path: Path) -> None:
        """Force a file's content, or a folder's list of names, to disk, and keep none of it in memory.

        Whoever records reads nothing back, and of a machine's memory gigabytes of recordings would be the most.
        """
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            # Only advice: what a file system makes of it changes nothing.
            with suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: Path) -> int:
        """Return how much room is left for us."""
        return shutil.disk_usage(path).free


def make_parents(fs: Fs, path: Path) -> None:
    """Create the folders above `path` that are missing, and make their names safe."""
    for folder in [parent for parent in reversed(path.parents) if not parent.exists()]:
        fs.make_folder(folder)
        fs.sync(folder.parent)


def replace_file(fs: Fs, path: Path, data: bytes | memoryview) -> None:
    """Put `data` at `path`, wholly or not at all; its name is safe once the folder was synced."""
    partial = path.with_name(path.name + PARTIAL)
    fs.write(partial, data)
    fs.sync(partial)
    fs.rename(partial, path)


def append_line(fs: Fs, path: Path, line: bytes) -> None:
    """Add a line to a file and force it to disk."""
    fs.append(path, line)
    fs.sync(path)


def sync_tree(fs: Fs, root: Path) -> None:
    """Force a folder to disk: every file, then every folder from the leaves up, `root` last."""
    for folder, _, files in os.walk(root, topdown=False):
        for file in files:
            fs.sync(Path(folder, file))
        fs.sync(Path(folder))
