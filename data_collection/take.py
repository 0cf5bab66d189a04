"""One episode being recorded: its queue, the thread that writes it to disk, and its counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from armature.errors import DatasetError, InvalidValue
from armature.spec import ArraySpec
from armature.types import Sample
from data_collection.byte_queue import ByteQueue
from data_collection.disk_watch import DiskWatch
from data_collection.episode_writer import EpisodeWriter
from data_collection.streams import ACTION_REQUESTED

QUEUE_FULL = "queue_full"
INVALID = "invalid"
REPEATED = "repeated"
OUT_OF_ORDER = "out_of_order"
WRITE_FAILED = "write_failed"

CommitCallback = Callable[[Mapping[str, int]], None]


@dataclass
class StreamCounts:
    """What became of the samples of one stream: once an episode has ended, all are committed or dropped.

    received = committed + dropped, without those `dropped` that were never received: whoever reads the stream may count
    what it lost or could not read with `Recorder.drop`. An interrupt inside `add` may leave one received and no more.
    """

    received: int = 0
    recorded: int = 0
    """Taken over by the writer; it counts only once it is committed."""
    committed: int = 0
    repeated: int = 0
    """The same stamp as before; not recorded again."""
    late: int = 0
    """Recorded, but old when it arrived."""
    dropped: dict[str, int] = field(default_factory=dict[str, int])

    def drop(self, reason: str, count: int = 1) -> None:
        """Count samples that will not be recorded."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def copy(self) -> StreamCounts:
        """Return what is counted so far."""
        return StreamCounts(self.received, self.recorded, self.committed, self.repeated, self.late, dict(self.dropped))


class Take:
    """Takes samples from any thread without waiting; `finish` waits until every one of them is on disk."""

    def __init__(
        self,
        writer: EpisodeWriter,
        streams: Mapping[str, ArraySpec],
        queue_bytes: int,
        commit_period_s: float,
        disk: DiskWatch,
        on_commit: CommitCallback,
    ) -> None:
        self.writer = writer
        self.fault = ""
        """Why no further sample is taken; the episode was then closed as incomplete."""
        self.is_in_doubt = False
        self._streams = streams
        self._queue: ByteQueue[tuple[str, Sample]] = ByteQueue(queue_bytes)
        self._commit_period_s = commit_period_s
        self._disk = disk
        self._on_commit = on_commit
        self._counts = {name: StreamCounts() for name in streams}
        self._last_ns: dict[str, int] = {}
        self._is_finished = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def add(self, stream: str, sample: Sample, *, late: bool) -> bool:
        """Queue a copy of a sample; False when it was dropped, which is counted."""
        with self._lock:
            if self._is_finished:
                return False
            counts = self._counts[stream]
            counts.received += 1
            reason = self._refusal(stream, sample)
            if reason is None:
                counts.late += late
                self._last_ns[stream] = sample.stamp_ns
                return True
            counts.repeated += reason == REPEATED
            counts.drop(reason)
            return False

    def drop(self, stream: str, reason: str, count: int, *, received: bool) -> None:
        """Count samples that were lost before they came here."""
        with self._lock:
            if not self._is_finished:
                self._counts[stream].received += count if received else 0
                self._counts[stream].drop(reason, count)

    def counts(self) -> dict[str, StreamCounts]:
        """Return the counts so far."""
        with self._lock:
            return {name: counts.copy() for name, counts in self._counts.items()}

    def finish(self) -> None:
        """Refuse further samples, and wait until every queued one is committed or counted as dropped."""
        with self._lock:
            self._is_finished = True
        self._queue.close()
        self._thread.join()

    def _refusal(self, stream: str, sample: Sample) -> str | None:
        """Queue the sample, or say why not."""
        if self.fault:
            return WRITE_FAILED
        if not _is_valid(self._streams[stream], sample.value):
            return INVALID
        last_ns = self._last_ns.get(stream, sample.stamp_ns - 1)
        if sample.stamp_ns <= last_ns:
            return REPEATED if sample.stamp_ns == last_ns else OUT_OF_ORDER
        owned = Sample(sample.stamp_ns, sample.received_ns, sample.value.copy())
        return None if self._queue.put((stream, owned), owned.value.nbytes) else QUEUE_FULL

    def _run(self) -> None:
        next_commit_s = time.monotonic() + self._commit_period_s
        while not self._queue.is_done:
            item = self._queue.get(max(0.0, next_commit_s - time.monotonic()))
            if item is not None:
                self._write(*item)
            if time.monotonic() >= next_commit_s:
                self._commit()
                next_commit_s = time.monotonic() + self._commit_period_s
        self._commit()

    def _write(self, stream: str, sample: Sample) -> None:
        try:
            if not self.fault:
                stamps, received = np.array([sample.stamp_ns]), np.array([sample.received_ns])
                self.writer.append(stream, stamps, received, sample.value[None])
        except Exception as error:
            # Whatever it is, the streams must go on being counted.
            self._fail(f"writing failed: {error}")
        with self._lock:
            if self.fault:
                self._counts[stream].drop(WRITE_FAILED)
            else:
                self._counts[stream].recorded += 1

    def _commit(self) -> None:
        if self.fault:
            return
        try:
            committed = self.writer.commit()
            with self._lock:
                for name, length in committed.items():
                    self._counts[name].committed = length
            shortage = self._disk.shortage(self.writer.written_bytes)
        except Exception as error:
            self._fail(f"writing failed: {error}")
            return
        if committed:
            self._tell(committed)
        if shortage and not self.fault:
            self._fail(shortage)

    def _tell(self, committed: Mapping[str, int]) -> None:
        try:
            self._on_commit(committed)
        except Exception as error:
            # Whoever listens must not end this thread: the streams must go on being counted.
            self._fail(f"what was committed could not be told: {error}")

    def _fail(self, reason: str) -> None:
        """Take no further sample; what is not committed will not be, and is counted as dropped."""
        with self._lock:
            self.fault = reason
            for counts in self._counts.values():
                if counts.recorded > counts.committed:
                    counts.drop(WRITE_FAILED, counts.recorded - counts.committed)
                    counts.recorded = counts.committed
        try:
            self.writer.fail(reason, {"counts": {name: asdict(counts) for name, counts in self.counts().items()}})
        except (OSError, DatasetError):
            # The log is in doubt: the next writer closes the episode with what was committed.
            self.is_in_doubt = True


def _is_valid(spec: ArraySpec, value: Any) -> bool:
    if spec.name == ACTION_REQUESTED:
        value = np.nan_to_num(value)
    try:
        spec.validate(value)
    except InvalidValue:
        return False
    return True
