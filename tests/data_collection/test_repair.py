"""A damaged dataset keeps, of every episode, the longest prefix that can be read, once and for all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from armature.cli import main
from armature.spec import RobotSpec
from data_collection.repair import repair
from data_collection.store import Dataset, create_dataset, open_dataset

STEPS = 150  # images: blocks of 64


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory, robot: RobotSpec) -> Path:
    """Two episodes: the value of every sample is its row."""
    dataset = create_dataset(tmp_path_factory.mktemp("sound") / "set", robot, "lift")
    with dataset.writer() as writer:
        for _ in range(2):
            episode = writer.begin()
            for begin in range(0, STEPS, 50):
                rows = np.arange(begin, begin + 50)
                for name in ("camera/scene", "joint/position", "action/executed"):
                    array = dataset.streams[name]
                    values = np.broadcast_to(rows.reshape(50, *[1] * len(array.shape)), (50, *array.shape))
                    episode.append(name, rows * 50_000_000, rows, values.astype(array.dtype))
                episode.commit()
            episode.end({"outcome": "success", "success": True})
    return dataset.path


@pytest.fixture
def dataset(sound: Path, tmp_path: Path) -> Dataset:
    return open_dataset(shutil.copytree(sound, tmp_path / "set"))


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != "writer.lock"
    }


def require_prefixes(dataset: Dataset) -> list[int]:
    """Every sample that is there is right; return the lengths of the camera's streams."""
    for episode in dataset.episodes:
        for name in episode.streams:
            stamps_ns, _, data = episode.read(name)
            rows = np.arange(len(stamps_ns))
            np.testing.assert_array_equal(stamps_ns, rows * 50_000_000)
            flat = data.reshape(len(data), np.prod(data.shape[1:], dtype=int))
            np.testing.assert_array_equal(flat, np.broadcast_to(rows[:, None], flat.shape).astype(flat.dtype))
    return [episode.length("camera/scene") for episode in dataset.episodes]


def flip(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x10
    file.write_bytes(content)


def test_a_sound_dataset_is_left_alone(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(dataset.path)
    assert main(["data", "repair", str(dataset.path)]) == 0
    assert "is sound, nothing was changed" in capsys.readouterr().out
    assert tree(dataset.path) == before


@pytest.mark.fault(row=50)
def test_an_episode_is_cut_before_the_first_damaged_frame(dataset: Dataset) -> None:
    folder = dataset.path / "episodes/000001/camera/scene/data"
    flip(folder / "c.1.0.0.0", 0.5)  # some frame of rows 64 to 127
    (done,) = repair(dataset.path)
    assert done.startswith("episode 1: repaired: damage in camera/scene; kept ")
    first, second = require_prefixes(dataset)
    assert first == STEPS
    assert 64 < second < 128
    episode = dataset.episodes[1]
    assert (episode.outcome, episode.steps) == ("incomplete", second)
    assert (dataset.path / "lost/000001.0").is_dir()


@pytest.mark.fault(row=50)
def test_an_episode_of_which_nothing_can_be_read_is_taken_out_and_kept_aside(dataset: Dataset) -> None:
    flip(dataset.path / "episodes/000000/joint/position/stamps_ns/c.0.0", 0.5)
    assert repair(dataset.path) == ["episode 0: nothing of joint/position can be read; its files are in lost/"]
    assert [episode.index for episode in dataset.episodes] == [1]
    assert (dataset.path / "lost/000000.0/joint/position/stamps_ns/c.0.0").is_file()


def record_with_reward(path: Path, robot: RobotSpec) -> Dataset:
    """One episode of 5 steps, one block for each stream."""
    dataset = create_dataset(path, robot, "lift")
    with dataset.writer() as writer:
        episode = writer.begin()
        for name in ("joint/position", "action/executed", "action/requested", "reward"):
            array, rows = dataset.streams[name], np.arange(5)
            values = np.broadcast_to(rows.reshape(5, 1), (5, *array.shape)).astype(array.dtype)
            episode.append(name, rows * 50_000_000, rows, values)
        episode.end({"outcome": "success", "success": True})
    return dataset


@pytest.mark.fault(row=50)
@pytest.mark.parametrize("name", ["reward", "action/requested"])
def test_a_stream_that_nobody_needs_does_not_cost_the_episode(tmp_path: Path, robot: RobotSpec, name: str) -> None:
    dataset = record_with_reward(tmp_path / "set", robot)
    flip(dataset.path / f"episodes/000000/{name}/data/c.0.0", 0.5)
    (done,) = repair(dataset.path)
    said = f"repaired: damage in {name}; nothing of {name} can be read"
    assert done.startswith(f"episode 0: {said}; kept 5 of 5 joint/position")
    (episode,) = dataset.episodes
    assert (episode.metadata["termination"], episode.outcome, episode.length(name)) == (said, "incomplete", 0)
    require_prefixes(dataset)
    assert (episode.length("joint/position"), episode.steps) == (5, 5)
    assert repair(dataset.path) == []


@pytest.mark.fault(row=50)
def test_a_lost_folder_of_such_a_stream_does_not_either(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record_with_reward(tmp_path / "set", robot)
    shutil.rmtree(dataset.path / "episodes/000000/reward")
    flip(dataset.path / "episodes/000000/action/requested/stamps_ns/c.0.0", 0.5)
    (done,) = repair(dataset.path)
    assert "damage in action/requested, reward; nothing of action/requested, reward can be read; kept 5 of" in done
    assert dataset.episodes[0].steps == 5
    assert repair(dataset.path) == []


@pytest.mark.fault(row=50)
def test_what_the_episode_is_dropped_for_is_named(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record_with_reward(tmp_path / "set", robot)
    for name in ("reward", "action/executed"):
        flip(dataset.path / f"episodes/000000/{name}/data/c.0.0", 0.5)
    assert repair(dataset.path) == ["episode 0: nothing of action/executed can be read; its files are in lost/"]


def test_a_lost_commit_line_costs_no_frame_that_another_line_vouches_for(dataset: Dataset) -> None:
    log = dataset.path / "commits.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    damaged = lines[-1].replace(b"success", b"failure")  # the end of episode 1
    log.write_bytes(b"".join([*lines[:-1], damaged]))
    assert [e.is_complete for e in dataset.episodes] == [True, False]
    assert repair(dataset.path) == ["commits.jsonl: line 10 is damaged (checksum does not match)"]
    assert require_prefixes(dataset) == [STEPS, STEPS]
    assert (dataset.path / "lost/commits.jsonl.0").read_bytes().endswith(damaged)
    assert dataset.problems == ()
    assert dataset.episodes[1].metadata["termination"] == "the writer died"


@pytest.mark.fault(row=50)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_damaged_repair_is_right_and_idempotent(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "fuzzed"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(sound, path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name not in ("zarr.json", "writer.lock"))
    for file in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True)):
        kind = data.draw(st.sampled_from(["flip", "cut", "remove"] if file.suffix != ".jsonl" else ["flip", "cut"]))
        if kind == "remove":
            file.unlink()
        elif kind == "cut":
            content = file.read_bytes()
            file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        else:
            flip(file, data.draw(st.floats(0, 1)))
    repair(path)
    require_prefixes(open_dataset(path))
    before = tree(path)
    assert repair(path) == []
    assert tree(path) == before
    with open_dataset(path).writer() as writer:
        writer.begin().end({})
