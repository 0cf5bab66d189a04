"""An export appears under its name when it is whole and on disk, not before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from armature.errors import ArmatureError, DatasetError
from armature.filesystem import Fs, sync_tree


@contextmanager
def export_draft(target: Path) -> Iterator[Path]:
    """Give the path to write to, beside `target`; afterwards force it to disk and rename it to `target`.

    A draft that an interrupted export left is removed first; an ArmatureError or a full disk removes this one.
    Raises DatasetError where `target` exists or cannot be written.
    """
    if target.exists() or target.is_symlink():
        raise DatasetError(f"{target}: exists already; choose a new path")
    draft = target.with_name(f".{target.name}.exporting")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(draft)
        yield draft
        fs = Fs()
        sync_tree(fs, draft) if draft.is_dir() else fs.sync(draft)
        fs.rename(draft, target)
        fs.sync(target.parent)
    except ArmatureError:
        _remove(draft)
        raise
    except (OSError, RuntimeError) as error:  # h5py raises either on a full disk
        _remove(draft)
        raise DatasetError(f"{target}: cannot be written: {error}") from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
