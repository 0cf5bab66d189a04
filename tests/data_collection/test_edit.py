"""Relabel, drop, merge, split and migrate, as the command line does them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from armature.cli import main
from armature.errors import DatasetError
from armature.filesystem import Fs
from armature.spec import RobotSpec
from data_collection.copying import merge
from data_collection.migrate import migrate
from data_collection.store import Dataset, Episode, create_dataset, open_dataset

GOLDEN = Path(__file__).with_name("golden")


def record(path: Path, robot: RobotSpec, lengths: tuple[int, ...], jpeg: bool = True) -> Dataset:
    """Make a dataset of episodes with random content; its seed is the episode's length."""
    encodings = {"camera/scene": "jpeg"} if jpeg else {}
    dataset = create_dataset(path, robot, "lift", encodings=encodings)
    with dataset.writer() as writer:
        for length in lengths:
            rng = np.random.default_rng(length)
            episode = writer.begin({"seed": length})
            for name, array in dataset.streams.items():
                values = np.stack([array.sample(rng) for _ in range(length)])
                episode.append(name, np.arange(length) * 50_000_000, np.arange(length), values)
            episode.end({"outcome": "success", "success": True})
    return dataset


def content(episode: Episode) -> dict[str, bytes]:
    return {name: b"".join(part.tobytes() for part in episode.read(name)) for name in episode.streams}


@pytest.fixture
def dataset(tmp_path: Path, robot: RobotSpec) -> Dataset:
    return record(tmp_path / "set", robot, (3, 70, 9))


def run(*arguments: object) -> int:
    return main(["data", *map(str, arguments)])


def test_relabel_changes_the_outcome_and_nothing_else(dataset: Dataset) -> None:
    before = [content(episode) for episode in dataset.episodes]
    assert run("relabel", dataset.path, 1, "failure") == 0
    assert [(e.outcome, e.metadata["success"]) for e in dataset.episodes] == [
        ("success", True), ("failure", False), ("success", True),
    ]  # fmt: skip
    assert [content(episode) for episode in dataset.episodes] == before


def test_drop_takes_episodes_out_and_never_gives_their_numbers_again(dataset: Dataset, robot: RobotSpec) -> None:
    assert run("drop", dataset.path, 0, 2) == 0
    assert [(e.index, e.steps) for e in dataset.episodes] == [(1, 70)]
    assert sorted(p.name for p in (dataset.path / "episodes").glob("0*")) == ["000001"]
    with dataset.writer() as writer:
        assert writer.begin().index == 3


def test_an_unknown_episode_is_named_before_anything_is_changed(
    dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("drop", dataset.path, 0, 7) == 2
    assert capsys.readouterr().err == f"armature: {dataset.path}: there is no episode 7. Valid: 0, 1, 2\n"
    assert run("relabel", dataset.path, 8, "failure") == 2
    assert run("drop", dataset.path) == 2
    assert capsys.readouterr().err.endswith(f"armature: {dataset.path}: name the episodes to drop, by their numbers\n")
    assert len(dataset.episodes) == 3


def test_an_episode_that_is_named_twice_is_dropped_once(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("drop", dataset.path, 1, 1) == 0
    assert "1 dropped, 2 left" in "".join(capsys.readouterr())
    assert [episode.index for episode in dataset.episodes] == [0, 2]


def test_merge_copies_every_byte_of_every_complete_episode(tmp_path: Path, robot: RobotSpec, dataset: Dataset) -> None:
    other = record(tmp_path / "other", robot, (5, 6))
    with other.writer() as writer:
        episode = writer.begin()
        episode.append("joint/position", np.array([1]), np.array([1]), np.zeros((1, 2), np.float32))
        episode.commit()
    assert run("merge", dataset.path, other.path, "--out", tmp_path / "both") == 0
    merged = open_dataset(tmp_path / "both").episodes
    assert [e.metadata["seed"] for e in merged] == [3, 70, 9, 5, 6]
    originals = [*dataset.episodes, *other.episodes[:2]]
    assert [content(e) for e in merged] == [content(e) for e in originals]
    assert merged[4].metadata["copied_from"] == {"dataset": "other", "episode": 1}


def test_datasets_of_different_robots_are_not_merged(
    tmp_path: Path, robot: RobotSpec, dataset: Dataset, capsys
) -> None:
    other = record(tmp_path / "other", replace(robot, name="big"), (5,))
    assert run("merge", dataset.path, other.path, "--out", tmp_path / "both") == 2
    assert "robot: needs 'small', offered 'big'" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()


def test_split_gives_every_episode_to_one_side(tmp_path: Path, dataset: Dataset) -> None:
    parts = [tmp_path / "train", tmp_path / "test"]
    assert run("split", dataset.path, "--first", parts[0], "--second", parts[1], "--fraction", 0.7) == 0
    train, test = (open_dataset(part).episodes for part in parts)
    assert (len(train), len(test)) == (2, 1)
    assert sorted(e.metadata["seed"] for e in [*train, *test]) == [3, 9, 70]


def test_split_looks_at_both_parts_before_it_copies(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test").mkdir()
    assert run("split", dataset.path, "--first", tmp_path / "train", "--second", tmp_path / "test") == 2
    assert f"{tmp_path}/test: exists already; choose a new path" in capsys.readouterr().err
    both = ("--first", tmp_path / "train", "--second", tmp_path / "test/../train")
    assert run("split", dataset.path, *both, "--fraction", 0.7) == 2
    assert "train: is given for both parts; choose two paths" in capsys.readouterr().err
    assert not (tmp_path / "train").exists()


def test_a_merge_keeps_what_its_datasets_say_alike(tmp_path: Path, robot: RobotSpec) -> None:
    sources = [
        {"format": "robomimic", "path": f"{k}.hdf5", "mask": {"train": [f"demo_{k}"]}, "plan": {"reward": "r"},
         "data_attributes": {"env": "Lift", "date": k}}
        for k in (1, 2)
    ]  # fmt: skip
    given = [
        create_dataset(tmp_path / f"{k}", robot, "lift", attributes={"source": source, "import_key": f"{k}"})
        for k, source in enumerate([*sources, sources[0] | {"plan": {"reward": "other"}}, {}])
    ]
    alike = {"format": "robomimic", "plan": {"reward": "r"}, "data_attributes": {"env": "Lift"}}
    assert merge(given[:2], tmp_path / "merged").attributes == {"source": alike}
    assert merge(given[:3], tmp_path / "renamed").attributes == {"source": {}}
    assert merge(given[2:], tmp_path / "no source").attributes == {"source": {}}
    assert merge(given[:1], tmp_path / "copy").attributes == given[0].attributes


def test_filter_keys_come_along_only_while_they_name_the_same_episodes(tmp_path: Path, robot: RobotSpec) -> None:
    def imported(name: str, *episodes: str) -> Dataset:
        attributes = {"source": {"format": "robomimic", "mask": {"train": ["demo_0"]}}}
        dataset = create_dataset(tmp_path / name, robot, "lift", attributes=attributes)
        with dataset.writer() as writer:
            for episode in episodes:
                writer.begin().end({"source_episode": episode})
        return dataset

    parts = [imported("one", "demo_0"), imported("two", "demo_1"), imported("again", "demo_0")]
    assert merge(parts[:2], tmp_path / "whole").attributes == parts[0].attributes
    assert merge(parts, tmp_path / "double").attributes == {"source": {"format": "robomimic"}}


def test_a_second_copy_leaves_the_draft_of_a_running_one_alone(tmp_path: Path, dataset: Dataset) -> None:
    def merge_again(_: int) -> None:
        with pytest.raises(DatasetError, match=rf"\.copy\.copying: is being written by process {os.getpid()} on"):
            merge([dataset], tmp_path / "copy")

    assert len(merge([dataset], tmp_path / "copy", merge_again).episodes) == 3


def test_a_damaged_episode_is_not_copied(tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    chunk = dataset.path / "episodes/000001/camera/scene/data/c.0.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert run("merge", dataset.path, "--out", tmp_path / "copy") == 2
    assert "episode 1, stream camera/scene: damaged; repair it first" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_an_episode_without_its_folder_is_named_and_leaves_no_copy(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(dataset.path / "episodes/000001")
    assert run("merge", dataset.path, "--out", tmp_path / "copy") == 2
    assert "episode 1: " in (told := capsys.readouterr().err)
    assert "episodes/000001 is missing; repair it first" in told
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """Two episodes (5 and 300 steps) as the first format version wrote them."""
    with tarfile.open(GOLDEN / "version_1.tar.gz") as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


@pytest.mark.fault(row=51)
def test_version_1_is_copied_with_every_sample(tmp_path: Path, version_1: Path) -> None:
    assert run("migrate", version_1, tmp_path / "new") == 0
    dataset = open_dataset(tmp_path / "new")
    assert (dataset.task, [e.steps for e in dataset.episodes]) == ("lift", [5, 300])
    for episode, images in zip(dataset.episodes, (5, 7), strict=True):
        rng = np.random.default_rng(episode.steps)
        for name in ("camera/scene", "joint/position", "gripper/opening", "action/executed", "action/requested"):
            array = dataset.streams[name]
            length = images if array.is_image else episode.steps
            stamps_ns, received_ns, data = episode.read(name)
            np.testing.assert_array_equal(data, np.stack([array.sample(rng) for _ in range(length)]))
            np.testing.assert_array_equal(stamps_ns, np.arange(length) * 50_000_000)
            np.testing.assert_array_equal(received_ns, stamps_ns + 5)
    metadata = dataset.episodes[1].metadata
    assert (metadata["seed"], metadata["outcome"], metadata["operator"]) == (300, "failure", "ada")
    assert metadata["migrated_from"]["versions"]["armature"] == "0.1.0"


def test_a_second_migration_leaves_the_draft_of_a_running_one_alone(tmp_path: Path, version_1: Path) -> None:
    def migrate_again(_: int) -> None:
        with pytest.raises(DatasetError, match=rf"\.new\.migrating: is being written by process {os.getpid()} on"):
            migrate(version_1, tmp_path / "new")

    assert len(migrate(version_1, tmp_path / "new", migrate_again).episodes) == 2


def test_a_migration_holds_its_draft_until_it_has_its_name(
    tmp_path: Path, version_1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, refused = Episode.read, list[str]()

    def read_as_another_begins(episode: Episode, stream: str) -> Any:
        try:
            migrate(version_1, tmp_path / "new")
        except DatasetError as error:
            refused.append(str(error))
        return read(episode, stream)

    # It reads its own copy only to compare it, at the end.
    monkeypatch.setattr(Episode, "read", read_as_another_begins)
    assert len(migrate(version_1, tmp_path / "new").episodes) == 2
    assert refused
    assert all("is being written by" in message for message in refused)


def refuse(_: Fs, path: Path, data: bytes) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize("command", ["merge", "split", "migrate", "relabel", "drop"])
def test_a_full_disk_is_told_in_one_line_and_leaves_no_draft(
    tmp_path: Path, dataset: Dataset, version_1: Path, command: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {
        "merge": (dataset.path, "--out", tmp_path / "a"),
        "split": (dataset.path, "--first", tmp_path / "a", "--second", tmp_path / "b", "--fraction", 0.7),
        "migrate": (version_1, tmp_path / "a"),
        "relabel": (dataset.path, 1, "failure"),
        "drop": (dataset.path, 1),
    }
    # No room for another line of a commit log.
    monkeypatch.setattr(Fs, "append", refuse)
    assert run(command, *arguments[command]) == 2
    assert re.fullmatch(r"armature: .*: (cannot be|episode 0).*No space left.*\n", capsys.readouterr().err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old", "set"]
    assert [episode.outcome for episode in dataset.episodes] == ["success"] * 3


@pytest.mark.fault(row=51)
def test_a_damaged_original_leaves_no_copy(tmp_path: Path, version_1: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (version_1 / "episodes/000001/joint/position/data/c.1.0").unlink()
    assert run("migrate", version_1, tmp_path / "new") == 2
    assert "episode 1, stream joint/position: damaged:" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_only_version_1_is_migrated(tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migrate", dataset.path, tmp_path / "new") == 2
    assert "format version 2 cannot be migrated. Valid: 1" in capsys.readouterr().err
