"""What killed processes leave in shared memory. Their middleware never removes it, and neither does their successor's.

Every one of them leaves a segment of 70 MB, until the memory of a machine whose nodes keep dying is full; and a port
that one of them held locked makes its successors wait (Fast DDS #3535).
"""

from __future__ import annotations

import fcntl
import re
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
FILE = re.compile(r"(?:sem\.)?(fast(?:rtps|dds)_(?:port\d+|[0-9a-f]{16}))(?:_el|_sl|_mutex)?")
AGE_MIN_S = 1.0
"""A process that begins makes its files first and locks them then."""


def remove_leftovers(folder: Path = FOLDER) -> list[str]:
    """Remove the segments and ports of dead processes; return their names. What somebody holds is left alone."""
    names = {found[1] for file in folder.glob("*fast*") if (found := FILE.fullmatch(file.name))}
    removed = sorted(name for name in names if _is_left_over(_files(folder, name)))
    for name in removed:
        for file in _files(folder, name):
            file.unlink(missing_ok=True)
    return removed


def _files(folder: Path, name: str) -> list[Path]:
    """Return the files of a segment or port: locks first, as long as they are there it is known whose it is."""
    files = [folder / f"{name}_el", folder / f"{name}_sl", folder / f"sem.{name}_mutex", folder / name]
    return [file for file in files if file.exists()]


def _is_left_over(files: list[Path]) -> bool:
    """Tell whether nobody holds any of the files and all have been there for a while."""
    try:
        youngest_s = max(file.stat().st_mtime for file in files)
        return time.time() - youngest_s > AGE_MIN_S and not any(map(_is_held, files))
    except OSError:
        # Gone meanwhile, or another user's.
        return False


def _is_held(file: Path) -> bool:
    """Tell whether a process holds the lock of a file; the kernel takes it from one that dies."""
    with file.open("rb+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
