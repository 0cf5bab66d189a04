"""Writing one stream: samples are gathered into blocks, and each block is one file that is only ever replaced whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import InvalidValue
from armature.filesystem import Fs, replace_file
from armature.spec import ArraySpec
from data_collection import blocks
from data_collection.history import Extent
from data_collection.layout import (
    DATA,
    STAMPS,
    STAMPS_LAYOUT,
    ZARR_JSON,
    ArrayLayout,
    Encoding,
    array_document,
    data_layout,
)


class StreamWriter:
    """Gathers the samples of one stream in `folder`, which exists.

    `flush` brings them to disk; the caller then syncs the folders and commits.
    """

    def __init__(self, fs: Fs, folder: Path, spec: ArraySpec, encoding: Encoding) -> None:
        self.spec = spec
        self.length = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.written_bytes = 0
        layout = data_layout(spec, encoding)
        self._dtype = np.dtype(spec.dtype)
        data = _ShardFiles(fs, folder / DATA, layout) if layout.encoding else _ChunkFiles(fs, folder / DATA, layout)
        self._arrays = (data, _ChunkFiles(fs, folder / STAMPS, STAMPS_LAYOUT))
        self._flushed = 0
        for array in self._arrays:
            array.create()

    @property
    def has_new_rows(self) -> bool:
        """Tell whether samples came since the last flush."""
        return self.length > self._flushed

    @property
    def folders(self) -> tuple[Path, ...]:
        """List the folders whose names have to be synced after a flush."""
        return tuple(array.folder for array in self._arrays)

    def append(self, stamps_ns: NDArray[np.int64], received_ns: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Add N samples: stamps (N,) and values (N, *shape)."""
        if len(stamps_ns) == 0:
            return
        self._check(stamps_ns, values)
        if self.first_ns is None:
            self.first_ns = int(stamps_ns[0])
        self.last_ns = int(stamps_ns[-1])
        for array, rows in zip(self._arrays, (values, np.stack([stamps_ns, received_ns], axis=1)), strict=True):
            self.written_bytes += array.append(rows)
        self.length += len(stamps_ns)

    def flush(self) -> None:
        """Write the unfinished block, so that every sample is in a file."""
        for array in self._arrays:
            self.written_bytes += array.flush()
        self._flushed = self.length

    def finish(self) -> None:
        """Let the Zarr metadata say how long the arrays are."""
        for array in self._arrays:
            array.write_document(self.length)

    def extent(self) -> Extent:
        """Return what the commit says about this stream."""
        return {"length": self.length, "first_ns": self.first_ns, "last_ns": self.last_ns}

    def _check(self, stamps_ns: NDArray[np.int64], values: NDArray[Any]) -> None:
        spec = self.spec
        if values.shape != (len(stamps_ns), *spec.shape) or values.dtype != self._dtype:
            raise InvalidValue(
                f"{spec.name}: got {values.dtype} {values.shape}, expected {spec.dtype} {(len(stamps_ns), *spec.shape)}"
            )
        rises = self.last_ns is None or stamps_ns[0] > self.last_ns
        if not rises or (len(stamps_ns) > 1 and not (stamps_ns[1:] > stamps_ns[:-1]).all()):
            raise InvalidValue(f"{spec.name}: stamps must rise; got {stamps_ns.tolist()} after {self.last_ns}")


class _BlockFiles:
    """The files of one Zarr array."""

    def __init__(self, fs: Fs, folder: Path, layout: ArrayLayout) -> None:
        self.folder = folder
        self._fs = fs
        self._layout = layout
        self._block = 0

    def create(self) -> None:
        self._fs.make_folder(self.folder)
        self._fs.write(self.folder / ZARR_JSON, array_document(self._layout, 0))

    def write_document(self, length: int) -> None:
        replace_file(self._fs, self.folder / ZARR_JSON, array_document(self._layout, length))

    def _write_block(self, data: bytes | memoryview, *, is_full: bool) -> int:
        replace_file(self._fs, self.folder / self._layout.file_name(self._block), data)
        self._block += is_full
        return len(data)


class _ChunkFiles(_BlockFiles):
    """Vectors, gathered in one array."""

    def __init__(self, fs: Fs, folder: Path, layout: ArrayLayout) -> None:
        super().__init__(fs, folder, layout)
        self._rows = np.empty((layout.rows, *layout.shape), layout.dtype)
        self._filled = 0

    def append(self, rows: NDArray[Any]) -> int:
        written, done = 0, 0
        while done < len(rows):
            count = min(self._layout.rows - self._filled, len(rows) - done)
            self._rows[self._filled : self._filled + count] = rows[done : done + count]
            self._filled += count
            done += count
            if self._filled == self._layout.rows:
                written += self._write(is_full=True)
                self._filled = 0
        return written

    def flush(self) -> int:
        return self._write(is_full=False) if self._filled else 0

    def _write(self, *, is_full: bool) -> int:
        return self._write_block(blocks.encode_chunk(self._rows[: self._filled], self._layout), is_full=is_full)


class _ShardFiles(_BlockFiles):
    """Images, each encoded when it comes."""

    def __init__(self, fs: Fs, folder: Path, layout: ArrayLayout) -> None:
        super().__init__(fs, folder, layout)
        self._shard = blocks.ShardBuffer(layout)

    def append(self, rows: NDArray[Any]) -> int:
        written = 0
        for image in rows:
            self._shard.add(blocks.encode_frame(image, self._layout))
            if self._shard.is_full:
                written += self._write_block(self._shard.content(), is_full=True)
                self._shard.clear()
        return written

    def flush(self) -> int:
        return self._write_block(self._shard.content(), is_full=False) if len(self._shard) else 0
