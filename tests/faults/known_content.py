"""Content that can be told from its place alone: every sample follows from stream, episode and row."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.blocks import decode_jpeg, encode_jpeg

LOSSLESS, JPEG = "camera/scene", "camera/wrist"
JOINTS = ArraySpec("joint/position", (2,), "float32", "rad", labels=("joint1", "joint2"))
ENCODINGS = {JPEG: "jpeg"}
PERIOD_NS = 4_000_000


@cache
def robot(height: int, width: int) -> RobotSpec:
    """Two cameras, one of them to be stored as JPEG, and two joints."""
    cameras = tuple(ArraySpec(name, (height, width, 3), "uint8", "rgb8") for name in (LOSSLESS, JPEG))
    return RobotSpec(
        "faulty", ObservationSpec((*cameras, JOINTS), 100.0), ActionSpec("joint_position", (JOINTS,), 50.0)
    )


def sample(array: ArraySpec, episode: int, row: int) -> NDArray[Any]:
    """Return the value that was handed in for a row."""
    key = [zlib.crc32(array.name.encode()), episode]
    return array.sample(np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, row])))


@lru_cache(maxsize=4096)
def stored(array: ArraySpec, episode: int, row: int, is_jpeg: bool) -> NDArray[Any]:
    """Return the value that must be read back for a row."""
    value = sample(array, episode, row)
    return decode_jpeg(encode_jpeg(value), array.shape) if is_jpeg else value


def stamps(rows: Iterable[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return acquisition and receive stamps of rows [ns]."""
    stamps_ns = np.fromiter(rows, np.int64) * PERIOD_NS + 17
    return stamps_ns, 3 * stamps_ns + 5


def samples(array: ArraySpec, episode: int, rows: range) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Return what `EpisodeWriter.append` takes for these rows."""
    return *stamps(rows), np.stack([sample(array, episode, row) for row in rows])
