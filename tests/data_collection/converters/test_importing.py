"""What every importer shares: a draft, resuming, counts, and nothing left behind by a bad source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from armature.errors import DatasetError
from armature.spec import RobotSpec
from data_collection.converters.importing import import_source
from data_collection.converters.source import Block, Source, require_plausible, stream_name
from data_collection.store import open_dataset
from data_collection.stream_writer import StreamWriter
from data_collection.streams import ACTION_EXECUTED


@dataclass
class Given:
    """An episode of known content that may break off."""

    name: str
    steps: int = 4
    really: int = 4
    error: BaseException | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    reads: int = 0

    def blocks(self) -> Iterator[Block]:
        self.reads += 1
        rows = np.arange(self.really)
        yield ACTION_EXECUTED, rows, rows, np.tile(rows[:, None], (1, 3)).astype(float)
        if self.error is not None:
            raise self.error


def source(robot: RobotSpec, *episodes: Given) -> Source:
    return Source(Path("somewhere"), "lift", robot, episodes, {"format": "known"})


def test_episodes_come_over_with_their_names_and_metadata(tmp_path: Path, robot: RobotSpec) -> None:
    seen: list[int] = []
    episodes = [Given("demo_1", metadata={"outcome": "success"}), Given("demo_2", steps=2, really=2)]
    dataset = import_source(source(robot, *episodes), tmp_path / "set", seen.append)
    assert seen == [1, 2]
    assert [(e.metadata["source_episode"], e.outcome, e.steps) for e in dataset.episodes] == [
        ("demo_1", "success", 4), ("demo_2", "", 2),
    ]  # fmt: skip
    assert dataset.attributes["source"] == {"format": "known"}
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_bad_source_leaves_nothing(tmp_path: Path, robot: RobotSpec) -> None:
    bad = source(robot, Given("demo_1"), Given("demo_2", error=DatasetError("somewhere: demo_2: actions: cut short")))
    with pytest.raises(DatasetError, match="demo_2: actions: cut short"):
        import_source(bad, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_another_number_of_actions_than_claimed_is_refused(tmp_path: Path, robot: RobotSpec) -> None:
    with pytest.raises(DatasetError, match="somewhere: demo_1: claims 5 actions, 4 were found"):
        import_source(source(robot, Given("demo_1", steps=5)), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_import_goes_on_where_it_was(tmp_path: Path, robot: RobotSpec) -> None:
    episodes = [Given("demo_1"), Given("demo_2", error=KeyboardInterrupt()), Given("demo_3")]
    with pytest.raises(KeyboardInterrupt):
        import_source(source(robot, *episodes), tmp_path / "set")
    assert not (tmp_path / "set").exists()
    episodes[1].error = None
    dataset = import_source(source(robot, *episodes), tmp_path / "set")
    assert [e.metadata["source_episode"] for e in dataset.episodes] == ["demo_1", "demo_2", "demo_3"]
    assert [episode.reads for episode in episodes] == [1, 2, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_episode_that_was_cut_off_while_it_was_ended_is_copied_again(
    tmp_path: Path, robot: RobotSpec, error: BaseException
) -> None:
    def break_off(_: StreamWriter) -> None:
        raise error

    episodes = [Given("demo_1"), Given("demo_2", metadata={"outcome": "success", "success": True})]
    with pytest.MonkeyPatch.context() as patch, pytest.raises((KeyboardInterrupt, DatasetError)):
        import_source(
            source(robot, *episodes), tmp_path / "set", lambda _: patch.setattr(StreamWriter, "finish", break_off)
        )
    (first, second) = open_dataset(tmp_path / ".set.importing").episodes
    assert (first.outcome, second.outcome, second.steps) == ("", "incomplete", 4)
    dataset = import_source(source(robot, *episodes), tmp_path / "set")
    assert [(e.metadata["source_episode"], e.outcome, e.metadata["success"]) for e in dataset.episodes] == [
        ("demo_1", "", None), ("demo_2", "success", True),
    ]  # fmt: skip
    assert [episode.reads for episode in episodes] == [1, 2]


@pytest.mark.parametrize("task", ["lift", "can"])
def test_a_second_import_leaves_the_draft_of_a_running_one_alone(tmp_path: Path, robot: RobotSpec, task: str) -> None:
    def import_again(_: int) -> None:
        with pytest.raises(DatasetError, match=rf"\.set\.importing: is being written by process {os.getpid()} on"):
            import_source(replace(source(robot, Given("demo_1")), task=task), tmp_path / "set")

    dataset = import_source(source(robot, Given("demo_1"), Given("demo_2")), tmp_path / "set", import_again)
    assert (dataset.task, [e.steps for e in dataset.episodes]) == ("lift", [4, 4])


@pytest.mark.parametrize("name", ["demos.hdf5", "folder/part/0.0"])
def test_a_source_whose_files_were_replaced_is_imported_anew(tmp_path: Path, robot: RobotSpec, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"old")
    os.utime(file, ns=(0, 1_000))
    episodes = [Given("demo_1"), Given("demo_2", error=KeyboardInterrupt())]
    given = replace(source(robot, *episodes), path=tmp_path / Path(name).parts[0])
    with pytest.raises(KeyboardInterrupt):
        import_source(given, tmp_path / "set")
    with pytest.raises(KeyboardInterrupt):
        import_source(given, tmp_path / "set")
    assert [episode.reads for episode in episodes] == [1, 2]
    file.write_bytes(b"new")
    os.utime(file, ns=(0, 2_000))
    episodes[1].error = None
    assert len(import_source(given, tmp_path / "set").episodes) == 2
    assert [episode.reads for episode in episodes] == [2, 3]


def test_a_draft_within_the_source_is_continued(tmp_path: Path, robot: RobotSpec) -> None:
    episodes = [Given("demo_1"), Given("demo_2", error=KeyboardInterrupt())]
    given = replace(source(robot, *episodes), path=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        import_source(given, tmp_path / "set")
    episodes[1].error = None
    import_source(given, tmp_path / "set")
    assert [episode.reads for episode in episodes] == [1, 2]


def test_the_draft_of_another_source_is_not_continued(tmp_path: Path, robot: RobotSpec) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_source(source(robot, Given("demo_1"), Given("demo_2", error=KeyboardInterrupt())), tmp_path / "set")
    other = replace(source(robot, Given("demo_1"), Given("demo_2")), task="can")
    dataset = import_source(other, tmp_path / "set")
    assert (dataset.task, len(dataset.episodes)) == ("can", 2)


def test_nothing_is_overwritten(tmp_path: Path, robot: RobotSpec) -> None:
    import_source(source(robot, Given("demo_1")), tmp_path / "set")
    with pytest.raises(DatasetError, match="exists already"):
        import_source(source(robot, Given("demo_1")), tmp_path / "set")
    assert len(open_dataset(tmp_path / "set").episodes) == 1


@pytest.mark.parametrize(
    ("key", "name"),
    [("observation.state", "observation/state"), ("obs/robot0_eef_pos", "obs/robot0_eef_pos"), ("A b-c", "a_b_c")],
)
def test_foreign_keys_become_stream_names(key: str, name: str) -> None:
    assert stream_name(key) == name


@pytest.mark.parametrize("key", ["../up", "/etc/passwd", "a//b", "", ".hidden", "a/.."])
def test_keys_that_lead_out_are_refused(key: str) -> None:
    with pytest.raises(DatasetError, match="empty, absolute and"):
        stream_name(key)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [((2**40, 2), "f8", "would need"), ((3,), "O", "dtype object is not allowed"), ((-1,), "f4", "shape")],
)
def test_implausible_arrays_are_refused(shape: tuple[int, ...], dtype: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        require_plausible("file: field", shape, np.dtype(dtype))
