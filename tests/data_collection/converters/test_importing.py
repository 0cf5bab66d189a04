"""What every importer shares: a draft, resuming, counts, and nothing left behind by a bad source."""

from __future__ import annotations

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
