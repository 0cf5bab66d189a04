"""The recorder: takes samples from live streams without ever making them wait, and counts every one of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, DatasetError, InvalidValue, unknown
from armature.spec import ArraySpec
from armature.types import Sample
from data_collection.byte_queue import ByteQueue
from data_collection.episode_writer import EpisodeWriter, check_metadata
from data_collection.store import Dataset
from data_collection.streams import ACTION_REQUESTED

QUEUE_FULL = "queue_full"
INVALID = "invalid"
OUT_OF_ORDER = "out_of_order"
WRITE_FAILED = "write_failed"


@dataclass
class StreamCounts:
    """What became of the samples of one stream: once an episode has ended, received = recorded + all dropped."""

    received: int = 0
    recorded: int = 0
    dropped: dict[str, int] = field(default_factory=dict[str, int])

    def drop(self, reason: str) -> None:
        """Count one sample that will not be recorded."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


@dataclass(frozen=True)
class EpisodeSummary:
    """What `Recorder.end` committed."""

    episode: int
    success: bool
    steps: int
    duration_s: float
    counts: dict[str, StreamCounts]


class Recorder:
    """Records episodes into a dataset, whose one writer it is until `close`.

    `add` may be called from any thread; `start`, `end` and `discard` from one at a time. A thread of its own writes to
    disk while an episode runs.
    """

    def __init__(self, dataset: Dataset, queue_bytes: int) -> None:
        """Take the dataset's writer lock; `queue_bytes` bounds what waits for the disk."""
        largest = max(array.size * np.dtype(array.dtype).itemsize for array in dataset.spec.observation)
        if queue_bytes < largest:
            raise ConfigError(f"queue_bytes is {queue_bytes}, the largest sample alone needs {largest}")
        self._dataset = dataset
        self._queue_bytes = queue_bytes
        self._writer = dataset.writer()
        self._take: _Take | None = None
        self._last_counts: dict[str, StreamCounts] = {}

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_recording(self) -> bool:
        """Tell whether an episode is open."""
        return self._take is not None

    def start(self, metadata: Mapping[str, Any]) -> int:
        """Begin an episode and return its number; `metadata` (seed, operator, ...) is stored with it as JSON."""
        if self._take is not None:
            raise DatasetError(f"episode {self._take.writer.index} is being recorded: end or discard it first")
        check_metadata(metadata)
        self._take = _Take(self._writer.begin(), self._writer.streams, self._queue_bytes, dict(metadata))
        return self._take.writer.index

    def add(self, stream: str, stamp_ns: int, received_ns: int, value: NDArray[Any]) -> bool:
        """Take a copy of one sample and return at once; False when it was dropped, which is counted by reason.

        Outside an episode samples are refused and not counted. Raises DatasetError on an unknown stream.
        """
        take = self._take
        if stream not in self._writer.streams:
            raise DatasetError(unknown("stream", stream, self._writer.streams))
        return take is not None and take.add(stream, Sample(stamp_ns, received_ns, value))

    def counts(self) -> dict[str, StreamCounts]:
        """Return the counts of the running episode, else of the last one."""
        return self._last_counts if self._take is None else self._take.counts()

    def end(self, success: bool) -> EpisodeSummary:
        """Write what is queued, commit the episode and return what it holds.

        Raises DatasetError, with the episode discarded, when writing failed.
        """
        take = self._finish()
        if take.failure is not None:
            take.writer.discard()
            raise DatasetError(f"episode {take.writer.index} could not be written: {take.failure}") from take.failure
        outcome = "success" if success else "failure"
        counts = {name: asdict(count) for name, count in self._last_counts.items()}
        try:
            take.writer.commit({"outcome": outcome, **take.metadata, "success": success, "counts": counts})
        except OSError as error:
            raise DatasetError(f"episode {take.writer.index} could not be committed: {error}") from error
        episode = self._dataset.episodes[take.writer.index]
        return EpisodeSummary(episode.index, success, episode.steps, episode.duration_s, self._last_counts)

    def discard(self) -> None:
        """Drop the running episode; nothing of it remains."""
        self._finish().writer.discard()

    def close(self) -> None:
        """Discard a running episode and give the dataset back."""
        try:
            if self._take is not None:
                self._finish()
        finally:
            self._writer.close()

    def _finish(self) -> _Take:
        take = self._take
        if take is None:
            raise DatasetError("no episode is being recorded: start one first")
        self._take = None
        take.finish()
        self._last_counts = take.counts()
        return take


class _Take:
    """One episode being recorded: its queue, its thread and its counts."""

    def __init__(
        self, writer: EpisodeWriter, streams: Mapping[str, ArraySpec], queue_bytes: int, metadata: dict[str, Any]
    ) -> None:
        self.writer = writer
        self.metadata = metadata
        self.failure: Exception | None = None
        self._streams = streams
        self._queue: ByteQueue[tuple[str, Sample]] = ByteQueue(queue_bytes)
        self._counts = {name: StreamCounts() for name in streams}
        self._last_ns: dict[str, int] = {}
        self._is_finished = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def add(self, stream: str, sample: Sample) -> bool:
        with self._lock:
            if self._is_finished:
                return False
            counts = self._counts[stream]
            counts.received += 1
            reason = self._refusal(stream, sample)
            if reason is None:
                self._last_ns[stream] = sample.stamp_ns
                return True
            counts.drop(reason)
            return False

    def counts(self) -> dict[str, StreamCounts]:
        with self._lock:
            return {name: StreamCounts(c.received, c.recorded, dict(c.dropped)) for name, c in self._counts.items()}

    def finish(self) -> None:
        """Refuse further samples and wait until every queued one is written."""
        with self._lock:
            self._is_finished = True
        self._queue.close()
        self._thread.join()

    def _refusal(self, stream: str, sample: Sample) -> str | None:
        """Queue the sample, or say why not."""
        if self.failure is not None:
            return WRITE_FAILED
        if not _is_valid(self._streams[stream], sample.value):
            return INVALID
        if sample.stamp_ns <= self._last_ns.get(stream, sample.stamp_ns - 1):
            return OUT_OF_ORDER
        owned = Sample(sample.stamp_ns, sample.received_ns, sample.value.copy())
        return None if self._queue.put((stream, owned), owned.value.nbytes) else QUEUE_FULL

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            stream, sample = item
            recorded = self._append(stream, sample)
            with self._lock:
                if recorded:
                    self._counts[stream].recorded += 1
                else:
                    self._counts[stream].drop(WRITE_FAILED)

    def _append(self, stream: str, sample: Sample) -> bool:
        if self.failure is not None:
            return False
        try:
            self.writer.append(stream, np.array([sample.stamp_ns]), np.array([sample.received_ns]), sample.value[None])
        except Exception as error:
            # Whatever it is, the streams must go on being counted; `end` reports it.
            self.failure = error
            return False
        return True


def _is_valid(spec: ArraySpec, value: NDArray[Any]) -> bool:
    if spec.name == ACTION_REQUESTED:
        value = np.nan_to_num(value)
    try:
        spec.validate(value)
    except InvalidValue:
        return False
    return True
