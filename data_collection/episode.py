"""Reading one episode: every read is bounded by what the commit log says, never by what lies on the disk."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import DatasetError, unknown
from armature.spec import ArraySpec, RobotSpec
from data_collection import blocks
from data_collection.files import Files
from data_collection.history import INCOMPLETE, EpisodeRecord, empty_extent
from data_collection.layout import (
    DATA,
    EPISODES,
    STAMPS,
    STAMPS_LAYOUT,
    ArrayLayout,
    Encoding,
    data_layout,
)
from data_collection.streams import ACTION_EXECUTED, stream_specs

Rows = NDArray[np.integer] | list[int] | range


@dataclass(frozen=True)
class Episode:
    """One episode of a dataset."""

    dataset: str
    """Where the dataset lies, for messages."""
    files: Files
    spec: RobotSpec
    encodings: dict[str, Encoding]
    record: EpisodeRecord

    @property
    def index(self) -> int:
        """Return its number, which no other episode of the dataset ever had."""
        return self.record.index

    @property
    def streams(self) -> tuple[str, ...]:
        """List the streams; one that nobody published has length 0."""
        return tuple(stream_specs(self.spec))

    @property
    def metadata(self) -> dict[str, Any]:
        """Return task, prompt, seed, success, operator, outcome, termination, spec_fingerprint, versions, ..."""
        return self.record.metadata

    @property
    def outcome(self) -> str:
        """Return "success", "failure", "incomplete" or "" where nobody said."""
        return self.metadata.get("outcome", "") if self.record.is_ended else INCOMPLETE

    @property
    def is_complete(self) -> bool:
        """Tell whether the episode was brought to its end."""
        return self.outcome != INCOMPLETE

    @property
    def steps(self) -> int:
        """Count the commands that were sent."""
        return self.length(ACTION_EXECUTED)

    @property
    def duration_s(self) -> float:
        """Return the time from the first to the last command [s]."""
        return self._span_s(ACTION_EXECUTED)

    def length(self, stream: str) -> int:
        """Count the committed samples of a stream; raise DatasetError on an unknown one."""
        return self._extent(stream)["length"]

    def rate_hz(self, stream: str) -> float:
        """Return the mean rate of a stream by its stamps, 0 for fewer than two samples."""
        span_s = self._span_s(stream)
        return (self.length(stream) - 1) / span_s if span_s > 0 else 0.0

    def read(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
        """Return stamps (N,) [ns], receive times (N,) [ns, steady clock] and data (N, *shape) of a stream.

        Raises DatasetError naming episode and stream where the files are not what was committed.
        """
        parts = list(zip(*self.blocks(stream), strict=True))
        if not parts:
            array = self._array(stream)
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, *array.shape), array.dtype)
        stamps_ns, received_ns, data = map(np.concatenate, parts)
        return stamps_ns, received_ns, data

    def read_stamps(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return stamps (N,) [ns] and receive times (N,) [ns, steady clock]."""
        length, name = self.length(stream), self._name(stream, STAMPS)
        parts = [self._chunk(stream, name, STAMPS_LAYOUT, k) for k in range(_count(length, STAMPS_LAYOUT))]
        both = np.concatenate(parts)[:length] if parts else np.empty((0, 2), np.int64)
        return both[:, 0].copy(), both[:, 1].copy()

    def blocks(self, stream: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]]:
        """Read a stream in pieces of a few MiB: stamps, receive times, data."""
        layout, length = self._layout(stream), self.length(stream)
        stamps_ns, received_ns = self.read_stamps(stream)
        for k in range(_count(length, layout)):
            rows = slice(k * layout.rows, min((k + 1) * layout.rows, length))
            yield stamps_ns[rows], received_ns[rows], self._block(stream, layout, k)[: rows.stop - rows.start]

    def read_rows(self, stream: str, rows: Rows) -> NDArray[Any]:
        """Return the samples (len(rows), *shape) at the given rows, reading no more files than they lie in."""
        layout, wanted = self._layout(stream), self._checked(stream, rows)
        out = np.empty((len(wanted), *layout.shape), layout.dtype)
        for k in np.unique(wanted // layout.rows):
            places = np.flatnonzero(wanted // layout.rows == k)
            within = wanted[places] % layout.rows
            if layout.encoding is None:
                out[places] = self._block(stream, layout, int(k))[within]
            else:
                encoded = self._frames(stream, layout, int(k), within.tolist())
                out[places] = [self._decoded(stream, layout, frame) for frame in encoded]
        return out

    def read_encoded(self, stream: str, row: int) -> bytes:
        """Return one frame of a JPEG stream as the JPEG file that was recorded."""
        layout = self._layout(stream)
        if layout.encoding != "jpeg":
            raise DatasetError(f"{self._where(stream)}: is not stored as JPEG")
        (row,) = self._checked(stream, [row]).tolist()
        (frame,) = self._frames(stream, layout, row // layout.rows, [row % layout.rows])
        return blocks.frame_body(frame)

    def _block(self, stream: str, layout: ArrayLayout, k: int) -> NDArray[Any]:
        if layout.encoding is None:
            return self._chunk(stream, self._name(stream, DATA), layout, k)
        count = min(layout.rows, self.length(stream) - k * layout.rows)
        frames = self._frames(stream, layout, k, range(count))
        return np.stack([self._decoded(stream, layout, frame) for frame in frames])

    def _chunk(self, stream: str, name: str, layout: ArrayLayout, k: int) -> NDArray[Any]:
        file = f"{name}/{layout.file_name(k)}"
        try:
            return blocks.decode_chunk(self.files.read(file), layout)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._damaged(stream, file, error) from error

    def _frames(self, stream: str, layout: ArrayLayout, k: int, rows: list[int] | range) -> list[bytes]:
        file = f"{self._name(stream, DATA)}/{layout.file_name(k)}"
        try:
            if len(rows) * 2 <= layout.rows:
                # A running recording replaces the file at each commit, perhaps between two of these reads: then, as
                # where it is damaged, all of it is read at once.
                with suppress(ValueError):
                    return self._few_frames(file, layout, rows)
            shard = self.files.read(file)
            index = blocks.decode_index(shard[-blocks.index_bytes(layout) :], layout)
            ranges = [blocks.frame_range(index, row, len(shard)) for row in rows]
            return [shard[offset : offset + size] for offset, size in ranges]
        except (OSError, ValueError) as error:
            raise self._damaged(stream, file, error) from error

    def _few_frames(self, file: str, layout: ArrayLayout, rows: list[int] | range) -> list[bytes]:
        """Read no more of a shard than its index and these frames, which stay where they are as it grows."""
        size_bytes, tail = self.files.size(file), blocks.index_bytes(layout)
        index = blocks.decode_index(self.files.read_range(file, max(0, size_bytes - tail), tail), layout)
        ranges = [blocks.frame_range(index, row, size_bytes) for row in rows]
        return [self.files.read_range(file, offset, size) for offset, size in ranges]

    def _decoded(self, stream: str, layout: ArrayLayout, frame: bytes) -> NDArray[np.uint8]:
        try:
            return blocks.decode_frame(frame, layout)
        except (ValueError, RuntimeError, struct.error) as error:
            raise self._damaged(stream, DATA, error) from error

    def _checked(self, stream: str, rows: Rows) -> NDArray[np.int64]:
        wanted, length = np.asarray(rows, np.int64), self.length(stream)
        outside = wanted[(wanted < 0) | (wanted >= length)]
        if len(outside):
            raise DatasetError(f"{self._where(stream)}: row {outside[0]} is not there; it has {length}")
        return wanted

    def _extent(self, stream: str) -> dict[str, Any]:
        self._array(stream)
        return self.record.streams.get(stream, empty_extent())

    def _array(self, stream: str) -> ArraySpec:
        arrays = stream_specs(self.spec)
        if stream not in arrays:
            raise DatasetError(unknown("stream", stream, self.streams))
        return arrays[stream]

    def _layout(self, stream: str) -> ArrayLayout:
        return data_layout(self._array(stream), self.encodings.get(stream, "lossless"))

    def _name(self, stream: str, array: str) -> str:
        return f"{EPISODES}/{self.index:06d}/{stream}/{array}"

    def _where(self, stream: str) -> str:
        return f"{self.dataset}: episode {self.index}, stream {stream}"

    def _damaged(self, stream: str, file: str, error: Exception) -> DatasetError:
        reason = "is missing" if isinstance(error, FileNotFoundError) else error
        return DatasetError(f"{self._where(stream)}: damaged: {file.rpartition('/')[2]} {reason}")

    def _span_s(self, stream: str) -> float:
        extent = self._extent(stream)
        return (extent["last_ns"] - extent["first_ns"]) / 1e9 if extent["length"] else 0.0


def _count(length: int, layout: ArrayLayout) -> int:
    return -(-length // layout.rows)
