"""Blocks of samples to the bytes of their file and back: exactly what Zarr v3 codecs would write.

A vector's block is one chunk (blosc-lz4, then CRC-32C). An image's block is a shard: each frame encoded by itself with
its CRC-32C, then an index of offsets and sizes, so that one frame can be read alone. Written here and not through
zarr-python because a call of it costs 2 to 3 ms and the order of writes and syncs must be ours (ADR 010).
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numpy.typing import NDArray

from armature.jpeg import jpeg_size
from data_collection.layout import JPEG_QUALITY, ArrayLayout

_BLOSC = Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE)
_CRC = struct.Struct("<I")
_ABSENT = 2**64 - 1
# Blosc adds 16 bytes to what it cannot compress, and we four; a JPEG is smaller than its image.
_FRAME_OVERHEAD = 20


def encode_chunk(rows: NDArray[Any], layout: ArrayLayout) -> bytes:
    """Encode up to `layout.rows` vectors; Zarr chunks are always whole, so the rest is zeros."""
    whole = np.zeros((layout.rows, *layout.shape), layout.dtype)
    whole[: len(rows)] = rows
    return _with_crc(_BLOSC.encode(whole))


def decode_chunk(data: bytes, layout: ArrayLayout) -> NDArray[Any]:
    """Return all `layout.rows` vectors of a chunk; raise ValueError on damage."""
    return _unpack(_without_crc(data), (layout.rows, *layout.shape), layout.dtype)


def encode_frame(image: NDArray[np.uint8], layout: ArrayLayout) -> bytes:
    """Encode one image, losslessly or as JPEG, without its checksum: a shard adds it."""
    return encode_jpeg(image) if layout.encoding == "jpeg" else _BLOSC.encode(np.ascontiguousarray(image))


def decode_frame(data: bytes, layout: ArrayLayout) -> NDArray[np.uint8]:
    """Return one image (H, W, 3); raise ValueError on damage."""
    body = frame_body(data)
    return decode_jpeg(body, layout.shape) if layout.encoding == "jpeg" else _unpack(body, layout.shape, layout.dtype)


def frame_body(data: bytes) -> bytes:
    """Return an encoded frame without its checksum: for a JPEG stream a JPEG file."""
    return _without_crc(data)


class ShardBuffer:
    """Encoded frames one after another, and an index of all `layout.rows` places behind them.

    The memory is used again for every shard of a stream: blocks of megabytes that come and go would tear up the heap.
    """

    def __init__(self, layout: ArrayLayout) -> None:
        self._index = np.full((layout.rows, 2), _ABSENT, "<u8")
        self._data = bytearray(layout.rows * (layout.row_bytes + _FRAME_OVERHEAD) + index_bytes(layout))
        self._count = 0
        self._end = 0

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Tell whether all places are taken."""
        return self._count == len(self._index)

    def add(self, frame: bytes) -> None:
        """Add an encoded frame and its checksum."""
        size = self._put(frame)
        self._index[self._count] = self._end, size
        self._end += size
        self._count += 1

    def content(self) -> memoryview:
        """Return the shard as it is now; valid until the next change."""
        size = self._put(self._index.tobytes())
        return memoryview(self._data)[: self._end + size]

    def clear(self) -> None:
        """Begin the next shard."""
        self._index[:] = _ABSENT
        self._count = self._end = 0

    def _put(self, part: bytes) -> int:
        """Write a part and its checksum at the end, which stays where it is; return their size."""
        begin, middle = self._end, self._end + len(part)
        end = middle + _CRC.size
        if end > len(self._data):
            self._data += bytes(end - len(self._data))
        self._data[begin:middle] = part
        self._data[middle:end] = _CRC.pack(google_crc32c.value(part))
        return end - begin


def index_bytes(layout: ArrayLayout) -> int:
    """Return the size of a shard's index, at its end."""
    return 16 * layout.rows + _CRC.size


def decode_index(tail: bytes, layout: ArrayLayout) -> NDArray[np.uint64]:
    """Return offset and size of every frame (rows, 2) from the last `index_bytes` of a shard; ValueError on damage."""
    if len(tail) != index_bytes(layout):
        raise ValueError(f"the index has {len(tail)} bytes, expected {index_bytes(layout)}")
    return np.frombuffer(_without_crc(tail), "<u8").reshape(layout.rows, 2)


def frame_range(index: NDArray[np.uint64], row: int, shard_bytes: int) -> tuple[int, int]:
    """Return offset and size of a frame; raise ValueError where it is absent or lies outside."""
    offset, size = int(index[row, 0]), int(index[row, 1])
    if offset + size > shard_bytes:
        raise ValueError(f"frame {row} of the block is absent")
    return offset, size


def encode_jpeg(image: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """Return an RGB image as a JPEG file."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"an image {image.shape} could not be encoded as JPEG")
    return data.tobytes()


def decode_jpeg(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Decode a JPEG file of this size to RGB; raise ValueError on another size, before memory is taken for it."""
    if jpeg_size(data) != shape[:2]:
        raise ValueError(f"the JPEG is {jpeg_size(data)}, expected {shape[:2]}")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("the JPEG cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _unpack(data: bytes, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    # Blosc's header says how much will come out: looked at first, so that no file can make us allocate more.
    if len(data) < 16 or int.from_bytes(data[4:8], "little") != expected:
        raise ValueError(f"a block does not hold {expected} bytes")
    return np.frombuffer(_BLOSC.decode(data), dtype).reshape(shape)


def _with_crc(data: bytes) -> bytes:
    return data + _CRC.pack(google_crc32c.value(data))


def _without_crc(data: bytes) -> bytes:
    body, crc = data[: -_CRC.size], data[-_CRC.size :]
    if len(data) < _CRC.size or _CRC.pack(google_crc32c.value(body)) != crc:
        raise ValueError("checksum does not match")
    return body
