"""The log of steps: what was appended is there after any crash, and nothing that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armature.errors import ConfigError
from policies.step_log import FIRST, LogHead, StepLog

HEAD = LogHead("reach", "abc", "bc", 3, 2)
SIZE = HEAD.record.itemsize


def fields(number: int) -> dict:
    seen = np.full(3, number, np.float32)
    return {
        "stamp_ns": number * 100,
        "episode": number // 10,
        "flags": FIRST if number % 10 == 0 else 0,
        "observation": seen,
        "base": seen[:2],
        "action": seen[:2] + 1,
        "reward": 0.5,
        "next_observation": seen + 1,
        "next_base": seen[:2] + 1,
    }


def filled(path: Path, count: int) -> Path:
    log = StepLog(path, HEAD)
    for number in range(count):
        assert log.append(**fields(number))
    log.close()
    return path


def test_what_was_appended_is_read_back_and_appending_goes_on_in_the_same_log(tmp_path):
    log = StepLog(filled(tmp_path / "steps.log", 3), HEAD)
    log.append(**fields(3))
    records = log.read(1, 10)
    assert records["stamp_ns"].tolist() == [100, 200, 300]
    assert records["action"].tolist() == [[2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]
    assert (len(log), log.torn_bytes, log.last()["stamp_ns"]) == (4, 0, 300)
    assert len(log.read(4, 10)) == 0


def test_every_log_has_an_id_of_its_own_that_stays(tmp_path):
    ids = []
    for name in ("a", "a", "b"):
        log = StepLog(filled(tmp_path / name, 1), HEAD)
        ids.append(log.head.log_id)
        log.close()
    assert ids[0] == ids[1] != ids[2]


def test_a_log_whose_rewards_somebody_else_tells_is_refused_and_one_of_before_they_were_named_is_a_topics(tmp_path):
    path = filled(tmp_path / "steps.log", 1)
    with pytest.raises(ConfigError, match=r"steps\.log: rewards is 'topic', expected 'label'"):
        StepLog(path, replace(HEAD, rewards="label"))
    line, _, body = path.read_bytes().partition(b"\n")
    head = json.loads(line)
    del head["rewards"]
    path.write_bytes(json.dumps(head).encode() + b"\n" + body)
    assert len(StepLog(path, HEAD)) == 1


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 5 * SIZE + 400))
def test_wherever_a_crash_has_cut_the_file_all_whole_records_count_and_it_goes_on(tmp_path_factory, cut):
    path = filled(tmp_path_factory.mktemp("log") / "steps.log", 5)
    size = max(0, path.stat().st_size - cut)
    begin = path.stat().st_size - 5 * SIZE
    os.truncate(path, size)
    log = StepLog(path, HEAD)
    whole = max(0, size - begin) // SIZE
    assert len(log) == whole
    log.append(**fields(whole))
    assert log.read(0, 9)["stamp_ns"].tolist() == [100 * number for number in range(whole + 1)]
    log.close()


def test_a_record_whose_bytes_changed_ends_what_counts(tmp_path):
    path = filled(tmp_path / "steps.log", 4)
    content = bytearray(path.read_bytes())
    content[-2 * SIZE + 5] ^= 1
    path.write_bytes(content)
    log = StepLog(path, HEAD)
    assert (len(log), log.torn_bytes) == (2, 2 * SIZE)
    assert log.damaged is not None
    assert log.damaged.read_bytes() == content[-2 * SIZE :]


@pytest.mark.parametrize("count", [0, 3, 4, 7, 8])
def test_a_log_of_any_length_is_opened_in_pieces(tmp_path, monkeypatch, count):
    monkeypatch.setattr("policies.step_log.PIECE_RECORDS", 4)
    log = StepLog(tmp_path / "steps.log", HEAD)
    for number in range(count):
        assert log.append(**fields(number))
    log.close()
    with (tmp_path / "steps.log").open("ab") as file:
        file.write(b"torn")
    log = StepLog(tmp_path / "steps.log", HEAD)
    assert (len(log), log.torn_bytes, log.damaged) == (count, 4, None)
    log.close()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "lift"}, "task is 'reach', expected 'lift'"),
        ({"robot": "xyz"}, "robot is 'abc', expected 'xyz'"),
        ({"base_id": "act"}, "base_id is 'bc', expected 'act'"),
        ({"observation_dim": 4}, "observation_dim is 3, expected 4"),
    ],
)
def test_a_log_of_something_else_is_refused_naming_both(tmp_path, changes, named):
    path = filled(tmp_path / "steps.log", 1)
    with pytest.raises(ConfigError, match=named):
        StepLog(path, replace(HEAD, **changes))
    assert len(StepLog(path, HEAD)) == 1


def test_a_file_that_is_no_log_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "steps.log"
    path.write_text("dear diary\n")
    with pytest.raises(ConfigError, match="is no log of steps"):
        StepLog(path, HEAD)
    assert path.read_text() == "dear diary\n"


def test_a_log_syncs_by_itself_what_is_new(tmp_path, monkeypatch):
    monkeypatch.setattr("policies.step_log.SYNC_PERIOD_S", 0.01)
    log = StepLog(tmp_path / "steps.log", HEAD)
    log.begin_syncing()
    assert log.append(**fields(0))
    deadline_s = time.monotonic() + 20.0
    while not log.synced:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert (len(log), log.synced, log.fault) == (1, 1, "")
    log.close()


def test_two_writers_of_one_log_are_refused(tmp_path):
    log = StepLog(tmp_path / "steps.log", HEAD)
    with pytest.raises(ConfigError, match="another process writes to it"):
        StepLog(tmp_path / "steps.log", HEAD)
    log.close()
    StepLog(tmp_path / "steps.log", HEAD).close()


WRITER = """
import sys
sys.path.insert(0, {here!r})
from test_step_log import HEAD, StepLog, fields
log = StepLog(__import__("pathlib").Path(sys.argv[1]), HEAD)
number = len(log)
while True:
    assert log.append(**fields(number))
    number += 1
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_said_was_logged(tmp_path):
    path = tmp_path / "steps.log"
    code = WRITER.format(here=str(Path(__file__).parent))
    before = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            first = int(writer.stdout.readline())
            time.sleep(0.05)
            writer.send_signal(signal.SIGKILL)
            said = writer.stdout.read().split("\n")
        claimed = max([first, *(int(line) for line in said[:-1])])
        log = StepLog(path, HEAD)
        assert len(log) >= claimed > before
        before = len(log)
        stamps = log.read(0, before)["stamp_ns"]
        assert np.array_equal(stamps, np.arange(before) * 100)
        log.close()


FULL = """
import json, os, sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_step_log import HEAD, StepLog, fields
folder = Path(sys.argv[1])
log = StepLog(folder / "steps.log", HEAD)
number = 0
while log.append(**fields(number)):
    number += 1
told = dict(number=number, count=len(log), fault=log.fault, again=log.append(**fields(number)))
size = os.path.getsize(folder / "steps.log")
log.retry()
told["still_full"] = not log.append(**fields(number))
(folder / "ballast").unlink()
log.retry()
told["goes_on"] = log.append(**fields(number))
told["stamps"] = log.read(0, number + 1)["stamp_ns"].tolist() == [100 * n for n in range(number + 1)]
told["failed"] = log.has_failed
log.close()
print(json.dumps(told))
"""


def test_a_full_disk_is_said_nothing_is_claimed_and_with_room_it_goes_on(tmp_path):
    code = FULL.format(here=str(Path(__file__).parent))
    script = f'mount -t tmpfs -o size=256k small {tmp_path} && head -c 128k /dev/zero > {tmp_path}/ballast && exec "$@"'
    within = ["unshare", "-Urm", "sh", "-c", script, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a tmpfs in a name space of one's own (unshare -Urm)")
    command = [*within, sys.executable, "-c", code, str(tmp_path)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told["number"] == told["count"] > 100
    assert told["fault"].endswith("steps.log: No space left on device")
    assert told["again"] is False
    assert told["still_full"] is told["goes_on"] is told["stamps"] is told["failed"] is True
