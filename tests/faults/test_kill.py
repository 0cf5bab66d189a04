"""Recording processes that are killed, interrupted, told to stop, or one too many: rows 42, 48, 49 and 53."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from known_content import ENCODINGS, robot
from ledger import Ledger, examine, examine_recovered
from soak import soak

from armature.errors import DatasetError
from data_collection.recorder import Recorder
from data_collection.store import Dataset, create_dataset

HERE = Path(__file__).parent
BENCHMARK = HERE.parents[1] / "benchmarks/recorder_kill.py"
STOP_S = 3.0
PATIENCE_S = 60.0
SOAK_S = 10.0


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return create_dataset(tmp_path / "set", robot(48, 64), "kill", encodings=ENCODINGS)


@pytest.mark.slow
@pytest.mark.fault(row=42)
def test_row_42_thirty_kills_lose_nothing(tmp_path: Path) -> None:
    result = tmp_path / "kill.json"
    command = [sys.executable, str(BENCHMARK), "--quick", "--json", str(result)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert result.exists(), done.stderr
    read = json.loads(result.read_text())
    assert {c["name"]: c["value"] for c in read["criteria"] if not c["ok"]} == {}, read["details"]["findings"]
    assert done.returncode == 0


class Recording:
    """A recording process and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.committed: dict[str, int] = {}
        self.added: dict[str, int] = {}

    def read(self, until_committed: int | None = None) -> None:
        """Read what it says, until so many samples of some stream are acknowledged, or until it has gone."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            kind, content = json.loads(line)
            if kind == "committed":
                self.committed |= content
            elif kind == "added":
                self.added = content
            if until_committed is not None and max(self.committed.values(), default=0) >= until_committed:
                return


@contextmanager
def recording(dataset: Dataset, *arguments: str) -> Iterator[Recording]:
    command = [sys.executable, str(HERE / "recording_process.py"), str(dataset.path), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # One that does not end when it should must not keep the test waiting for what it says.
    patience = threading.Timer(PATIENCE_S, process.kill)
    patience.start()
    try:
        yield Recording(process)
    finally:
        patience.cancel()
        process.kill()
        process.communicate()


def known(told: Recording, *, all_added: bool) -> Ledger:
    """Return what must be there: what was acknowledged, or all that had been handed in when the process was stopped."""
    ledger = Ledger()
    entry = ledger.begun(0)
    entry.committed = {name: count for name, count in told.added.items() if count} if all_added else told.committed
    # The step in which it was stopped is said to nobody.
    entry.added = {name: count + 2 for name, count in told.added.items() if count}
    return ledger


@pytest.mark.fault(row=49)
@pytest.mark.parametrize(
    ("stop", "status"),
    [("exception", 1), (signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)],
    ids=["exception", "ctrl-c", "sigterm"],
)
def test_row_49_a_process_that_is_stopped_commits_what_came(dataset: Dataset, stop: str | int, status: int) -> None:
    with recording(dataset, *(["--raise-after", "0.3"] if stop == "exception" else [])) as told:
        told.read(until_committed=20)
        if isinstance(stop, int):
            told.process.send_signal(stop)
        begin_s = time.monotonic()
        told.read()
        assert told.process.wait(STOP_S) == status
        assert stop == "exception" or time.monotonic() - begin_s < STOP_S
    ledger = known(told, all_added=True)
    assert examine(dataset.path, ledger).messages == []
    assert examine_recovered(dataset.path, ledger).messages == []
    (episode,) = dataset.episodes
    assert episode.metadata["termination"] == "recorder stopped"
    counts = episode.metadata["counts"]["camera/scene"]
    assert counts["committed"] == episode.length("camera/scene")
    # A signal may strike inside `add`, after the sample was counted and before it was taken, or told as taken.
    in_flight = counts["received"] - counts["committed"]
    assert in_flight in ((0,) if stop == "exception" else (0, 1))


@pytest.mark.fault(row=49)
@pytest.mark.parametrize("pause_s", [0.0, 0.02, 0.1])
def test_row_49_a_second_ctrl_c_keeps_what_was_acknowledged(dataset: Dataset, pause_s: float) -> None:
    with recording(dataset, "--slow-sync", "0.01") as told:
        told.read(until_committed=10)
        told.process.send_signal(signal.SIGINT)
        time.sleep(pause_s)
        told.process.send_signal(signal.SIGINT)
        told.read()
        assert told.process.wait(STOP_S) != 0
    ledger = known(told, all_added=False)
    assert examine(dataset.path, ledger).messages == []
    dataset.writer().close()
    assert examine_recovered(dataset.path, ledger).messages == []


@pytest.mark.fault(row=48)
def test_row_48_a_second_recorder_is_refused_until_the_first_is_gone(dataset: Dataset) -> None:
    with recording(dataset) as first:
        first.read(until_committed=1)
        owner = f"is being written by process {first.process.pid} on .*; a dataset has one writer at a time"
        with pytest.raises(DatasetError, match=owner):
            Recorder(dataset)
        with recording(dataset) as second:
            _, said = second.process.communicate(timeout=60)
            assert second.process.returncode == 1
            assert f"is being written by process {first.process.pid}" in said
        assert first.process.poll() is None
        first.process.kill()
        first.process.wait()
        with Recorder(dataset) as recorder:
            assert recorder.start({}) == 1


@pytest.mark.fault(row=48)
def test_row_48_a_second_recorder_in_the_same_process_is_refused(dataset: Dataset) -> None:
    with Recorder(dataset), pytest.raises(DatasetError, match=f"written by process {os.getpid()}"):
        Recorder(dataset)
    Recorder(dataset).close()


@pytest.mark.fault(row=53)
def test_row_53_memory_and_open_files_do_not_grow(tmp_path: Path) -> None:
    growth = soak(tmp_path, SOAK_S, 48, 64)
    assert growth.episodes >= 2
    assert growth.miscounted == 0
    assert growth.files_end <= growth.files_begin
    assert growth.rss_end_bytes - growth.rss_begin_bytes < 30_000_000
