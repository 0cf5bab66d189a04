"""Looks at the sizes in an mcap file before a parser believes them: whole records, no chunk that unpacks without end.

rosbags unpacks a chunk first and compares its size afterwards, and holds all chunks that overlap in time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lz4.frame import LZ4FrameDecompressor
from rosbags.rosbag2.reader import zstd

from armature.errors import DatasetError, unknown

BYTES_MAX = 64 << 20
"""No message and no chunk is larger."""
_MAGIC = b"\x89MCAP0\r\n"
_CHUNK, _ATTACHMENT = 0x06, 0x09
_HEAD = struct.Struct("<BQ")
_STEP_BYTES = 1 << 20


def check_mcap(path: Path) -> dict[int, int]:
    """Return the place of every chunk and its unpacked size; raise DatasetError naming the first bad record."""
    size, chunks = path.stat().st_size, dict[int, int]()
    with path.open("rb") as file:
        if file.read(8) != _MAGIC:
            raise DatasetError(f"{path}: is no mcap file")
        place = 8
        while place < size - 8:
            head = file.read(_HEAD.size)
            opcode, length = _HEAD.unpack(head.ljust(_HEAD.size, b"\0"))
            left = size - 8 - place - _HEAD.size
            if length > left:
                claim = f"the record at byte {place} claims {length} bytes, {max(left, 0)} are left"
                raise DatasetError(f"{path}: is cut or damaged: {claim}")
            if length > BYTES_MAX and opcode != _ATTACHMENT:
                raise DatasetError(f"{path}: the record at byte {place} has {length} bytes, at most {BYTES_MAX}")
            if opcode == _CHUNK:
                chunks[place] = _chunk_bytes(f"{path}: chunk at byte {place}", file.read(length))
            place += _HEAD.size + length
            file.seek(place)
        if file.read() != _MAGIC:
            raise DatasetError(f"{path}: is cut: its end is missing")
    return chunks


def check_index(path: Path, chunks: dict[int, int], index: Iterable[Any]) -> None:
    """Raise DatasetError where the index at the end tells of other chunks, or too many overlap in time."""
    edges: list[tuple[int, int]] = []
    index = list(index)
    if index and sorted(chunk.chunk_start_offset for chunk in index) != sorted(chunks):
        raise DatasetError(f"{path}: its index names {len(index)} chunks, it holds {len(chunks)}, or others")
    for chunk in index:
        if chunks.get(chunk.chunk_start_offset) != chunk.uncompressed_size:
            raise DatasetError(f"{path}: its index gives another size for the chunk at {chunk.chunk_start_offset}")
        edges += [
            (chunk.message_start_time, chunk.uncompressed_size),
            (chunk.message_end_time + 1, -chunk.uncompressed_size),
        ]
    held = 0
    for _, size in sorted(edges):
        held += size
        if held > 2 * BYTES_MAX:
            raise DatasetError(f"{path}: more than {2 * BYTES_MAX} bytes of chunks overlap in time")


def _chunk_bytes(what: str, record: bytes) -> int:
    try:
        _, _, claimed, _, name_length = struct.unpack_from("<QQQII", record)
        compression = record[32 : 32 + name_length].decode()
        (packed_size,) = struct.unpack_from("<Q", record, 32 + name_length)
    except (struct.error, UnicodeDecodeError) as error:
        raise DatasetError(f"{what}: its head is damaged: {error}") from error
    begin = 40 + name_length
    if claimed > BYTES_MAX or begin + packed_size != len(record):
        raise DatasetError(f"{what}: claims {packed_size} bytes that unpack to {claimed}, at most {BYTES_MAX}")
    found = _unpacked_size(what, compression, record[begin:], claimed)
    if found != claimed:
        raise DatasetError(
            f"{what}: claims to unpack to {claimed} bytes, it gives {'more' if found > claimed else found}"
        )
    return claimed


def _unpacked_size(what: str, compression: str, packed: bytes, claimed: int) -> int:
    if compression == "":
        return len(packed)
    makers = {"zstd": zstd.ZstdDecompressor, "lz4": LZ4FrameDecompressor}
    if compression not in makers:
        raise DatasetError(f"{what}: {unknown('compression', compression, ['(none)', *makers])}")
    decompressor, size = makers[compression](), 0
    try:
        size = len(decompressor.decompress(packed, max_length=_STEP_BYTES))
        while not decompressor.eof and size <= claimed:
            step = len(decompressor.decompress(b"", max_length=_STEP_BYTES))
            if step == 0:
                break
            size += step
    except (zstd.ZstdError, RuntimeError, EOFError) as error:
        raise DatasetError(f"{what}: cannot be unpacked: {error}") from error
    # A second frame behind the first would be unpacked by rosbags too.
    if decompressor.eof and decompressor.unused_data:
        raise DatasetError(f"{what}: {len(decompressor.unused_data)} bytes lie behind its end")
    return size
