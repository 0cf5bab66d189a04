"""Reading HDF5 files that nobody vouches for: links, objects, plugins and sizes are checked first."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from armature.errors import DatasetError
from data_collection.converters.source import require_plausible

CHUNK_BYTES_MAX = 24 << 20
_READ_BYTES = 8 << 20
_DEPTH_MAX = 8
_MEMBERS_MAX = 1_000_000
_TEXT_BYTES_MAX = 16 << 20
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_DEFLATE_RATIO_MAX = 1032
"""What deflate can shrink at most."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; whatever HDF5 then says of it becomes a DatasetError naming it."""
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DatasetError(f"{path}: is no whole HDF5 file: {' '.join(str(error).split())}") from error


def members(group: h5py.Group, what: str) -> dict[str, h5py.Group | h5py.Dataset]:
    """Return what a group holds, by name; raise DatasetError on links and on names that could lead out of it."""
    if len(group) > _MEMBERS_MAX:
        raise DatasetError(f"{what}: has {len(group)} members, at most {_MEMBERS_MAX}")
    found: dict[str, h5py.Group | h5py.Dataset] = {}
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise DatasetError(f"{what}/{name}: is a {type(link).__name__} to {link.path!r}; links are not followed")
        if name in (".", "..") or "\\" in name:
            raise DatasetError(f"{what}: the name {name!r} is not allowed")
        found[name] = group[name]
    return found


def member_group(group: h5py.Group, name: str, what: str) -> h5py.Group:
    """Return a group within a group; raise DatasetError where there is none."""
    found = members(group, what).get(name) if name in group else None
    if not isinstance(found, h5py.Group):
        raise DatasetError(f"{what}: there is no group {name!r}; it holds {', '.join(list(group)[:8]) or 'nothing'}")
    return found


def datasets(group: h5py.Group, what: str, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, h5py.Dataset]]:
    """Walk all datasets below a group with their keys, each checked by `check_dataset`."""
    if depth > _DEPTH_MAX:
        raise DatasetError(f"{what}: groups are nested more than {_DEPTH_MAX} deep")
    for name, member in members(group, what).items():
        if isinstance(member, h5py.Group):
            yield from datasets(member, f"{what}/{name}", f"{prefix}{name}/", depth + 1)
        elif isinstance(member, h5py.Dataset):
            check_dataset(member, f"{what}/{name}")
            yield prefix + name, member
        else:
            raise DatasetError(f"{what}/{name}: is a {type(member).__name__}, expected a dataset")


def check_dataset(dataset: h5py.Dataset, what: str) -> None:
    """Raise DatasetError unless the dataset is plain numbers (N, ...) that are all in this file."""
    require_plausible(what, dataset.shape or (), dataset.dtype)
    if dataset.shape is None or dataset.ndim < 1:
        raise DatasetError(f"{what}: is a single value, expected (N, ...)")
    if dataset.is_virtual or dataset.external:
        raise DatasetError(f"{what}: its values lie in other files; files are not followed")
    row_bytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    if row_bytes > CHUNK_BYTES_MAX:
        raise DatasetError(f"{what}: one sample {dataset.shape[1:]} needs {row_bytes} bytes, at most {CHUNK_BYTES_MAX}")
    if dataset.chunks is None:
        if dataset.id.get_storage_size() < dataset.nbytes:
            raise DatasetError(f"{what}: {dataset.nbytes} bytes are claimed, {dataset.id.get_storage_size()} are there")
    else:
        _check_chunks(dataset, what)


def read_blocks(dataset: h5py.Dataset, what: str) -> Iterator[tuple[int, NDArray[Any]]]:
    """Read a checked dataset in pieces of some MiB, each with the index of its first row."""
    row_bytes = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    step = max(1, _READ_BYTES // row_bytes)
    if dataset.chunks is not None:
        step = max(step - step % dataset.chunks[0], dataset.chunks[0])
    for start in range(0, len(dataset), step):
        try:
            yield start, dataset[start : start + step]
        except (OSError, RuntimeError) as error:
            raise DatasetError(f"{what}: rows from {start} cannot be read: {error}") from error


def attributes_of(item: h5py.Group, what: str) -> dict[str, Any]:
    """Return the attributes as JSON data; raise DatasetError on one that is neither text nor a few numbers."""
    return {name: _plain(item, name, f"{what}: attribute {name!r}") for name in item.attrs}


def read_names(dataset: h5py.Dataset, what: str) -> list[str]:
    """Read a list of names, stored as fixed or variable text."""
    is_text = dataset.dtype.kind == "S" or h5py.check_string_dtype(dataset.dtype) is not None
    if not is_text or dataset.ndim != 1 or len(dataset) > _MEMBERS_MAX or dataset.dtype.itemsize > 4096:
        raise DatasetError(f"{what}: is {dataset.dtype} {dataset.shape}, expected a list of names")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in dataset[:]]


def _plain(item: h5py.Group, name: str, what: str) -> Any:
    kind = item.attrs.get_id(name)
    is_text = h5py.check_string_dtype(kind.dtype) is not None or kind.dtype.kind == "S"
    if (not is_text and kind.dtype.kind not in "biuf") or kind.get_storage_size() > _TEXT_BYTES_MAX:
        raise DatasetError(f"{what}: {kind.dtype} of {kind.get_storage_size()} bytes is neither text nor numbers")
    value = item.attrs[name]
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    if kind.dtype.kind == "f" and not np.isfinite(value).all():
        raise DatasetError(f"{what}: {plain} is not finite")
    return plain


def _check_chunks(dataset: h5py.Dataset, what: str) -> None:
    chunk_rows_bytes = dataset.chunks[0] * math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if max(chunk_bytes, chunk_rows_bytes) > CHUNK_BYTES_MAX:
        raise DatasetError(f"{what}: chunks {dataset.chunks} need {chunk_bytes} bytes, at most {CHUNK_BYTES_MAX}")
    plist = dataset.id.get_create_plist()
    for filter_id, *_, name in map(plist.get_filter, range(plist.get_nfilters())):
        if filter_id not in _FILTERS:
            raise DatasetError(
                f"{what}: filter {filter_id} ({name!r}) is not allowed; valid: {', '.join(_FILTERS.values())}"
            )
    expected = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    # HDF5 gives zeros for a chunk that was never written.
    if (found := dataset.id.get_num_chunks()) != expected:
        raise DatasetError(f"{what}: {found} of {expected} chunks are there; the file is not whole")
    if dataset.compression == "gzip":
        _check_inflation(dataset, chunk_bytes, what)


def _check_inflation(dataset: h5py.Dataset, chunk_bytes: int, what: str) -> None:
    """Inflate, piece by piece, each chunk that is large enough to become dangerous: HDF5 would do it in one."""
    harmless_bytes = 2 * CHUNK_BYTES_MAX // _DEFLATE_RATIO_MAX
    if dataset.id.get_storage_size() <= harmless_bytes:
        return
    for i in range(dataset.id.get_num_chunks()):
        info = dataset.id.get_chunk_info(i)
        if info.size <= harmless_bytes:
            continue
        if info.size > 2 * chunk_bytes + 4096 or not _inflates_within(dataset, info.chunk_offset, chunk_bytes + 64):
            raise DatasetError(f"{what}: chunk at {info.chunk_offset} inflates to more than its {chunk_bytes} bytes")


def _inflates_within(dataset: h5py.Dataset, offset: tuple[int, ...], limit_bytes: int) -> bool:
    _, data = dataset.id.read_direct_chunk(offset)
    inflater, total = zlib.decompressobj(), 0
    while data and total <= limit_bytes and not inflater.eof:
        try:
            total += len(inflater.decompress(data, 1 << 20))
        except zlib.error:
            return True  # no deflate stream: HDF5 will say so itself
        data = inflater.unconsumed_tail
    return total <= limit_bytes
