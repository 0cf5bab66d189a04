from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.errors import ConfigError, DatasetError
from armature.filesystem import Fs
from armature.spec import RobotSpec
from data_collection.byte_queue import ByteQueue
from data_collection.recorder import Recorder, RecorderConfig
from data_collection.store import Dataset, create_dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED

CONFIG = RecorderConfig(queue_bytes=1 << 20, disk_free_min_bytes=0)


@pytest.fixture
def dataset(tmp_path: Path, robot: RobotSpec) -> Dataset:
    return create_dataset(tmp_path / "set", robot, "lift")


def wait_for(is_so: Callable[[], bool]) -> None:
    for _ in range(1000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def test_an_episode_is_recorded_with_its_counts(dataset: Dataset) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 24, 32, 3), dtype=np.uint8)
    with Recorder(dataset, CONFIG) as recorder:
        assert recorder.start({"seed": 3, "operator": "ada"}) == 0
        for k, image in enumerate(images):
            assert recorder.add("camera/scene", k * 50_000_000, k, image)
            assert recorder.add(ACTION_EXECUTED, k * 50_000_000, k, np.full(3, float(k)))
            assert recorder.add(ACTION_REQUESTED, k * 50_000_000, k, np.full(3, np.nan))
        summary = recorder.end(success=True)
    assert (summary.episode, summary.success, summary.steps, summary.duration_s) == (0, True, 30, 1.45)
    (episode,) = dataset.episodes
    np.testing.assert_array_equal(episode.read("camera/scene")[2], images)
    assert np.isnan(episode.read(ACTION_REQUESTED)[2]).all()
    metadata = episode.metadata
    assert (metadata["seed"], metadata["operator"], metadata["outcome"]) == (3, "ada", "success")
    counted = {"received": 30, "recorded": 30, "committed": 30, "repeated": 0, "late": 0, "dropped": {}}
    assert metadata["counts"]["camera/scene"] == counted
    assert metadata["counts"]["joint/position"]["received"] == 0


def test_every_refused_sample_is_counted_by_reason(dataset: Dataset) -> None:
    joints = np.zeros(2, np.float32)
    with Recorder(dataset, CONFIG) as recorder:
        recorder.start({})
        assert recorder.add("joint/position", 10, 0, joints)
        assert not recorder.add("joint/position", 10, 1, joints)
        assert not recorder.add("joint/position", 9, 2, joints)
        assert not recorder.add("joint/position", 11, 3, np.zeros(3, np.float32))
        assert not recorder.add("joint/position", 12, 4, np.array([0, np.nan], np.float32))
        assert not recorder.add(ACTION_EXECUTED, 12, 4, np.full(3, np.nan))
        assert recorder.add("joint/position", 12, 5, joints)
        summary = recorder.end(success=False)
    counts = summary.counts["joint/position"]
    assert (counts.received, counts.recorded, counts.dropped) == (
        6, 2, {"repeated": 1, "out_of_order": 1, "invalid": 2},
    )  # fmt: skip
    assert counts.repeated == 1
    assert summary.counts[ACTION_EXECUTED].dropped == {"invalid": 1}
    assert dataset.episodes[0].metadata["outcome"] == "failure"


@pytest.mark.fault(row=46)
def test_a_flood_is_dropped_not_waited_for_and_what_was_taken_is_kept(dataset: Dataset) -> None:
    image = np.zeros((24, 32, 3), np.uint8)
    taken: dict[int, list[int]] = {0: [], 1: []}
    with Recorder(dataset, RecorderConfig(queue_bytes=2 * image.nbytes, disk_free_min_bytes=0)) as recorder:
        recorder.start({})

        def flood(source: int) -> None:
            for k in range(1500):
                stamp_ns = 2 * k + source
                if recorder.add("camera/scene", stamp_ns, source, image + np.uint8(stamp_ns % 251)):
                    taken[source].append(stamp_ns)

        threads = [threading.Thread(target=flood, args=(source,)) for source in taken]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = recorder.end(success=True).counts["camera/scene"]
    stamps_ns, _, data = dataset.episodes[0].read("camera/scene")
    assert stamps_ns.tolist() == sorted(taken[0] + taken[1])
    np.testing.assert_array_equal(data[:, 0, 0, 0], stamps_ns % 251)
    assert counts.dropped["queue_full"] > 0
    assert counts.received == 3000 == counts.recorded + sum(counts.dropped.values())
    assert counts.recorded == len(stamps_ns)


def test_a_sample_may_be_changed_after_it_was_taken(dataset: Dataset) -> None:
    joints = np.zeros(2, np.float32)
    with Recorder(dataset, CONFIG) as recorder:
        recorder.start({})
        for k in range(50):
            joints[:] = k
            recorder.add("joint/position", k, k, joints)
        recorder.end(success=True)
    assert dataset.episodes[0].read("joint/position")[2][:, 0].tolist() == list(range(50))


def test_outside_an_episode_samples_are_refused_and_not_counted(dataset: Dataset) -> None:
    joints = np.zeros(2, np.float32)
    with Recorder(dataset, CONFIG) as recorder:
        assert not recorder.add("joint/position", 1, 1, joints)
        recorder.start({})
        recorder.add("joint/position", 2, 2, joints)
        recorder.discard()
        assert not recorder.add("joint/position", 3, 3, joints)
        assert recorder.counts()["joint/position"].received == 1
        assert not recorder.is_recording
    assert dataset.episodes == []


@pytest.mark.fault(row=45)
def test_a_disk_that_refuses_costs_what_was_not_committed_and_is_told(dataset: Dataset) -> None:
    with Recorder(dataset, replace(CONFIG, commit_period_s=0.02)) as recorder:
        recorder.start({})
        for k in range(100):
            assert recorder.add("joint/position", k, k, np.full(2, k, np.float32))
        wait_for(lambda: recorder.counts()["joint/position"].committed == 100)
        folder = dataset.path / "episodes/000000/joint/position/data"
        shutil.rmtree(folder)
        folder.write_text("in the way")
        for k in range(100, 200):
            recorder.add("joint/position", k, k, np.zeros(2, np.float32))
        wait_for(lambda: not recorder.is_recording)
        assert not recorder.add("joint/position", 200, 200, np.zeros(2, np.float32))
        with pytest.raises(DatasetError, match=r"episode 0 is incomplete: writing failed: .*Not a directory"):
            recorder.end(success=True)
        counts = recorder.counts()["joint/position"]
        assert (counts.received, counts.recorded, counts.committed) == (201, 100, 100)
        assert counts.dropped == {"write_failed": 101}
        assert recorder.start({}) == 1
        recorder.end(success=True)
    assert [(e.index, e.outcome) for e in dataset.episodes] == [(0, "incomplete"), (1, "success")]


def test_a_recorder_that_is_closed_keeps_what_came(dataset: Dataset) -> None:
    with Recorder(dataset, CONFIG) as recorder:
        recorder.start({"operator": "ada"})
        recorder.add("joint/position", 5, 5, np.ones(2, np.float32))
    (episode,) = dataset.episodes
    assert (episode.outcome, episode.is_complete, episode.metadata["success"]) == ("incomplete", False, None)
    assert episode.metadata["termination"] == "recorder stopped"
    assert episode.read("joint/position")[2].tolist() == [[1, 1]]


def test_an_episode_can_be_read_while_it_is_recorded(dataset: Dataset) -> None:
    commits: list[dict[str, int]] = []
    with Recorder(dataset, replace(CONFIG, commit_period_s=0.02), on_commit=commits.append) as recorder:
        recorder.start({})
        recorder.add("joint/position", 5, 5, np.ones(2, np.float32))
        wait_for(lambda: commits == [{"joint/position": 1}])
        (episode,) = open_dataset(dataset.path).episodes
        assert (episode.outcome, episode.length("joint/position")) == ("incomplete", 1)
        recorder.end(success=False)
    assert dataset.episodes[0].outcome == "failure"


def test_the_last_episode_can_be_relabelled(dataset: Dataset) -> None:
    with Recorder(dataset, CONFIG) as recorder:
        with pytest.raises(DatasetError, match="no episode has been ended"):
            recorder.relabel_last(success=True)
        for _ in range(2):
            recorder.start({})
            recorder.end(success=True)
        assert recorder.relabel_last(success=False) == 1
    assert [(e.outcome, e.metadata["success"]) for e in dataset.episodes] == [("success", True), ("failure", False)]


class FullFs(Fs):
    """A disk that may be full for files, or for what is added to one."""

    def __init__(self) -> None:
        self.refused: set[str] = set()

    def write(self, path: Path, data: bytes | memoryview) -> None:
        self._require_room("write", path)
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        self._require_room("append", path)
        super().append(path, data)

    def _require_room(self, kind: str, path: Path) -> None:
        if kind in self.refused:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_label_that_the_disk_refuses_is_told_and_the_next_recorder_goes_on(dataset: Dataset) -> None:
    fs = FullFs()
    with Recorder(dataset, CONFIG, fs=fs) as recorder:
        recorder.start({})
        recorder.end(success=True)
        fs.refused = {"append"}
        with pytest.raises(DatasetError, match=r"episode 0 could not be relabelled: .*No space left"):
            recorder.relabel_last(success=False)
    fs.refused.clear()
    with Recorder(dataset, CONFIG, fs=fs) as recorder:
        assert recorder.start({}) == 1
        recorder.end(success=False)
        assert recorder.relabel_last(success=True) == 1
    assert [episode.outcome for episode in dataset.episodes] == ["success", "success"]


def test_a_label_for_an_episode_that_broke_off_does_not_change_the_one_before(dataset: Dataset) -> None:
    fs = FullFs()
    with Recorder(dataset, replace(CONFIG, commit_period_s=0.02), fs=fs) as recorder:
        recorder.start({})
        recorder.end(success=True)
        recorder.start({})
        fs.refused = {"write"}
        recorder.add("joint/position", 5, 5, np.ones(2, np.float32))
        wait_for(lambda: not recorder.is_recording)
        with pytest.raises(DatasetError, match="episode 1 broke off or was discarded"):
            recorder.relabel_last(success=False)
        with pytest.raises(DatasetError, match=r"nothing of episode 1 was kept: writing failed: .*No space left"):
            recorder.end(success=False)
        with pytest.raises(DatasetError, match="episode 1 broke off or was discarded"):
            recorder.relabel_last(success=False)
        assert [(e.index, e.outcome) for e in dataset.episodes] == [(0, "success")]
        fs.refused.clear()
        recorder.start({})
        recorder.end(success=True)
        assert recorder.relabel_last(success=False) == 2
    assert [(e.index, e.outcome) for e in dataset.episodes] == [(0, "success"), (2, "failure")]


def test_a_low_disk_is_refused_at_the_start(dataset: Dataset) -> None:
    with (
        Recorder(dataset, replace(CONFIG, disk_free_min_bytes=1 << 60)) as recorder,
        pytest.raises(DatasetError, match=r"disk low: .* MB are free on .*, at least .* MB are needed"),
    ):
        recorder.start({})
    assert dataset.episodes == []


def test_late_samples_are_recorded_and_counted(dataset: Dataset) -> None:
    with Recorder(dataset, CONFIG) as recorder:
        recorder.start({})
        assert recorder.add("joint/position", 5, 5, np.ones(2, np.float32), late=True)
        counts = recorder.end(success=None).counts["joint/position"]
    assert (counts.received, counts.recorded, counts.late) == (1, 1, 1)


def test_misuse_is_named(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="queue_bytes is 100, the largest sample alone needs 2304"):
        Recorder(dataset, RecorderConfig(queue_bytes=100))
    with Recorder(dataset, CONFIG) as recorder:
        with pytest.raises(DatasetError, match="no episode is being recorded"):
            recorder.end(success=True)
        recorder.start({})
        with pytest.raises(DatasetError, match="an episode is being recorded"):
            recorder.start({})
        with pytest.raises(DatasetError, match="unknown stream 'camera/top'"):
            recorder.add("camera/top", 0, 0, np.zeros(1))


@given(st.lists(st.integers(1, 40) | st.none(), max_size=40), st.integers(40, 100))
def test_the_queue_never_holds_more_than_its_bytes_and_keeps_the_order(moves: list[int | None], limit: int) -> None:
    queue: ByteQueue[int] = ByteQueue(limit)
    model: list[int] = []
    for move in moves:
        if move is None:
            assert not model or queue.get() == model.pop(0)
        else:
            fits = sum(model) + move <= limit
            assert queue.put(move, move) == fits
            model += [move] * fits
    queue.close()
    assert not queue.put(1, 1)
    assert [queue.get() for _ in range(len(model) + 1)] == [*model, None]
