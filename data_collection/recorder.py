"""The recorder: takes samples from live streams without ever making them wait, and counts every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, DatasetError, unknown
from armature.filesystem import Fs
from armature.types import Sample
from data_collection.disk_watch import DiskWatch
from data_collection.episode_writer import check_metadata
from data_collection.history import INCOMPLETE
from data_collection.store import Dataset
from data_collection.take import CommitCallback, StreamCounts, Take

SUCCESS, FAILURE = "success", "failure"


@dataclass(frozen=True)
class RecorderConfig:
    """How much may wait, how often it is committed, and how full the disk may get."""

    queue_bytes: int = 256_000_000
    """What may wait for the disk before samples are dropped and counted [bytes]."""
    commit_period_s: float = 0.5
    """How often what came is made to count [s]: at most this much is lost in a power cut."""
    disk_free_min_bytes: int = 2_000_000_000
    """The episode is ended when less than this is free [bytes]..."""
    disk_free_min_s: float = 60.0
    """...or less than so many seconds of the present data."""


@dataclass(frozen=True)
class EpisodeSummary:
    """What `Recorder.end` committed."""

    episode: int
    success: bool | None
    steps: int
    duration_s: float
    counts: dict[str, StreamCounts]


class Recorder:
    """Records episodes into a dataset, whose one writer it is until `close`.

    `add` may be called from any thread; `start`, `end` and `discard` from one at a time. A thread of its own writes to
    disk while an episode runs; `on_commit` is called there with what has come to count.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: RecorderConfig | None = None,
        on_commit: CommitCallback = lambda _: None,
        fs: Fs | None = None,
    ) -> None:
        """Take the dataset's writer lock."""
        self._config = RecorderConfig() if config is None else config
        _check(self._config, dataset)
        self._fs = Fs() if fs is None else fs
        self._dataset = dataset
        self._on_commit = on_commit
        self._writer = dataset.writer(self._fs)
        self._take: Take | None = None
        self._last: Take | None = None
        self._last_ended: int | None = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_recording(self) -> bool:
        """Tell whether an episode is open and takes samples."""
        return self._take is not None and not self._take.fault

    @property
    def fault(self) -> str:
        """Say why the recorder itself ended the running or last episode; "" where it did not."""
        take = self._take or self._last
        return "" if take is None else take.fault

    def start(self, metadata: Mapping[str, Any]) -> int:
        """Begin an episode and return its number; `metadata` (seed, operator, ...) is stored with it as JSON.

        Raises DatasetError while another is open, and when the disk is low or cannot be written to.
        """
        if self.is_recording:
            raise DatasetError("an episode is being recorded: end or discard it first")
        if self._take is not None:
            self._finish()
        check_metadata(metadata)
        disk = DiskWatch(self._fs, self._dataset.path, self._config.disk_free_min_bytes, self._config.disk_free_min_s)
        try:
            shortage = disk.shortage()
        except OSError as error:
            raise DatasetError(f"{self._dataset.path}: cannot be recorded to: {error}") from error
        if shortage:
            raise DatasetError(shortage)
        writer = self._writer.begin(metadata)
        self._take = Take(
            writer, self._writer.streams, self._config.queue_bytes, self._config.commit_period_s, disk, self._on_commit
        )
        return writer.index

    def add(self, stream: str, stamp_ns: int, received_ns: int, value: NDArray[Any], *, late: bool = False) -> bool:
        """Take a copy of one sample and return at once; False when it was dropped, which is counted by reason.

        `late` only counts it as such. Outside an episode samples are refused and not counted. Raises DatasetError on an
        unknown stream.
        """
        take = self._take
        if stream not in self._writer.streams:
            raise DatasetError(unknown("stream", stream, self._writer.streams))
        return take is not None and take.add(stream, Sample(stamp_ns, received_ns, value), late=late)

    def drop(self, stream: str, reason: str, count: int, *, received: bool) -> None:
        """Count samples of the running episode that were lost or refused before `add`."""
        if self._take is not None:
            self._take.drop(stream, reason, count, received=received)

    def counts(self) -> dict[str, StreamCounts]:
        """Return the counts of the running episode, else of the last one."""
        take = self._take or self._last
        return {} if take is None else take.counts()

    def end(self, success: bool | None, termination: str = "") -> EpisodeSummary:
        """Write what is queued, commit the episode and return what it holds.

        Raises DatasetError when the disk failed or was low: what had been committed stays, as an incomplete episode;
        where nothing had, nothing stays.
        """
        outcome = {True: SUCCESS, False: FAILURE, None: ""}[success]
        take = self._finish()
        self._close(take, {"outcome": outcome, "success": success, "termination": termination})
        episode = self._dataset.episode(take.writer.index)
        return EpisodeSummary(episode.index, success, episode.steps, episode.duration_s, take.counts())

    def discard(self) -> None:
        """Drop the running episode; nothing of it remains."""
        take = self._finish()
        try:
            if not take.fault:
                take.writer.discard()
            elif take.is_in_doubt:
                raise OSError("the log is in doubt; the next recorder closes it as incomplete, then it can be dropped")
            elif take.writer.committed:
                self._writer.drop(take.writer.index)
        except OSError as error:
            raise DatasetError(f"episode {take.writer.index} could not be discarded: {error}") from error

    def relabel_last(self, success: bool) -> int:
        """Change the outcome of the last episode, which `end` has ended; return its number.

        Raises DatasetError when the disk fails, and where the last episode broke off or was discarded: what is said of
        it must not change the one before.
        """
        last = self._take or self._last
        if self.is_recording or last is None or self._last_ended is None:
            raise DatasetError("no episode has been ended that could be relabelled; end one first")
        index = last.writer.index
        if index != self._last_ended:
            raise DatasetError(f"episode {index} broke off or was discarded; only one that was ended can be relabelled")
        try:
            self._writer.relabel(index, {"outcome": SUCCESS if success else FAILURE, "success": success})
        except OSError as error:
            raise DatasetError(f"episode {index} could not be relabelled: {error}") from error
        return index

    def close(self) -> None:
        """Close a running episode as incomplete, with all that came, and give the dataset back."""
        try:
            if self._take is not None:
                metadata = {"outcome": INCOMPLETE, "success": None, "termination": "recorder stopped"}
                self._close(self._finish(), metadata)
        finally:
            # Still there: a second Ctrl-C came in while its thread was writing. Then the dataset stays locked until
            # the thread has gone with the process, or until `close` is called again.
            if self._take is None:
                self._writer.close()

    def _close(self, take: Take, metadata: dict[str, Any]) -> None:
        """Close the episode of a take that is finished; raise DatasetError where the disk failed, now or before."""
        index = take.writer.index
        if not take.fault:
            counts = {name: asdict(count) for name, count in take.counts().items()}
            try:
                take.writer.end({**metadata, "counts": counts})
            except OSError as error:
                take.fault = f"writing failed: {error}"
        if take.fault:
            kept = f"episode {index} is incomplete" if take.writer.committed else f"nothing of episode {index} was kept"
            raise DatasetError(f"{kept}: {take.fault}")
        self._last_ended = index

    def _finish(self) -> Take:
        take = self._take
        if take is None:
            raise DatasetError("no episode is being recorded: start one first")
        take.finish()
        self._take, self._last = None, take
        return take


def _check(config: RecorderConfig, dataset: Dataset) -> None:
    largest = max(array.size * np.dtype(array.dtype).itemsize for array in dataset.streams.values())
    if config.queue_bytes < largest:
        raise ConfigError(f"queue_bytes is {config.queue_bytes}, the largest sample alone needs {largest}")
    if config.commit_period_s <= 0:
        raise ConfigError(f"commit_period_s is {config.commit_period_s:g}, must be above 0")
