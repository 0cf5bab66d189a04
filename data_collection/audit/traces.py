"""One episode in memory: vectors as they are, of every image only how much it differs from the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data_collection.store import Episode
from data_collection.streams import TAKEOVER

SIDE_PX = 32
"""Pictures are compared at this size: noise averages out and an hour of video takes no memory."""


@dataclass(frozen=True)
class VectorTrace:
    """The N samples of a vector stream."""

    stamps_ns: NDArray[np.int64]
    values: NDArray[Any]
    """(N, D)"""

    @property
    def repeats(self) -> NDArray[np.bool_]:
        """Tell for every sample whether it equals the one before, (N,)."""
        equal = (self.values[1:] == self.values[:-1]).all(axis=1)
        return np.concatenate((np.zeros(min(1, len(self.values)), bool), equal))


@dataclass(frozen=True)
class ImageTrace:
    """What remains of the N frames of a camera."""

    stamps_ns: NDArray[np.int64]
    repeats: NDArray[np.bool_]
    """Whether a frame has exactly the bytes of the one before, (N,)."""
    motion: NDArray[np.float32]
    """Mean absolute difference of grey levels to the frame before, (N,); 0 for the first."""


def read_trace(episode: Episode, stream: str, is_image: bool) -> VectorTrace | ImageTrace:
    """Read one stream block by block; raise DatasetError where it is damaged."""
    return _read_images(episode, stream) if is_image else _read_vectors(episode, stream)


def driven_spans(episode: Episode) -> list[tuple[int, int]]:
    """Return from which stamp to which [ns] a person drove in the place of a policy; none where they always did."""
    stamps_ns, _, engaged = episode.read(TAKEOVER)
    drives = np.asarray(engaged).reshape(-1) > 0
    if drives.all():
        return []
    changes = np.diff(np.concatenate(([0], drives.astype(np.int8), [0])))
    firsts, ends = np.flatnonzero(changes > 0), np.flatnonzero(changes < 0)
    return [(int(stamps_ns[a]), int(stamps_ns[min(b, len(drives) - 1)])) for a, b in zip(firsts, ends, strict=True)]


def _read_vectors(episode: Episode, stream: str) -> VectorTrace:
    stamps, values = [np.empty(0, np.int64)], []
    for stamps_ns, _, data in episode.blocks(stream):
        stamps.append(np.asarray(stamps_ns))
        values.append(np.asarray(data).reshape(len(data), -1))
    return VectorTrace(np.concatenate(stamps), np.concatenate(values) if values else np.empty((0, 1)))


def _read_images(episode: Episode, stream: str) -> ImageTrace:
    stamps, repeats, motion = [np.empty(0, np.int64)], [], []
    last = small_last = None
    for stamps_ns, _, frames in episode.blocks(stream):
        stamps.append(np.asarray(stamps_ns))
        for frame in np.asarray(frames):
            small = _small(frame)
            repeats.append(last is not None and np.array_equal(frame, last))
            motion.append(0.0 if small_last is None else float(np.abs(small - small_last).mean()))
            # A copy: a view would keep the whole block alive.
            last, small_last = frame.copy(), small
    return ImageTrace(np.concatenate(stamps), np.array(repeats, bool), np.array(motion, np.float32))


def _small(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
