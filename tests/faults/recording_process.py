"""A process that records known content until it is killed or told to stop; what it says was acknowledged.

    python recording_process.py DATASET [--raise-after SECONDS]

prints one JSON line for every acknowledgement, after it and before anything else is done.
"""

from __future__ import annotations

import argparse
import json
import mmap
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from crash_fs import FastFs
from known_content import sample, stamps

from armature.filesystem import Fs
from data_collection.recorder import Recorder, RecorderConfig
from data_collection.store import open_dataset

CONFIG = RecorderConfig(commit_period_s=0.03, disk_free_min_bytes=0, disk_free_min_s=0)
SILENT = "reward"
"""A stream that nobody publishes."""
STEP_S = 0.002

STAGES = ("taking up", "idle", "starting", "adding", "ending", "discarding")
STEPS = ("between", "block", "sync", "rename", "log line", "folder", "removing")
_STREAMS_MAX = 16

Say = Callable[..., None]


class Board:
    """What a process was doing when it was killed: shared memory that outlives it."""

    SIZE = 8 * (3 + _STREAMS_MAX)

    def __init__(self, file: Path, *, create: bool = False) -> None:
        if create:
            file.write_bytes(bytes(self.SIZE))
        with file.open("r+b") as opened:
            self._cells = np.frombuffer(mmap.mmap(opened.fileno(), self.SIZE), np.int64)

    @property
    def stage(self) -> str:
        return STAGES[self._cells[0]]

    @stage.setter
    def stage(self, stage: str) -> None:
        self._cells[0] = STAGES.index(stage)

    @property
    def step(self) -> str:
        return STEPS[self._cells[1]]

    @step.setter
    def step(self, step: str) -> None:
        self._cells[1] = STEPS.index(step)

    @property
    def added(self) -> Any:
        """Return how many rows of each stream were handed in, of the present episode."""
        return self._cells[2 : 2 + _STREAMS_MAX]


class WatchedFs(Fs):
    """Says on the board what it is doing."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def make_folder(self, path: Path) -> None:
        self._during("folder", super().make_folder, path)

    def write(self, path: Path, data: bytes) -> None:
        self._during("block", super().write, path, data)

    def append(self, path: Path, data: bytes) -> None:
        self._during("log line", super().append, path, data)

    def rename(self, old: Path, new: Path) -> None:
        self._during("rename", super().rename, old, new)

    def remove(self, path: Path) -> None:
        self._during("removing", super().remove, path)

    def remove_tree(self, path: Path) -> None:
        self._during("removing", super().remove_tree, path)

    def sync(self, path: Path) -> None:
        self._during("sync", super().sync, path)

    def _during(self, step: str, act: Callable[..., None], *arguments: Any) -> None:
        self._board.step = step
        act(*arguments)
        self._board.step = "between"


def add_step(recorder: Recorder, streams: Mapping[str, Any], episode: int, step: int, added: Any) -> None:
    """Hand in one frame of each camera and two samples of everything else; `added` is counted up before."""
    for number, (name, array) in enumerate(streams.items()):
        times = 0 if name == SILENT else 1 if array.is_image else 2
        for row in range(times * step, times * (step + 1)):
            added[number] = row + 1
            stamp_ns, received_ns = stamps([row])
            if not recorder.add(name, int(stamp_ns[0]), int(received_ns[0]), sample(array, episode, row)):
                raise RuntimeError(f"{name}: sample {row} was refused: {recorder.counts()[name]} {recorder.fault}")


def record_until_killed(dataset: str, board_file: str, seed: int, connection: Connection) -> None:
    """Record short episodes, discard some, rest between them; for a process of its own."""
    board, draw = Board(Path(board_file)), random.Random(seed)
    board.stage, board.step = "taking up", "between"
    opened = open_dataset(dataset)
    current = [-1]

    def acknowledge(streams: Mapping[str, int]) -> None:
        connection.send(("committed", current[0], dict(streams)))

    with Recorder(opened, CONFIG, acknowledge, WatchedFs(board)) as recorder:
        connection.send(("ready", -1, {}))
        while True:
            board.stage = "idle"
            time.sleep(draw.uniform(0, 0.02))
            board.added[:] = 0
            board.stage = "starting"
            current[0] = recorder.start({"seed": seed})
            connection.send(("begun", current[0], {}))
            board.stage = "adding"
            for step in range(draw.choice((0, 3, 20, 40, 80))):
                add_step(recorder, opened.streams, current[0], step, board.added)
                time.sleep(STEP_S)
            _close(recorder, board, current[0], connection, discard=draw.random() < 0.2)


def _close(recorder: Recorder, board: Board, episode: int, connection: Connection, *, discard: bool) -> None:
    if discard:
        board.stage = "discarding"
        recorder.discard()
        connection.send(("discarded", episode, {}))
    else:
        board.stage = "ending"
        counts = recorder.end(success=True).counts
        connection.send(("ended", episode, {name: count.committed for name, count in counts.items()}))


def main() -> None:
    """Record one endless episode; SIGTERM unwinds like Ctrl-C."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--raise-after", type=float, default=float("inf"))
    parser.add_argument("--slow-sync", type=float, default=0.0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    dataset = open_dataset(arguments.dataset)
    added, lock = np.zeros(_STREAMS_MAX, np.int64), threading.Lock()

    def say(kind: str, content: Any) -> None:
        with lock:
            print(json.dumps([kind, content]), flush=True)

    fs = SlowFs(arguments.slow_sync) if arguments.slow_sync else Fs()
    with Recorder(dataset, CONFIG, lambda streams: say("committed", dict(streams)), fs) as recorder:
        say("begun", recorder.start({}))
        begin_s, step = time.monotonic(), 0
        while time.monotonic() - begin_s < arguments.raise_after:
            add_step(recorder, dataset.streams, 0, step, added)
            step += 1
            say("added", dict(zip(dataset.streams, added.tolist(), strict=False)))
            time.sleep(STEP_S)
        raise RuntimeError("as asked for")


class SlowFs(FastFs):
    """A disk that takes its time."""

    def __init__(self, sync_s: float) -> None:
        self._sync_s = sync_s

    def sync(self, path: Path) -> None:
        time.sleep(self._sync_s)


if __name__ == "__main__":
    main()
