"""How an episode can end: by its services, by signals, by the disk. What was acknowledged stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from std_msgs.msg import String

from armature_ros.announcements import EPISODE_LABEL
from armature_ros.qos import reliable_qos
from data_collection.store import Dataset, open_dataset

STREAMS = ("camera/scene", "joint/position", "action/executed", "action/requested")
EXIT_FAULT = 3

pytestmark = pytest.mark.ros


def committed(robot) -> dict[str, int]:
    """Return what the recorder has said to be committed."""
    return {s: int(robot.diagnostics[s][2]["committed"]) for s in STREAMS if s in robot.diagnostics}


def record_for(robot, duration_s: float) -> int:
    robot.flow()
    begin_ns = robot.start()["begin_ns"]
    robot.diagnostics.clear()
    robot.spin_for(duration_s)
    robot.wait(lambda: min(committed(robot).values(), default=0) > 0)
    return begin_ns


def check_prefix(robot, dataset: Dataset, index: int, begin_ns: int) -> dict[str, int]:
    """Check that an episode holds, bytes and all, the first of what was published; return how much."""
    episode = dataset.episode(index)
    for stream in STREAMS:
        stamps_ns = episode.read_stamps(stream)[0].tolist()
        assert stamps_ns == robot.published(stream, begin_ns)[: len(stamps_ns)]
    stamps_ns, _, images = episode.read("camera/scene")
    noise = np.random.default_rng(0).integers(0, 256, (8, *images.shape[1:]), dtype=np.uint8)
    assert np.array_equal(images, noise[stamps_ns % 8])
    return {stream: episode.length(stream) for stream in STREAMS}


def test_discarded_episode_leaves_nothing_and_the_next_one_is_recorded(robot, start_recorder: Callable) -> None:
    recorder = start_recorder()
    robot.advertise_all()
    record_for(robot, 0.5)
    assert robot.call("discard") == (True, "discarded")
    assert recorder.dataset.episodes == []
    assert robot.call("discard") == (False, "no episode is being recorded: start one first")
    begin_ns = record_for(robot, 0.5)
    robot.hold()
    robot.end(success=False)
    (episode,) = recorder.dataset.episodes
    assert episode.outcome == "failure"
    check_prefix(robot, recorder.dataset, episode.index, begin_ns)


def test_relabel_changes_the_outcome_of_the_last_episode(robot, start_recorder: Callable) -> None:
    recorder = start_recorder()
    robot.advertise_all()
    ok, message = robot.call("relabel", True)
    assert not ok
    assert "no episode has been ended" in message
    record_for(robot, 0.3)
    robot.end(success=False)
    ok, message = robot.call("relabel", True)
    assert (ok, json.loads(message)) == (True, {"episode": 0, "success": True})
    assert recorder.dataset.episodes[0].outcome == "success"


def test_a_discard_that_is_refused_takes_no_label_from_the_episode_before(robot, start_recorder: Callable) -> None:
    recorder = start_recorder()
    robot.advertise_all()
    record_for(robot, 0.3)
    robot.end()
    assert not robot.call("discard")[0]
    labels = robot.node.create_publisher(String, EPISODE_LABEL, reliable_qos())
    robot.wait(labels.get_subscription_count)
    labels.publish(String(data='{"episode": 0, "success": false}'))
    robot.wait(lambda: recorder.dataset.episodes[0].outcome == "failure")


def test_stop_takes_no_more_and_end_commits(robot, start_recorder: Callable) -> None:
    recorder = start_recorder()
    robot.advertise_all()
    record_for(robot, 0.5)
    stopped_ns = robot.now_ns()
    assert robot.call("stop")[0]
    robot.spin_for(0.5)
    robot.end()
    (episode,) = recorder.dataset.episodes
    assert stopped_ns - 2e8 < episode.read_stamps("joint/position")[0][-1] < stopped_ns + 2e8


@pytest.mark.fault(row=49)
@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT)])
def test_signal_commits_within_three_seconds(robot, start_recorder: Callable, signals: tuple[int, ...]) -> None:
    recorder = start_recorder()
    robot.advertise_all()
    begin_ns = record_for(robot, 1.5)
    acknowledged = committed(robot)
    begin_s = time.monotonic()
    for number in signals:
        recorder.process.send_signal(number)
        time.sleep(0.02)
    assert recorder.process.wait(10) == 0
    assert time.monotonic() - begin_s < 3.0
    robot.hold()
    (episode,) = recorder.dataset.episodes
    assert (episode.outcome, episode.metadata["termination"]) == ("incomplete", "recorder stopped")
    kept = check_prefix(robot, recorder.dataset, episode.index, begin_ns)
    assert all(kept[stream] >= acknowledged[stream] for stream in STREAMS)


@pytest.mark.fault(row=42)
def test_sigkill_keeps_what_was_acknowledged_and_the_next_one_goes_on(robot, start_recorder: Callable) -> None:
    recorder = start_recorder(commit_period_s=0.2)
    robot.advertise_all()
    robot.flow()
    robot.start()
    robot.end()
    begin_ns = record_for(robot, 1.5)
    acknowledged = committed(robot)
    recorder.process.kill()
    recorder.process.wait()
    second = start_recorder()
    assert second.folder == recorder.folder
    kept = check_prefix(robot, recorder.dataset, 1, begin_ns)
    assert all(kept[stream] >= acknowledged[stream] for stream in STREAMS)
    assert [e.outcome for e in recorder.dataset.episodes] == ["success", "incomplete"]
    # The transport still writes to the killed one's port for a while, so that calls by those who knew it can be lost.
    robot.hold()
    newcomer = type(robot)()
    try:
        newcomer.advertise_all()
        newcomer.flow()
        assert newcomer.start()["episode"] == 2
        newcomer.spin_for(0.3)
        assert newcomer.end()["episode"] == 2
    finally:
        newcomer.close()


@pytest.mark.fault(row=48)
def test_second_recorder_on_the_same_dataset_is_refused(start_recorder: Callable) -> None:
    start_recorder()
    with pytest.raises(AssertionError, match="writer"):
        start_recorder()


@pytest.mark.fault(row=44)
def test_full_disk_ends_the_episode_and_the_exit_code_tells(robot, start_recorder: Callable, tmp_path: Path) -> None:
    """On a file system of 16 MB in a name space of the recorder's own."""
    mount = tmp_path / "small"
    mount.mkdir()
    within = ("unshare", "-Urm", "sh", "-c", f'mount -t tmpfs -o size=16m small {mount} && exec "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a tmpfs in a name space of one's own (unshare -Urm)")
    recorder = start_recorder(mount / "dataset", within=within, disk_free_min_gb=0.012, commit_period_s=0.2)
    robot.advertise_all()
    begin_ns = record_for(robot, 0.1)
    robot.wait(lambda: robot.diagnostics["episode"][0] == "error")
    assert "free" in robot.diagnostics["episode"][1]
    assert robot.diagnostics["episode"][2]["recording"] == "False"
    acknowledged = committed(robot)

    ok, message = robot.call("end", True)
    assert not ok
    assert "episode 0 is incomplete" in message
    assert "free" in message
    assert robot.call("start")[0] is False
    # The graph has gone on, and the node serves it.
    heard = robot.diagnostics["joint/position"][2]["rate_hz"]
    assert float(heard) > 10
    robot.hold()

    # Only the recorder sees what is mounted there.
    seen = Path(f"/proc/{recorder.process.pid}/root") / mount.relative_to("/") / "dataset"
    dataset = open_dataset(seen)
    assert check_prefix(robot, dataset, 0, begin_ns) == acknowledged
    assert dataset.episodes[0].outcome == "incomplete"
    assert "free" in dataset.episodes[0].metadata["termination"]
    recorder.process.send_signal(signal.SIGTERM)
    assert recorder.process.wait(10) == EXIT_FAULT
    assert "Traceback" not in recorder.text()


@pytest.mark.fault(row=47)
def test_folder_that_is_gone_ends_the_episode_and_the_node_lives(robot, start_recorder: Callable) -> None:
    recorder = start_recorder(commit_period_s=0.2)
    robot.advertise_all()
    record_for(robot, 0.1)
    recorder.folder.rename(recorder.folder.with_name("moved"))
    robot.wait(lambda: robot.diagnostics["episode"][0] == "error")
    assert not robot.call("end", True)[0]
    assert recorder.process.poll() is None
    recorder.process.send_signal(signal.SIGTERM)
    assert recorder.process.wait(10) == EXIT_FAULT
    assert "Traceback" not in recorder.text()
    assert os.listdir(recorder.folder.with_name("moved"))
