"""Reading the files of a dataset, on a local disk or through fsspec (s3://, gs://, https://, memory://, ...)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fsspec

from armature.errors import DatasetError


class Files(Protocol):
    """Read access to one folder by relative names; raises OSError, FileNotFoundError among them."""

    def read(self, name: str) -> bytes:
        """Return a whole file."""
        ...

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Return part of a file."""
        ...

    def size(self, name: str) -> int:
        """Return the size of a file."""
        ...


@dataclass(frozen=True)
class LocalFiles:
    """A folder on this machine; links that lead out of it are not followed."""

    root: Path

    def read(self, name: str) -> bytes:
        with self._open(name) as file:
            return file.read()

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        with self._open(name) as file:
            return os.pread(file.fileno(), size, offset)

    def size(self, name: str) -> int:
        with self._open(name) as file:
            return os.fstat(file.fileno()).st_size

    def _open(self, name: str) -> Any:
        path = self.root / name
        if Path(os.path.realpath(path)) != Path(os.path.realpath(self.root)) / name:
            raise OSError(f"{name} is a link; a dataset has none")
        return path.open("rb", buffering=0)


@dataclass(frozen=True)
class RemoteFiles:
    """A folder of any file system that fsspec knows."""

    system: Any
    root: str

    def read(self, name: str) -> bytes:
        return self.system.cat_file(f"{self.root}/{name}")

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        return self.system.cat_file(f"{self.root}/{name}", start=offset, end=offset + size)

    def size(self, name: str) -> int:
        return self.system.size(f"{self.root}/{name}")


def is_url(path: Path | str) -> bool:
    """Tell whether a dataset lies elsewhere."""
    return isinstance(path, str) and "://" in path


def open_files(path: Path | str) -> Files:
    """Return read access to a folder; raise DatasetError on a scheme for which nothing is installed."""
    if not is_url(path):
        return LocalFiles(Path(path))
    try:
        system, root = fsspec.core.url_to_fs(str(path))
    except (ImportError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be opened: {error}") from error
    return RemoteFiles(system, root.rstrip("/"))
