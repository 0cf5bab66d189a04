"""A real process is killed while it records: what it acknowledged is there, byte for byte, and nothing else is."""

from __future__ import annotations

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from armature.spec import RobotSpec
from data_collection.store import Dataset, create_dataset

SCRIPT = Path(__file__).with_name("record_until_killed.py")
REPOSITORY = Path(__file__).parents[2]
KILLS = 8


def test_killed_recorders_lose_nothing_and_leave_no_phantom(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = create_dataset(tmp_path / "set", robot, "lift")
    draw = random.Random(1)
    committed = 0
    for _ in range(KILLS):
        acknowledged = committed + record_and_kill(dataset.path, moment=draw.uniform(0.0, 1.5))
        committed = len(dataset.episodes)
        # The one episode whose acknowledgement was still on its way may be there in addition.
        assert acknowledged <= committed <= acknowledged + 1
    require_intact(dataset)
    dataset.writer().close()
    assert len(list((dataset.path / "episodes").glob("0*"))) == committed


def record_and_kill(path: Path, moment: float) -> int:
    """Run the recorder for one episode, kill it `moment` of such an episode later; return how many it acknowledged."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(SCRIPT), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        begin_s = time.monotonic()
        assert process.stdout.readline().startswith("committed ")
        # In episodes, not in seconds, so that a slow machine is killed at the same places.
        time.sleep(moment * (time.monotonic() - begin_s))
        process.send_signal(signal.SIGKILL)
        return 1 + process.stdout.read().count("\n")


def require_intact(dataset: Dataset) -> None:
    content = runpy.run_path(str(SCRIPT))["content"]
    for episode in dataset.episodes:
        for name, expected in content(dataset.spec, episode.index).items():
            stamps_ns, received_ns, data = episode.read(name)
            np.testing.assert_array_equal(data, expected)
            np.testing.assert_array_equal(stamps_ns, np.arange(len(expected)) * 50_000_000)
            np.testing.assert_array_equal(received_ns, np.arange(len(expected)))
