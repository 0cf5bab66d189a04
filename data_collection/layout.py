"""Where everything lies in a dataset, and the Zarr v3 metadata that lets any Zarr reader open it.

<dataset>/zarr.json                           root group: format version, task, robot spec, encodings
<dataset>/commits.jsonl                       the commit log
<dataset>/writer.lock                         held by the one writer
<dataset>/episodes/000000/<stream>/data       (N, *shape): vectors in chunks, images in shards of one frame per chunk
<dataset>/episodes/000000/<stream>/stamps_ns  (N, 2): acquisition, and reception on the recorder's steady clock
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, TypeVar

import numpy as np

from armature.errors import ConfigError, unknown
from armature.spec import ArraySpec

Encoding = Literal["lossless", "jpeg"]
ENCODINGS: tuple[Encoding, ...] = ("lossless", "jpeg")
JPEG_QUALITY = 95

EPISODES = "episodes"
DATA, STAMPS = "data", "stamps_ns"
ZARR_JSON = "zarr.json"

# Every commit writes each stream's last, unfinished block again, so that blocks must stay small; every block is a file.
_CHUNK_BYTES, _CHUNK_ROWS_MAX = 1 << 20, 1024
_SHARD_BYTES, _SHARD_ROWS_MAX = 8 << 20, 64

P = TypeVar("P", bound=PurePath)


@dataclass(frozen=True)
class ArrayLayout:
    """How one Zarr array is cut into files: `rows` samples each, of `shape` and `dtype`; `encoding` is for images."""

    shape: tuple[int, ...]
    dtype: str
    rows: int
    encoding: Encoding | None = None

    @property
    def row_bytes(self) -> int:
        """Return the size of one sample, decoded."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def file_name(self, block: int) -> str:
        """Name the file of a block: Zarr's chunk key."""
        return ".".join(["c", str(block), *("0" for _ in self.shape)])


STAMPS_LAYOUT = ArrayLayout((2,), "int64", _CHUNK_ROWS_MAX)


def data_layout(array: ArraySpec, encoding: Encoding = "lossless") -> ArrayLayout:
    """Return how the samples of a stream are stored; raise ConfigError on a JPEG of what is no image."""
    if encoding not in ENCODINGS:
        raise ConfigError(unknown(f"encoding of {array.name}", encoding, ENCODINGS))
    if encoding == "jpeg" and not array.is_image:
        raise ConfigError(
            f"encoding of {array.name}: jpeg is for images (H, W, 3) uint8, not {array.dtype} {array.shape}"
        )
    row_bytes = max(1, array.size * np.dtype(array.dtype).itemsize)
    if array.is_image:
        rows = max(1, min(_SHARD_ROWS_MAX, _SHARD_BYTES // row_bytes))
        return ArrayLayout(array.shape, array.dtype, rows, encoding)
    return ArrayLayout(array.shape, array.dtype, max(1, min(_CHUNK_ROWS_MAX, _CHUNK_BYTES // row_bytes)))


def episode_folder(dataset: P, index: int) -> P:
    """Return where an episode lies."""
    return dataset / EPISODES / f"{index:06d}"


def group_document(attributes: dict[str, Any] | None = None) -> bytes:
    """Return the zarr.json of a group."""
    return _document({"zarr_format": 3, "node_type": "group", "attributes": attributes or {}})


def array_document(layout: ArrayLayout, length: int) -> bytes:
    """Return the zarr.json of an array of `length` samples."""
    block = [layout.rows, *layout.shape]
    return _document({
        "zarr_format": 3,
        "node_type": "array",
        "shape": [length, *layout.shape],
        "data_type": layout.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": block}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": _chunk_codecs(layout) if layout.encoding is None else [_sharding(layout)],
        "attributes": {},
    })  # fmt: skip


def _chunk_codecs(layout: ArrayLayout) -> list[dict[str, Any]]:
    size = np.dtype(layout.dtype).itemsize
    blosc = {"typesize": size, "cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0}
    return [_bytes(size), {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}]


def _sharding(layout: ArrayLayout) -> dict[str, Any]:
    jpeg = [{"name": "armature.jpeg", "configuration": {"quality": JPEG_QUALITY}}, {"name": "crc32c"}]
    configuration = {
        "chunk_shape": [1, *layout.shape],
        "codecs": jpeg if layout.encoding == "jpeg" else _chunk_codecs(layout),
        "index_codecs": [_bytes(8), {"name": "crc32c"}],
        "index_location": "end",
    }
    return {"name": "sharding_indexed", "configuration": configuration}


def _bytes(size: int) -> dict[str, Any]:
    return {"name": "bytes", "configuration": {"endian": "little"}} if size > 1 else {"name": "bytes"}


def _document(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode()
