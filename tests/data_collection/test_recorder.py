from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.errors import ConfigError, DatasetError
from armature.spec import RobotSpec
from data_collection.byte_queue import ByteQueue
from data_collection.recorder import Recorder
from data_collection.store import Dataset, create_dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED

MEBIBYTE = 1 << 20


@pytest.fixture
def dataset(tmp_path: Path, robot: RobotSpec) -> Dataset:
    return create_dataset(tmp_path / "set", robot, "lift")


def test_an_episode_is_recorded_with_its_counts(dataset: Dataset) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 24, 32, 3), dtype=np.uint8)
    with Recorder(dataset, MEBIBYTE) as recorder:
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
    assert metadata["counts"]["camera/scene"] == {"received": 30, "recorded": 30, "dropped": {}}
    assert metadata["counts"]["joint/position"] == {"received": 0, "recorded": 0, "dropped": {}}


def test_every_refused_sample_is_counted_by_reason(dataset: Dataset) -> None:
    joints = np.zeros(2, np.float32)
    with Recorder(dataset, MEBIBYTE) as recorder:
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
    assert (counts.received, counts.recorded, counts.dropped) == (6, 2, {"out_of_order": 2, "invalid": 2})
    assert summary.counts[ACTION_EXECUTED].dropped == {"invalid": 1}
    assert dataset.episodes[0].metadata["outcome"] == "failure"


def test_a_flood_is_dropped_not_waited_for_and_what_was_taken_is_kept(dataset: Dataset) -> None:
    image = np.zeros((24, 32, 3), np.uint8)
    taken: dict[int, list[int]] = {0: [], 1: []}
    with Recorder(dataset, queue_bytes=2 * image.nbytes) as recorder:
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
    with Recorder(dataset, MEBIBYTE) as recorder:
        recorder.start({})
        for k in range(50):
            joints[:] = k
            recorder.add("joint/position", k, k, joints)
        recorder.end(success=True)
    assert dataset.episodes[0].read("joint/position")[2][:, 0].tolist() == list(range(50))


def test_outside_an_episode_samples_are_refused_and_not_counted(dataset: Dataset) -> None:
    joints = np.zeros(2, np.float32)
    with Recorder(dataset, MEBIBYTE) as recorder:
        assert not recorder.add("joint/position", 1, 1, joints)
        recorder.start({})
        recorder.add("joint/position", 2, 2, joints)
        recorder.discard()
        assert not recorder.add("joint/position", 3, 3, joints)
        assert recorder.counts()["joint/position"].received == 1
        assert not recorder.is_recording
    assert dataset.episodes == []


def test_a_disk_that_refuses_is_counted_and_told_at_the_end(dataset: Dataset) -> None:
    with Recorder(dataset, MEBIBYTE) as recorder:
        recorder.start({})
        folder = dataset.path / "episodes/000000/joint/position/data"
        (folder / "zarr.json").unlink()
        folder.rmdir()
        folder.write_text("in the way")
        for k in range(600):
            recorder.add("joint/position", k, k, np.zeros(2, np.float32))
        with pytest.raises(DatasetError, match="episode 0 could not be written"):
            recorder.end(success=True)
        counts = recorder.counts()["joint/position"]
        assert counts.received == 600 == counts.recorded + counts.dropped["write_failed"]
        assert recorder.start({}) == 0
        recorder.end(success=True)
    assert len(dataset.episodes) == 1


def test_misuse_is_named(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="queue_bytes is 100, the largest sample alone needs 2304"):
        Recorder(dataset, 100)
    with Recorder(dataset, MEBIBYTE) as recorder:
        with pytest.raises(DatasetError, match="no episode is being recorded"):
            recorder.end(success=True)
        recorder.start({})
        with pytest.raises(DatasetError, match="episode 0 is being recorded"):
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
