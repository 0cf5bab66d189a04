"""Kills recording processes, one after another, and looks at what each of them leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from known_content import ENCODINGS, robot
from ledger import OPEN, Findings, Ledger, examine, examine_recovered
from recording_process import STAGES, STEPS, Board, record_until_killed

from data_collection.store import Dataset, create_dataset

HEIGHT, WIDTH = 96, 128
KILLS_PER_DATASET = 20
PATIENCE_S, AIM_S = 30.0, 2.0
AIMS = (None, *STAGES, *STEPS[1:])
"""What a process is killed in, by turns: at a random time, in a stage, or in a kind of step on the disk."""


@dataclass
class Tally:
    """What came of all kills."""

    kills: int = 0
    acknowledged: int = 0
    episodes: int = 0
    wrong_numbers: int = 0
    findings: Findings = field(default_factory=Findings)
    killed_in: Counter[str] = field(default_factory=Counter)


def kill_many(folder: Path, kills: int, seed: int = 1) -> Tally:
    """Kill so many processes that record into datasets in `folder`; a new dataset now and then."""
    tally, draw = Tally(), random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    # Whatever takes long to import, in the benchmark that calls us too, is imported once for all processes.
    # The tracker of the dead processes' locks, which the codecs make, tidies up after them and would say so.
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context.set_forkserver_preload(["kills", "soak", "harness"])
    board = Board(folder / "board", create=True)
    while tally.kills < kills:
        path = folder / f"set{tally.kills}"
        dataset = create_dataset(path, robot(HEIGHT, WIDTH), "kill", encodings=ENCODINGS)
        victims = _Victims(dataset, folder / "board", board, context, tally)
        for _ in range(min(KILLS_PER_DATASET, kills - tally.kills)):
            victims.kill_one(AIMS[tally.kills % len(AIMS)], draw)
        victims.finish()
    return tally


class _Victims:
    """Processes that record into one dataset."""

    def __init__(self, dataset: Dataset, board_file: Path, board: Board, context: Any, tally: Tally) -> None:
        self._dataset = dataset
        self._board_file, self._board = board_file, board
        self._context = context
        self._tally = tally
        self._ledger = Ledger()
        self._unsaid = 0
        self._since = 0

    def kill_one(self, aim: str | None, draw: random.Random) -> None:
        ends = self._context.Pipe(duplex=False)
        arguments = (str(self._dataset.path), str(self._board_file), draw.randrange(2**31), ends[1])
        self._board.stage, self._board.step = "taking up", "between"
        victim = self._context.Process(target=record_until_killed, args=arguments, daemon=True)
        victim.start()
        ends[1].close()
        _await_moment(self._board, aim, draw, ends[0])
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        assert victim.exitcode == -signal.SIGKILL, f"the recording process ended by itself: {victim.exitcode}"
        self._tally.kills += 1
        self._tally.killed_in[f"{self._board.stage}: {self._board.step}"] += 1
        self._read_acknowledgements(ends[0])
        self._examine(recover=draw.random() < 0.5)

    def finish(self) -> None:
        """Take up what the last one left, and read everything once more, all episodes of all processes."""
        self._dataset.writer().close()
        findings = examine_recovered(self._dataset.path, self._ledger)
        self._tally.findings.merge(findings)
        entries = self._ledger.entries.values()
        self._tally.acknowledged += sum(sum(entry.committed.values()) for entry in entries)
        self._tally.episodes += len(self._dataset.episodes)

    def _read_acknowledgements(self, end: Connection) -> None:
        """Read what the process said before it died: all of it is in the pipe."""
        previous = self._ledger.last_begun
        try:
            while True:
                self._note(*end.recv())
        except EOFError:
            end.close()
        self._note_what_was_under_way(previous)

    def _note(self, kind: str, index: int, streams: dict[str, int]) -> None:
        ledger = self._ledger
        if kind == "begun":
            # One more is missing where a process was killed after its `begin` had come to count.
            self._tally.wrong_numbers += not ledger.last_begun < index <= ledger.last_begun + 1 + self._unsaid
            self._unsaid = 0
            ledger.begun(index)
        elif kind == "committed":
            ledger.entries[index].committed |= streams
            ledger.entries[index].added |= streams
        elif kind == "ended":
            entry = ledger.entries[index]
            entry.added = {name: count for name, count in streams.items() if count}
            ledger.ended(index, "success")
            entry.may_be_gone = not entry.added
        elif kind == "discarded":
            ledger.gone(index)

    def _note_what_was_under_way(self, previous: int) -> None:
        stage = self._board.stage
        self._since = max(0, previous)
        self._unsaid += stage in ("starting", "adding")
        index = self._ledger.last_begun
        if index == previous or self._ledger.entries[index].state != OPEN:
            return
        entry = self._ledger.entries[index]
        if stage in ("adding", "ending", "discarding"):
            counts = zip(self._dataset.streams, self._board.added.tolist(), strict=False)
            entry.added = {name: count for name, count in counts if count}
        entry.may_be_gone = stage == "discarding"
        if stage == "ending":
            entry.outcomes.add("success")

    def _examine(self, *, recover: bool) -> None:
        path, ledger, tally = self._dataset.path, self._ledger, self._tally
        tally.findings.merge(examine(path, ledger, since=self._since))
        if recover:
            self._dataset.writer().close()
            tally.findings.merge(examine_recovered(path, ledger, since=self._since))
            log = (path / "commits.jsonl").read_bytes()
            self._dataset.writer().close()
            tally.findings.add("wrong", (path / "commits.jsonl").read_bytes() != log, "taken up twice is not once")


def _await_moment(board: Board, aim: str | None, draw: random.Random, end: Connection) -> None:
    """Wait until the process does what it is to be killed in; where that cannot be caught in time, kill it anyhow."""
    if aim == "taking up":
        time.sleep(draw.uniform(0.0, 0.08))
        return
    if not end.poll(PATIENCE_S):
        raise RuntimeError(f"the recording process said nothing within {PATIENCE_S:g} s")
    time.sleep(draw.uniform(0.0, 0.4))
    deadline_s = time.monotonic() + AIM_S
    while aim is not None and aim not in (board.stage, board.step) and time.monotonic() < deadline_s:
        pass
    # Not at the beginning of it only.
    time.sleep(draw.choice((0.0, 0.0, draw.uniform(0, 2e-4), draw.uniform(0, 5e-3))))
