"""Aligned episodes as memory-mapped files, built once: training reads at the speed of memory without having the memory.

<folder>/<key>/index.json   what it was made of, the lengths of its episodes, the size of every file
<folder>/<key>/00.npy ...   one array per stream, all episodes end to end; JPEG images decoded

The key is a hash over dataset, episodes, streams and alignment, so that a cache of something else is never met. A cache
is built in a draft, forced to disk and renamed: one that is there is whole, and one that is not what its index says is
built anew. Whoever builds the same at the same time is not waited for; the first to finish counts. Caches inside a
dataset that has changed since are removed with the next build.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from armature.alignment import AlignmentConfig
from armature.config import to_plain
from armature.errors import DatasetError
from armature.filesystem import Fs, sync_tree
from armature.spec import RobotSpec
from data_collection.files import LocalFiles
from data_collection.store import Dataset, Episode
from data_collection.streams import ACTION_EXECUTED
from data_collection.windows import ACTION, AlignedEpisodes, action_dtype, align_episode

FOLDER = ".cache"
VERSION = 1

_INDEX, _LOCK, _DRAFT = "index.json", "building.lock", ".draft"
_COPY_BYTES = 8 << 20

Progress = Callable[[int, int], None]


def open_cache(
    dataset: Dataset,
    episodes: Sequence[Episode],
    spec: RobotSpec,
    config: AlignmentConfig | None = None,
    folder: Path | None = None,
    on_episode: Progress = lambda _done, _total: None,
) -> AlignedEpisodes:
    """Return `episodes` aligned and mapped, building the cache first where there is none or it is damaged.

    `folder` holds the caches, by default `.cache` in the dataset. Memory stays below a few blocks of one stream. Raises
    DatasetError where the folder cannot be written, and what `align_episode` raises.
    """
    if not episodes:
        raise DatasetError(f"{dataset.path}: there are no episodes to align")
    cache = _Cache(dataset, tuple(episodes), spec, config or AlignmentConfig(), _folder(dataset, folder))
    found = cache.load()
    if found is None:
        cache.build(on_episode)
        found = cache.load()
    if found is None:
        raise DatasetError(f"{cache.path}: the aligned cache was built but cannot be read back")
    return found


def _folder(dataset: Dataset, folder: Path | None) -> Path:
    if folder is not None:
        return folder
    if not isinstance(dataset.files, LocalFiles):
        raise DatasetError(
            f"{dataset.path}: the aligned cache needs a folder on a local disk; name it with --cache DIR"
        )
    return dataset.path / FOLDER


@dataclass(frozen=True)
class _Cache:
    """One cache: what it is made of, and where it lies."""

    dataset: Dataset
    episodes: tuple[Episode, ...]
    spec: RobotSpec
    config: AlignmentConfig
    folder: Path

    @property
    def is_inside(self) -> bool:
        return self.folder.resolve().is_relative_to(self.dataset.path.resolve())

    @property
    def path(self) -> Path:
        return self.folder / hashlib.sha256(_canonical(self.identity)).hexdigest()[:32]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Return all that its content depends on, as JSON data; fixed, though the dataset may grow meanwhile."""
        return {
            "version": VERSION,
            # In a folder of their own, caches of several datasets may meet.
            "dataset": "" if self.is_inside else str(self.dataset.path.resolve()),
            "dataset_fingerprint": self.dataset.fingerprint,
            "spec": self.spec.to_json(),
            "alignment": to_plain(self.config),
            # An episode that is still being recorded grows.
            "episodes": [[episode.index, episode.record.streams] for episode in self.episodes],
        }

    @property
    def arrays(self) -> dict[str, tuple[str, np.dtype, tuple[int, ...]]]:
        """Return file, dtype and shape of one sample by name."""
        action = (ACTION, action_dtype(self.spec), (self.spec.action.dim,))
        listed = [*((a.name, np.dtype(a.dtype), a.shape) for a in self.spec.observation), action]
        return {name: (f"{k:02d}.npy", dtype, shape) for k, (name, dtype, shape) in enumerate(listed)}

    def load(self) -> AlignedEpisodes | None:
        """Map the cache; None where there is none or it is not what its index says."""
        try:
            index = _read_index(self.path / _INDEX)
            if index["identity"] != json.loads(_canonical(self.identity)) or not _sizes_match(self.path, index):
                return None
            rows = sum(index["lengths"])
            arrays = {
                name: _mapped(self.path / file, dtype, (rows, *shape))
                for name, (file, dtype, shape) in self.arrays.items()
            }
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return AlignedEpisodes(arrays, tuple(index["lengths"]), is_mapped=True)

    def build(self, on_episode: Progress) -> None:
        """Write the cache in a draft and put it in its place."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _sweep_drafts(self.folder)
            if self.is_inside:
                _sweep_outdated(self.folder, self.identity["dataset_fingerprint"])
            with _draft(self.path) as draft:
                self._write(draft, on_episode)
                sync_tree(Fs(), draft)
                self._publish(draft)
        except OSError as error:
            hint = "; choose another folder with --cache DIR"
            raise DatasetError(f"{self.folder}: the aligned cache cannot be written: {error.strerror}{hint}") from error

    def _write(self, draft: Path, on_episode: Progress) -> None:
        lengths: list[int] = []
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(closing(_ArrayFile(draft / file, dtype, shape)))
                for name, (file, dtype, shape) in self.arrays.items()
            }
            for done, episode in enumerate(self.episodes):
                on_episode(done, len(self.episodes))
                found = align_episode(episode, self.spec, self.config)
                for name, rows in {**found.index, ACTION: found.ticks}.items():
                    _copy(episode, ACTION_EXECUTED if name == ACTION else name, rows, files[name])
                lengths.append(len(found.ticks))
            for file in files.values():
                file.finish()
        on_episode(len(self.episodes), len(self.episodes))
        sizes = {file: (draft / file).stat().st_size for file, _, _ in self.arrays.values()}
        (draft / _INDEX).write_bytes(_index_bytes({"identity": self.identity, "lengths": lengths, "sizes": sizes}))

    def _publish(self, draft: Path) -> None:
        if self.path.exists() and self.load() is None:
            # Whoever has the damaged one mapped keeps it.
            shutil.rmtree(self.path, ignore_errors=True)
        try:
            draft.rename(self.path)
        except OSError:
            # Another process was faster; what it built is the same.
            if self.load() is None:
                raise
            return
        Fs().sync(self.folder)


class _ArrayFile:
    """A .npy file that grows by rows; its length is put into the header at the end, which has room for it."""

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self._file: BinaryIO = path.open("wb")
        self._dtype, self._shape, self._rows = dtype, shape, 0
        self._header_bytes = self._write_header()

    def append(self, values: NDArray) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._rows += len(values)

    def finish(self) -> None:
        self._file.seek(0)
        if self._write_header() != self._header_bytes:
            raise DatasetError(f"{self._file.name}: its header has no room for {self._rows} rows")

    def close(self) -> None:
        self._file.close()

    def _write_header(self) -> int:
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._rows, *self._shape)}
        npy.write_array_header_1_0(self._file, header)
        return self._file.tell()


def _copy(episode: Episode, stream: str, rows: NDArray[np.int64], file: _ArrayFile) -> None:
    """Append the samples at `rows`, which never fall, while reading the stream once."""
    begin = 0
    for _, _, block in episode.blocks(stream):
        low, high = np.searchsorted(rows, (begin, begin + len(block)))
        step = max(1, _COPY_BYTES // max(1, block[:1].nbytes))
        for at in range(low, high, step):
            file.append(block[rows[at : min(at + step, high)] - begin])
        begin += len(block)


def _mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> NDArray:
    # Copy on write: torch wants arrays that it could write to, and no write may ever reach the file.
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{path}: holds {array.dtype} {array.shape}")
    # A plain view: memmap's own slicing costs microseconds per call.
    return array.view(np.ndarray)


def _index_bytes(index: dict[str, Any]) -> bytes:
    return json.dumps({**index, "crc32": zlib.crc32(_canonical(index))}, indent=1).encode()


def _read_index(path: Path) -> dict[str, Any]:
    index = dict(json.loads(path.read_bytes()))
    if index.pop("crc32") != zlib.crc32(_canonical(index)):
        raise ValueError(f"{path}: damaged")
    return index


def _sizes_match(path: Path, index: dict[str, Any]) -> bool:
    return all((path / file).stat().st_size == size for file, size in index["sizes"].items())


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Make a folder beside `path` that is marked as in use, and remove it at the end unless it was renamed."""
    new = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    new.chmod(0o755)
    lock = os.open(new / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only under this name do others look whether the lock is held.
        draft = new.rename(new.with_name(new.name + _DRAFT))
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    finally:
        os.close(lock)


def _sweep_outdated(folder: Path, fingerprint: str) -> None:
    for index_file in folder.glob(f"*/{_INDEX}"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if _read_index(index_file)["identity"]["dataset_fingerprint"] != fingerprint:
                shutil.rmtree(index_file.parent, ignore_errors=True)


def _sweep_drafts(folder: Path) -> None:
    """Remove drafts whose builder is dead: the kernel has released its lock."""
    for lock_file in folder.glob(f".*{_DRAFT}/{_LOCK}"):
        with suppress(OSError):
            lock = os.open(lock_file, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_file.parent, ignore_errors=True)
            finally:
                os.close(lock)
