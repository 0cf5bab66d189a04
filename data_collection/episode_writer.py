"""Writing one episode: samples go to disk as they come, and each `commit` makes all of them so far count."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from armature.errors import DatasetError, unknown
from armature.filesystem import Fs, sync_tree
from armature.spec import ArraySpec
from data_collection.history import BEGIN, DISCARD, END, INCOMPLETE, ROWS, EpisodeRecord, Extent
from data_collection.layout import ZARR_JSON, Encoding, episode_folder, group_document
from data_collection.recovery import close_arrays
from data_collection.stream_writer import StreamWriter


class Log(Protocol):
    """Where an episode writes its commits: the DatasetWriter."""

    fs: Fs
    path: Path
    streams: Mapping[str, ArraySpec]
    encodings: Mapping[str, Encoding]

    def append(self, entry: dict[str, Any]) -> None:
        """Commit one entry."""
        ...

    def forget(self) -> None:
        """Let go of an episode that was closed."""
        ...


class EpisodeWriter:
    """One open episode: `append` samples, `commit` now and then, close it with `end` or `discard`. For one thread.

    When the disk refuses, what was committed stays, nothing is tried again, and only `fail` or `discard` are left.
    """

    def __init__(self, log: Log, index: int, metadata: Mapping[str, Any]) -> None:
        self.index = index
        self._log = log
        self._fs = log.fs
        self._folder = episode_folder(log.path, index)
        self._committed: dict[str, Extent] = {}
        self._has_failed = False
        self._is_open = True
        self._create_folders()
        self._streams = {
            name: StreamWriter(self._fs, self._folder / name, spec, log.encodings.get(name, "lossless"))
            for name, spec in log.streams.items()
        }
        sync_tree(self._fs, self._folder)
        self._fs.sync(self._folder.parent)
        log.append({"kind": BEGIN, "episode": index, "metadata": dict(metadata)})

    @property
    def written_bytes(self) -> int:
        """Return how much was written to disk."""
        return sum(stream.written_bytes for stream in self._streams.values())

    @property
    def committed(self) -> dict[str, int]:
        """Return how many samples of each stream count."""
        return {name: extent["length"] for name, extent in self._committed.items()}

    def append(
        self, stream: str, stamps_ns: NDArray[np.int64], received_ns: NDArray[np.int64], values: NDArray[Any]
    ) -> None:
        """Add N samples to a stream: stamps (N,) rising, receive times (N,), values (N, *shape) of the spec's dtype."""
        if stream not in self._streams:
            raise DatasetError(unknown("stream", stream, self._streams))
        self._require_sound()
        try:
            self._streams[stream].append(stamps_ns, received_ns, values)
        except OSError:
            self._has_failed = True
            raise

    def commit(self) -> dict[str, int]:
        """Make every sample so far count; return by stream how many count, of those that grew.

        Raises OSError when the disk refuses: then nothing more than before counts.
        """
        self._require_sound()
        fresh = {name: stream for name, stream in self._streams.items() if stream.has_new_rows}
        if not fresh:
            return {}
        self._bring_to_disk(fresh)
        extents = {name: stream.extent() for name, stream in fresh.items()}
        self._log.append({"kind": ROWS, "episode": self.index, "streams": extents})
        self._committed |= extents
        return {name: extent["length"] for name, extent in extents.items()}

    def end(self, metadata: Mapping[str, Any]) -> None:
        """Commit the rest and close the episode. Raises OSError when the disk refuses; the episode is then failed."""
        check_metadata(metadata)
        try:
            self._finish()
        except OSError as error:
            # Where the log refuses too, the next writer closes the episode.
            with suppress(OSError, DatasetError):
                self.fail(f"could not be written: {error}")
            raise
        self._close(metadata)

    def fail(self, reason: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Close the episode as incomplete, with what counts already; without anything that counts, discard it.

        Raises OSError when the disk refuses: the next writer of the dataset then closes it.
        """
        if self._committed:
            self._tidy()
            self._close({**(metadata or {}), "outcome": INCOMPLETE, "success": None, "termination": reason})
        else:
            self.discard()

    def discard(self) -> None:
        """Remove the episode, what was committed of it too."""
        self._require_open()
        self._is_open = False
        self._log.forget()
        self._log.append({"kind": DISCARD, "episode": self.index})
        self._fs.remove_tree(self._folder)

    def _finish(self) -> None:
        self.commit()
        self._guarded(lambda: [stream.finish() for stream in self._streams.values()])
        self._sync_folders(self._streams)

    def _tidy(self) -> None:
        """Leave on disk what counts and no more, for readers that do not know the log."""
        self._require_open()
        record = EpisodeRecord(self.index, streams=self._committed)
        try:
            close_arrays(self._fs, self._folder, record, self._log.streams, self._log.encodings)
        except OSError:
            self._is_open = False
            self._log.forget()
            raise

    def _bring_to_disk(self, streams: Mapping[str, StreamWriter]) -> None:
        self._guarded(lambda: [stream.flush() for stream in streams.values()])
        self._sync_folders(streams)

    def _sync_folders(self, streams: Mapping[str, StreamWriter]) -> None:
        self._guarded(lambda: [self._fs.sync(folder) for stream in streams.values() for folder in stream.folders])

    def _guarded(self, write: Any) -> None:
        # After a failed fsync the kernel has dropped the page, and a second try would pass: there is none.
        try:
            write()
        except OSError:
            self._has_failed = True
            raise

    def _close(self, metadata: Mapping[str, Any]) -> None:
        self._require_open()
        self._is_open = False
        self._log.forget()
        entry = {"kind": END, "episode": self.index, "streams": self._committed, "metadata": dict(metadata)}
        self._log.append(entry)

    def _create_folders(self) -> None:
        """Create the group of the episode and those that stream names pass through."""
        passed = {self._folder}
        for name in self._log.streams:
            parts = name.split("/")
            passed |= {self._folder.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)}
        for folder in sorted(passed):
            self._fs.make_folder(folder)
            self._fs.write(folder / ZARR_JSON, group_document())

    def _require_open(self) -> None:
        if not self._is_open:
            raise DatasetError(f"episode {self.index} of {self._log.path} has already been ended or discarded")

    def _require_sound(self) -> None:
        self._require_open()
        if self._has_failed:
            raise DatasetError(f"episode {self.index} of {self._log.path}: writing failed; end it with fail or discard")


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise DatasetError unless `metadata` can be stored as JSON, as the commit log does."""
    try:
        json.dumps(dict(metadata), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"episode metadata cannot be stored as JSON: {error}") from error
