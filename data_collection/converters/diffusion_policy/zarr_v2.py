"""Reading Zarr v2 folders that nobody vouches for: everything is checked before it is opened or decoded.

Zarr itself fills in for chunks that are not there, runs whatever codec the metadata names, and takes a chunk's word
for its size.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from armature.errors import DatasetError
from data_collection.converters.source import require_plausible

CHUNK_BYTES_MAX = 24 << 20
_METADATA_BYTES_MAX = 1 << 20
_READ_BYTES = 8 << 20


@dataclass(frozen=True)
class StoredArray:
    """One checked array of a store; the first axis is time."""

    folder: Path
    what: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    separator: str
    codec: str

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read rows start..stop in pieces of some MiB, each with the index of its first row.

        Raises DatasetError where a chunk is missing, damaged or decodes to more than its shape says.
        """
        chunk_rows = self.chunks[0]
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        step = chunk_rows * max(1, _READ_BYTES // (chunk_rows * row_bytes))
        array = self._open()
        for first in range(start - start % step, stop, step):
            low, high = max(first, start), min(first + step, stop)
            self._check_chunks(low, high)
            yield low, self._read(array, low, high)

    def read_all(self) -> NDArray[Any]:
        """Read everything, of an array known to be small."""
        blocks = [values for _, values in self.blocks(0, len(self))]
        return np.concatenate(blocks) if blocks else np.empty(self.shape, self.dtype)

    def check_chunks_exist(self) -> None:
        """Raise DatasetError naming the first missing chunk, by which a store that was not copied whole is told."""
        expected = math.prod(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))
        found = sum(1 for _, _, files in os.walk(self.folder) for file in files if not file.startswith("."))
        if found < expected:
            raise DatasetError(f"{self.what}: {found} of {expected} chunks are there; the store is not whole")

    def _open(self) -> Any:
        try:
            return zarr.open_array(self.folder, mode="r", zarr_format=2)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{self.what}: cannot be opened: {error}") from error

    def _read(self, array: Any, low: int, high: int) -> NDArray[Any]:
        try:
            return np.asarray(array[low:high])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise DatasetError(f"{self.what}: rows {low} to {high} cannot be read: {error}") from error

    def _check_chunks(self, low: int, high: int) -> None:
        rows = range(low // self.chunks[0], -(-high // self.chunks[0]))
        others = [range(-(-n // c)) for n, c in zip(self.shape[1:], self.chunks[1:], strict=True)]
        expected = math.prod(self.chunks) * self.dtype.itemsize
        for index in itertools.product(rows, *others):
            file = self.folder / self.separator.join(map(str, index))
            if not file.is_file():
                raise DatasetError(f"{self.what}: chunk {file.name} is missing; the store is not whole")
            if (size := _decoded_bytes(file, self.codec, expected)) != expected:
                raise DatasetError(f"{self.what}: chunk {file.name} decodes to {size} bytes, expected {expected}")


def require_contained(root: Path) -> None:
    """Raise DatasetError where anything in the folder leads out of it, or is neither file nor folder."""
    inside = root.resolve()
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise DatasetError(f"{path}: leads out of the store, to {path.resolve()}")
            if not path.is_symlink() and not path.is_file() and not path.is_dir():
                raise DatasetError(f"{path}: is neither file nor folder")


def list_arrays(root: Path, group: str) -> list[str]:
    """List the arrays below a group by their keys within it, sorted; raise DatasetError when there is no such group."""
    folder = root / group
    if not (folder / ".zgroup").is_file():
        raise DatasetError(f"{folder}: is no Zarr v2 group; expected data/ and meta/episode_ends")
    return sorted(file.parent.relative_to(folder).as_posix() for file in folder.rglob(".zarray"))


def read_attributes(folder: Path) -> dict[str, Any]:
    """Read the attributes of a group; empty where there are none."""
    return _read_json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}


def open_array(root: Path, key: str) -> StoredArray:
    """Check what an array says of itself; raise DatasetError naming file, field, value and limit."""
    folder = root / key
    if not (folder / ".zarray").is_file():
        raise DatasetError(f"{folder}: there is no array {key!r}")
    what, data = str(folder), _read_json(folder / ".zarray")
    shape, chunks = _lengths(data, "shape", what), _lengths(data, "chunks", what)
    dtype = _dtype(data.get("dtype"), what)
    require_plausible(what, shape, dtype)
    if not shape or len(shape) != len(chunks) or min(chunks) < 1:
        raise DatasetError(f"{what}: chunks {chunks} do not fit shape {shape}")
    chunk_bytes = max(math.prod(chunks), chunks[0] * math.prod(shape[1:])) * dtype.itemsize
    if chunk_bytes > CHUNK_BYTES_MAX:
        raise DatasetError(f"{what}: chunks {chunks} need {chunk_bytes} bytes, at most {CHUNK_BYTES_MAX}")
    separator = data.get("dimension_separator", ".")
    if separator not in (".", "/"):
        raise DatasetError(f"{what}: dimension_separator {separator!r} is unknown; valid: '.', '/'")
    return StoredArray(folder, what, shape, dtype, chunks, separator, _codec(data, what))


def _codec(data: dict[str, Any], what: str) -> str:
    if filters := data.get("filters"):
        raise DatasetError(f"{what}: filters {str(filters)[:80]} are not allowed: arrays of numbers have none")
    compressor = data.get("compressor")
    name = "none" if compressor is None else compressor.get("id") if isinstance(compressor, dict) else compressor
    if name not in _DECODED_BYTES:
        raise DatasetError(f"{what}: compressor {name!r} is not allowed; valid: {', '.join(_DECODED_BYTES)}")
    return name


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _METADATA_BYTES_MAX:
        raise DatasetError(f"{path}: {path.stat().st_size} bytes, at most {_METADATA_BYTES_MAX}")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: is no JSON object")
    return data


def _lengths(data: dict[str, Any], field: str, what: str) -> tuple[int, ...]:
    value = data.get(field)
    if not isinstance(value, list) or not all(type(length) is int and length >= 0 for length in value):
        raise DatasetError(f"{what}: {field} is {str(value)[:80]}, expected a list of lengths")
    return tuple(value)


def _dtype(text: Any, what: str) -> np.dtype[Any]:
    try:
        return np.dtype(text) if isinstance(text, str) else np.dtype(object)
    except TypeError as error:
        raise DatasetError(f"{what}: dtype {text!r} is unknown") from error


def _decoded_bytes(file: Path, codec: str, expected: int) -> int:
    """Tell how large a chunk will be once it is decoded, without decoding it into memory."""
    try:
        return _DECODED_BYTES[codec](file, expected)
    except (struct.error, IndexError, zlib.error, EOFError) as error:
        raise DatasetError(f"{file}: is no {codec} chunk: {error}") from error


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(32)


def _inflated_bytes(file: Path, expected: int) -> int:
    inflater, total = zlib.decompressobj(wbits=47), 0
    with file.open("rb") as stream:
        while total <= expected and not inflater.eof and (data := inflater.unconsumed_tail or stream.read(1 << 16)):
            total += len(inflater.decompress(data, 1 << 20))
    return total


def _blosc_bytes(head: bytes, file_bytes: int) -> int:
    decoded, _, encoded = struct.unpack_from("<III", head, 4)
    # The decoder believes this length and would read beyond the end of a file that was cut.
    if encoded != file_bytes:
        raise struct.error(f"it claims {encoded} bytes and has {file_bytes}")
    return decoded


def _zstd_bytes(head: bytes) -> int:
    """Read the content size of a zstd frame (RFC 8878, 3.1.1.1); -1 where the frame does not say."""
    if head[:4] != b"\x28\xb5\x2f\xfd":
        raise struct.error("no zstd frame")
    flags = head[4]
    is_single = bool(flags & 0x20)
    start = 5 + (not is_single) + (0, 1, 2, 4)[flags & 3]
    width = (int(is_single), 2, 4, 8)[flags >> 6]
    size = int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)
    return size if width else -1


_DECODED_BYTES = {
    "blosc": lambda file, _: _blosc_bytes(_head(file), file.stat().st_size),
    "zstd": lambda file, _: _zstd_bytes(_head(file)),
    "lz4": lambda file, _: struct.unpack_from("<I", _head(file))[0],
    "zlib": _inflated_bytes,
    "gzip": _inflated_bytes,
    "none": lambda file, _: file.stat().st_size,
}
