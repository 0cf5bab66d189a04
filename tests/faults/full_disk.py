"""Records until the disk is full and says what is left; as a process of its own on a file system of its own:

python full_disk.py DATASET 1|0        1: the free space is watched, 0: it is not
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from known_content import ENCODINGS, JPEG, robot, stored
from recording_process import add_step

from armature.errors import DatasetError
from armature.filesystem import PARTIAL, Fs
from data_collection.recorder import Recorder, RecorderConfig
from data_collection.store import Dataset, create_dataset, open_dataset

LOW = RecorderConfig(commit_period_s=0.02, disk_free_min_bytes=800_000, disk_free_min_s=0)
NOT_WATCHED = RecorderConfig(commit_period_s=0.02, disk_free_min_bytes=0, disk_free_min_s=0)
FULL = "No space left on device"


class QuotaFs(Fs):
    """A disk on which no more than `limit_bytes` lie below `root`; a write that does not fit is cut short."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._root, self.limit_bytes = root, limit_bytes

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(b"")
        self._put(path, data)

    def append(self, path: Path, data: bytes) -> None:
        self._put(path, data)

    def sync(self, path: Path) -> None:
        pass

    def free_bytes(self, path: Path) -> int:
        return max(0, self.limit_bytes - sum(file.stat().st_size for file in self._root.rglob("*") if file.is_file()))

    def _put(self, path: Path, data: bytes) -> None:
        room = self.free_bytes(path)
        super().append(path, data[:room])
        if room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def record_until_it_ends(dataset: Dataset, config: RecorderConfig, fs: Fs) -> dict[str, Any]:
    """Record until samples are refused, end the episode, make room, record another."""
    acknowledged: dict[str, int] = {}
    with Recorder(dataset, config, acknowledged.update, fs) as recorder:
        recorder.start({})
        step = 0
        while recorder.is_recording:
            try:
                add_step(recorder, dataset.streams, 0, step, {})
            except RuntimeError:
                break
            step += 1
            time.sleep(0.001)
        report = {"is_recording": recorder.is_recording, "error": error_of_end(recorder), "fault": recorder.fault}
        counts = recorder.counts()
    committed = {name: count.committed for name, count in counts.items() if count.committed}
    dataset.writer(fs).close()
    return report | {
        "acknowledged": acknowledged,
        "committed": committed,
        "received": {name: count.received for name, count in counts.items()},
        "committed_and_dropped": {n: c.committed + sum(c.dropped.values()) for n, c in counts.items()},
        **_left(dataset),
        "again": _record_again(dataset, fs),
    }


def error_of_end(recorder: Recorder) -> str:
    """End the episode; return what it says when it cannot."""
    try:
        recorder.end(success=True)
    except DatasetError as error:
        return str(error)
    return ""


def _left(dataset: Dataset) -> dict[str, Any]:
    """Read back what is on the disk."""
    episode = open_dataset(dataset.path).episodes[0]
    wrong = 0
    for name in episode.streams:
        data, array = episode.read(name)[2], dataset.streams[name]
        wrong += sum(not np.array_equal(v, stored(array, 0, k, name == JPEG), equal_nan=v.dtype.kind == "f")
                     for k, v in enumerate(data))  # fmt: skip
    return {
        "readable": {name: episode.length(name) for name in episode.streams if episode.length(name)},
        "wrong": int(wrong),
        "outcome": episode.outcome,
        "partials": [str(file) for file in dataset.path.rglob(f"*{PARTIAL}")],
    }


def _record_again(dataset: Dataset, fs: Fs) -> bool:
    """Make room by dropping the episode, as an operator would, and record another."""
    with dataset.writer(fs) as writer:
        writer.drop(0)
    with Recorder(dataset, NOT_WATCHED, fs=fs) as recorder:
        index = recorder.start({})
        add_step(recorder, dataset.streams, index, 0, {})
        recorder.end(success=True)
    (episode,) = dataset.episodes
    return episode.is_complete and episode.index == index == 1 and episode.steps == 2


def main() -> None:
    """Record to a new dataset and print the report."""
    dataset = create_dataset(sys.argv[1], robot(16, 16), "lift", encodings=ENCODINGS)
    config = LOW if sys.argv[2] == "1" else NOT_WATCHED
    print(json.dumps(record_until_it_ends(dataset, config, Fs())))


if __name__ == "__main__":
    main()
