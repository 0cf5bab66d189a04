from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from numcodecs.blosc import Blosc

from armature.errors import DatasetError, InvalidValue
from armature.spec import RobotSpec
from data_collection.layout import data_layout
from data_collection.store import Dataset, create_dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED, stream_specs


def write_episode(dataset: Dataset, steps: int, **metadata: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(steps)
    stamps_ns = np.arange(steps) * 50_000_000
    values = {n: np.stack([a.sample(rng) for _ in range(steps)]) for n, a in stream_specs(dataset.spec).items()}
    with dataset.writer() as writer:
        episode = writer.begin()
        for name, stream in values.items():
            episode.append(name, stamps_ns, stamps_ns + 5, stream)
        episode.end(metadata)
    return values


@pytest.fixture
def dataset(tmp_path: Path, robot: RobotSpec) -> Dataset:
    return create_dataset(tmp_path / "set", robot, "lift")


@pytest.mark.parametrize("steps", [1, 64, 300, 1025])  # images have blocks of 64, vectors of 1024
def test_what_was_committed_reads_back_equal(dataset: Dataset, steps: int) -> None:
    values = write_episode(dataset, steps)
    (episode,) = open_dataset(dataset.path).episodes
    assert set(episode.streams) == set(values)
    for name, expected in values.items():
        stamps_ns, received_ns, data = episode.read(name)
        np.testing.assert_array_equal(data, expected)
        assert data.dtype == expected.dtype
        np.testing.assert_array_equal(stamps_ns, np.arange(steps) * 50_000_000)
        np.testing.assert_array_equal(received_ns - stamps_ns, 5)


def test_all_zero_data_is_written_and_read_like_any_other(dataset: Dataset) -> None:
    with dataset.writer() as writer:
        episode = writer.begin()
        for name, array in dataset.streams.items():
            episode.append(name, np.array([0]), np.array([0]), np.zeros((1, *array.shape), array.dtype))
        episode.end({})
    assert all(not dataset.episodes[0].read(name)[2].any() for name in dataset.streams)


def test_streams_keep_their_own_rates_and_may_be_empty(dataset: Dataset) -> None:
    with dataset.writer() as writer:
        episode = writer.begin()
        episode.append("joint/position", np.arange(101) * 10_000_000, np.arange(101), np.zeros((101, 2), np.float32))
        episode.append(ACTION_EXECUTED, np.arange(11) * 100_000_000, np.arange(11), np.zeros((11, 3)))
        episode.end({})
    (episode,) = dataset.episodes
    assert (episode.rate_hz("joint/position"), episode.rate_hz(ACTION_EXECUTED)) == (100.0, 10.0)
    assert (episode.steps, episode.duration_s, episode.rate_hz("camera/scene")) == (11, 1.0, 0.0)
    assert episode.read("camera/scene")[2].shape == (0, 24, 32, 3)


def test_stamps_may_lie_before_the_epoch(dataset: Dataset) -> None:
    with dataset.writer() as writer:
        episode = writer.begin()
        episode.append(ACTION_EXECUTED, np.array([-5, 5]), np.array([0, 1]), np.zeros((2, 3)))
        episode.end({})
    assert dataset.episodes[0].read_stamps(ACTION_EXECUTED)[0].tolist() == [-5, 5]


def test_the_arrays_open_with_zarr_alone(dataset: Dataset) -> None:
    values = write_episode(dataset, 3)
    root = zarr.open_group(dataset.path, mode="r")
    np.testing.assert_array_equal(root["episodes/000000/camera/scene/data"][:], values["camera/scene"])


def test_metadata_is_completed_with_task_spec_and_versions(dataset: Dataset) -> None:
    write_episode(dataset, 2, seed=5, success=True, note="slow")
    metadata = dataset.episodes[0].metadata
    assert {k: metadata[k] for k in ("task", "seed", "success", "operator", "note")} == {
        "task": "lift", "seed": 5, "success": True, "operator": "", "note": "slow",
    }  # fmt: skip
    assert metadata["spec_fingerprint"] == dataset.spec.fingerprint
    assert set(metadata["versions"]) == {"python", "armature", "numpy", "zarr"}


def test_the_fingerprint_changes_with_every_commit_and_with_the_spec(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = create_dataset(tmp_path / "a", robot, "lift")
    other = create_dataset(tmp_path / "b", replace(robot, name="other"), "lift")
    seen = {dataset.fingerprint, other.fingerprint}
    for _ in range(2):
        write_episode(dataset, 2)
        seen.add(dataset.fingerprint)
    assert len(seen) == 4
    assert open_dataset(dataset.path).fingerprint == dataset.fingerprint


def test_discarded_and_abandoned_episodes_leave_nothing(dataset: Dataset) -> None:
    with dataset.writer() as writer:
        writer.begin().discard()
        writer.begin()
    assert dataset.episodes == []
    assert [p.name for p in (dataset.path / "episodes").iterdir()] == ["zarr.json"]


def test_a_second_writer_is_refused_by_the_name_of_the_first(dataset: Dataset) -> None:
    with dataset.writer(), pytest.raises(DatasetError, match=f"is being written by process {os.getpid()} on "):
        dataset.writer()
    dataset.writer().close()


def test_the_next_writer_sweeps_leftovers_and_an_unfinished_line(dataset: Dataset) -> None:
    values = write_episode(dataset, 3)
    log = dataset.path / "commits.jsonl"
    committed = log.read_bytes()
    log.write_bytes(committed + committed[:40])
    leftover = dataset.path / "episodes" / "000001"
    leftover.mkdir()
    (leftover / "zarr.json.partial").write_text("half")
    assert len(dataset.episodes) == 1
    write_episode(dataset, 4)
    assert log.read_bytes().startswith(committed + b'{"crc32"')
    assert not (leftover / "zarr.json.partial").exists()
    assert [episode.steps for episode in dataset.episodes] == [3, 4]
    np.testing.assert_array_equal(dataset.episodes[0].read("camera/scene")[2], values["camera/scene"])


def test_rows_beyond_the_committed_length_are_not_read(dataset: Dataset) -> None:
    write_episode(dataset, 3)
    array = zarr.open_array(dataset.path / "episodes/000000/joint/position/data", mode="r+")
    array.append(np.ones((5, 2), np.float32))
    assert len(dataset.episodes[0].read("joint/position")[2]) == 3


def damage_chunk(dataset: Dataset) -> None:
    chunk = dataset.path / "episodes/000000/joint/position/data/c.0.0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)


def remove_chunk(dataset: Dataset) -> None:
    (dataset.path / "episodes/000000/joint/position/data/c.0.0").unlink()


def cut_chunk(dataset: Dataset) -> None:
    chunk = dataset.path / "episodes/000000/joint/position/data/c.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-7])


def empty_chunk(dataset: Dataset) -> None:
    (dataset.path / "episodes/000000/joint/position/data/c.0.0").write_bytes(b"")


def link_out_of_the_dataset(dataset: Dataset) -> None:
    chunk = dataset.path / "episodes/000000/joint/position/data/c.0.0"
    outside = dataset.path.parent / "outside"
    chunk.rename(outside)
    chunk.symlink_to(outside)


def promise_a_bomb(dataset: Dataset) -> None:
    bomb = Blosc(cname="zstd").encode(np.zeros(1 << 26, np.uint8))
    content = bomb + google_crc32c.value(bomb).to_bytes(4, "little")
    (dataset.path / "episodes/000000/joint/position/data/c.0.0").write_bytes(content)


@pytest.mark.fault(row=50)
@pytest.mark.parametrize(
    "damage", [damage_chunk, remove_chunk, cut_chunk, empty_chunk, link_out_of_the_dataset, promise_a_bomb]
)
def test_damage_is_named_and_stays_with_its_stream(dataset: Dataset, damage) -> None:
    write_episode(dataset, 3)
    damage(dataset)
    (episode,) = dataset.episodes
    with pytest.raises(DatasetError, match="episode 0, stream joint/position: damaged"):
        episode.read("joint/position")
    assert len(episode.read("gripper/opening")[2]) == 3


@pytest.mark.fault(row=50)
def test_a_damaged_commit_line_is_named_and_costs_only_its_episode(dataset: Dataset) -> None:
    write_episode(dataset, 3)
    write_episode(dataset, 4)
    log = dataset.path / "commits.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"length": 4', b'"length": 9'))
    opened = open_dataset(dataset.path)
    assert [(e.index, e.is_complete) for e in opened.episodes] == [(0, True)]
    assert [problem.split(" (")[0] for problem in opened.problems] == [
        "commits.jsonl: line 5 is damaged", "commits.jsonl: line 6 is damaged",
    ]  # fmt: skip
    with pytest.raises(DatasetError, match=r"line 5 is damaged .*; run 'armature data repair .*set' first"):
        dataset.writer()
    assert (dataset.path / "episodes/000001").exists()


@pytest.mark.fault(row=51)
@pytest.mark.parametrize(
    ("version", "message"),
    [
        (3, "has the newer format version 3; this Armature reads version 2"),
        ("x", "has the unknown format version 'x'; this Armature reads version 2"),
        (1, "has the old format version 1; copy it with 'armature data migrate"),
    ],
)
def test_another_format_version_is_refused_by_name(dataset: Dataset, version: object, message: str) -> None:
    zarr.open_group(dataset.path, mode="r+").attrs["format_version"] = version
    with pytest.raises(DatasetError, match=message):
        open_dataset(dataset.path)


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="absent: there is no dataset here"):
        open_dataset(tmp_path / "absent")
    zarr.create_group(tmp_path / "plain")
    with pytest.raises(DatasetError, match="is no Armature dataset"):
        open_dataset(tmp_path / "plain")
    (tmp_path / "plain" / "zarr.json").write_text("{")
    with pytest.raises(DatasetError, match=r"zarr\.json cannot be read"):
        open_dataset(tmp_path / "plain")


def test_nothing_is_overwritten(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match="exists already"):
        create_dataset(dataset.path, dataset.spec, "lift")


def test_a_stream_name_cannot_lead_out_of_the_dataset(tmp_path: Path, robot: RobotSpec) -> None:
    arrays = (replace(robot.observation.arrays[0], name="../../outside"),)
    spec = replace(robot, observation=replace(robot.observation, arrays=arrays))
    with pytest.raises(DatasetError, match=re.escape("'../../outside'")):
        create_dataset(tmp_path / "set", spec, "lift")


def test_wrong_samples_are_refused_by_name(dataset: Dataset) -> None:
    one, two = np.array([5]), np.array([5, 5])
    with dataset.writer() as writer:
        episode = writer.begin()
        with pytest.raises(DatasetError, match=r"unknown stream 'joint/positon'\. Did you mean 'joint/position'"):
            episode.append("joint/positon", one, one, np.zeros((1, 2), np.float32))
        with pytest.raises(InvalidValue, match=r"joint/position: got float64 \(1, 2\), expected float32 \(1, 2\)"):
            episode.append("joint/position", one, one, np.zeros((1, 2)))
        with pytest.raises(InvalidValue, match="stamps must rise"):
            episode.append("joint/position", two, two, np.zeros((2, 2), np.float32))
        for metadata in ({"seed": object()}, {"scores": {1: 0.5, "mean": 0.5}}):
            with pytest.raises(DatasetError, match="cannot be stored as JSON"):
                episode.end(metadata)
        episode.end({"seed": 3})
    assert dataset.episodes[0].metadata["seed"] == 3


def test_a_writer_takes_one_episode_at_a_time(dataset: Dataset) -> None:
    with dataset.writer() as writer:
        episode = writer.begin()
        with pytest.raises(DatasetError, match=r"episode 0 of .* is still open"):
            writer.begin()
        episode.end({})
        with pytest.raises(DatasetError, match="already been ended"):
            episode.end({})


def test_blocks_are_small_enough_to_be_written_again_at_every_commit(robot: RobotSpec) -> None:
    camera, joints = robot.observation.arrays[:2]
    rows = {
        size: data_layout(replace(camera, shape=(*size, 3))).rows for size in ((480, 640), (128, 128), (4000, 4000))
    }
    assert rows == {(480, 640): 9, (128, 128): 64, (4000, 4000): 1}
    assert data_layout(joints).rows == 1024
