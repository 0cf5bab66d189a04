from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from armature.errors import DatasetError
from data_collection.converters.lerobot import exporter
from data_collection.converters.lerobot.exporter import ExportConfig, export
from data_collection.store import Dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD, TAKEOVER

Import = Callable[..., Dataset]
FRONT = "observation.images.front"


def assert_equal(a: Dataset, b: Dataset, but: tuple[str, ...] = ()) -> None:
    assert a.spec == b.spec
    for one, other in zip(a.episodes, b.episodes, strict=True):
        for key in ("prompt", "success", "outcome", "termination"):
            assert one.metadata[key] == other.metadata[key]
        for stream in set(one.streams) - set(but):
            for left, right in zip(one.read(stream), other.read(stream), strict=True):
                np.testing.assert_array_equal(left, right, strict=True)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_every_value_arrives_at_its_stamp(
    version: str, v21: Path, v30: Path, tmp_path: Path, made: SimpleNamespace, bring_in: Import
) -> None:
    dataset = bring_in({"v2.1": v21, "v3.0": v30}[version], tmp_path / "set")
    assert dataset.spec.observation.names == ("state", "keypoint", "camera/front")
    assert dataset.spec.action.labels == ("a", "b", "c")
    assert dataset.spec.observation["state"].labels == ("a", "b", "c")
    for e, episode in enumerate(dataset.episodes):
        rows = made.rows_of(e, sum(made.lengths[:e]), made.lengths[e])
        names = {"state": "observation.state", "keypoint": "observation.keypoint", ACTION_EXECUTED: "action"}
        for stream, key in names.items():
            stamps_ns, _, data = episode.read(stream)
            np.testing.assert_array_equal(stamps_ns, [round(k * 1e9 / made.fps) for k in range(made.lengths[e])])
            np.testing.assert_array_equal(data, rows[key])
        np.testing.assert_array_equal(episode.read(REWARD)[2][:, 0], rows["next.reward"])
        images = episode.read("camera/front")[2]
        np.testing.assert_allclose(images, list(made.pictures(e, made.lengths[e])), atol=24)  # an encoder lay between
        assert episode.metadata["prompt"] == ("push", "pull")[e % 2]
        assert (episode.metadata["success"], episode.outcome) == ((True, "success") if e else (False, "failure"))
        assert episode.metadata["termination"] == "done"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_to_ours_to_v3_to_ours_is_equal_without_a_video_between(
    version: str, v21: Path, v30: Path, tmp_path: Path, made: SimpleNamespace, bring_in: Import
) -> None:
    source = {"v2.1": v21, "v3.0": v30}[version]
    dataset = bring_in(source, tmp_path / "set")
    export(ExportConfig(tmp_path / "set", tmp_path / "out", images=True))
    assert_equal(dataset, bring_in(tmp_path / "out", tmp_path / "back"))
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert {key: value for key, value in info["features"].items() if key != FRONT} == {
        key: value for key, value in made.features.items() if key != FRONT
    }
    for e, length in enumerate(made.lengths):
        out = pq.read_table(tmp_path / f"out/data/chunk-000/file-{e:03d}.parquet").drop([FRONT])
        assert (
            out.to_pydict()
            == made.table_of(made.rows_of(e, sum(made.lengths[:e]), length)).select(out.column_names).to_pydict()
        )


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_through_a_video_only_the_pictures_change_and_only_a_little(
    codec: Any, v21: Path, tmp_path: Path, bring_in: Import
) -> None:
    dataset = bring_in(v21, tmp_path / "set")
    export(ExportConfig(tmp_path / "set", tmp_path / "out", codec=codec))
    back = bring_in(tmp_path / "out", tmp_path / "back")
    assert_equal(dataset, back, but=("camera/front",))
    for one, other in zip(dataset.episodes, back.episodes, strict=True):
        np.testing.assert_allclose(one.read("camera/front")[2], other.read("camera/front")[2], atol=24)


@pytest.mark.parametrize("state", ["joined", "streams"])
def test_streams_of_several_rates_are_aligned_at_the_commands(
    state: Any, tmp_path: Path, bring_in: Import, own_dataset: Dataset
) -> None:
    dataset = own_dataset
    export(ExportConfig(dataset.path, tmp_path / "out", images=True, state=state))
    back = bring_in(tmp_path / "out", tmp_path / "back")
    assert back.spec == dataset.spec
    assert back.task == dataset.task
    for one, other in zip(dataset.episodes, back.episodes, strict=True):
        ticks = np.arange(2, one.steps)  # the first picture came at 70 ms
        assert other.steps == len(ticks)
        np.testing.assert_array_equal(other.read_stamps(ACTION_EXECUTED)[0], np.arange(len(ticks)) * 50_000_000)
        for stream in (ACTION_EXECUTED, ACTION_REQUESTED, TAKEOVER):
            np.testing.assert_array_equal(other.read(stream)[2], one.read(stream)[2][ticks])
        rewards = one.read(REWARD)[2]
        np.testing.assert_array_equal(other.read(REWARD)[2], [rewards[:3].sum(axis=0), *rewards[3:]])
        for stream in ("joint/position", "object/pose"):
            np.testing.assert_array_equal(other.read(stream)[2], one.read(stream)[2][ticks * 2])
        np.testing.assert_array_equal(
            other.read("camera/wrist")[2], one.read("camera/wrist")[2][(ticks * 50 - 70) // 100]
        )
        assert other.metadata["success"] == one.metadata["success"]
        assert other.metadata["prompt"] == "lift the cube"


def test_ours_to_v3_to_ours_to_v3_is_equal(tmp_path: Path, bring_in: Import, own_dataset: Dataset) -> None:
    export(ExportConfig(tmp_path / "set", tmp_path / "out", images=True))
    once = bring_in(tmp_path / "out", tmp_path / "once")
    export(ExportConfig(once.path, tmp_path / "again", images=True))
    for file in sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*")):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    assert_equal(once, bring_in(tmp_path / "again", tmp_path / "twice"))


def test_vectors_are_joined_as_lerobots_policies_expect_them(
    tmp_path: Path, bring_in: Import, own_dataset: Dataset
) -> None:
    dataset = own_dataset
    export(ExportConfig(dataset.path, tmp_path / "out", images=True))
    features = json.loads((tmp_path / "out/meta/info.json").read_text())["features"]
    (tmp_path / "out/meta/armature.json").unlink()  # as LeRobot's own tools would leave it
    state = features["observation.state"]
    assert (state["dtype"], state["shape"], state["names"][:3]) == ("float64", [18], ["j1", "j2", "object/pose_0"])
    assert features["action"] == {"dtype": "float32", "shape": [2], "names": ["j1", "j2"]}
    assert features["observation.images.wrist"]["names"] == ["height", "width", "channels"]
    read = bring_in(tmp_path / "out", tmp_path / "back").episodes[0].read("state")[2]
    ticks = np.arange(2, 8) * 2
    np.testing.assert_array_equal(read[:, :2], dataset.episodes[0].read("joint/position")[2][ticks])
    np.testing.assert_array_equal(read[:, 2:], dataset.episodes[0].read("object/pose")[2][ticks].reshape(-1, 16))


def test_statistics_are_those_of_the_values(tmp_path: Path, v21: Path, made: SimpleNamespace, bring_in: Import) -> None:
    dataset = bring_in(v21, tmp_path / "set")
    export(ExportConfig(dataset.path, tmp_path / "out", images=True))
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    actions = np.concatenate([episode.read(ACTION_EXECUTED)[2] for episode in dataset.episodes])
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["action"][name], getattr(actions, name)(axis=0))
    images = np.concatenate([episode.read("camera/front")[2] for episode in dataset.episodes])[:, ::4, ::4] / 255
    assert np.shape(stats[FRONT]["mean"]) == (3, 1, 1)
    np.testing.assert_allclose(np.ravel(stats[FRONT]["mean"]), images.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(np.ravel(stats[FRONT]["std"]), images.std(axis=(0, 1, 2)))
    assert stats["action"]["count"] == stats[FRONT]["count"] == [sum(made.lengths)]


def test_an_interrupted_export_keeps_the_episodes_that_are_done(
    tmp_path: Path, v21: Path, monkeypatch: pytest.MonkeyPatch, bring_in: Import
) -> None:
    bring_in(v21, tmp_path / "set")
    export(ExportConfig(tmp_path / "set", tmp_path / "whole"))
    written: list[int] = []
    write = exporter.write_episode

    def interrupted(draft: Path, rows: Any, columns: Any, place: Any, *rest: Any) -> Any:
        written.append(place["episode_index"])
        if written == [0, 1]:
            raise KeyboardInterrupt
        return write(draft, rows, columns, place, *rest)

    monkeypatch.setattr(exporter, "write_episode", interrupted)
    config = ExportConfig(tmp_path / "set", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        export(config)
    assert not config.target.exists()
    with (tmp_path / ".out.exporting/.done.jsonl").open("a") as log:
        log.write('{"episode_index": 1, "len')  # a crash while the line was written
    export(config)
    assert written == [0, 1, 1, 2]
    files = {path.relative_to(config.target) for path in config.target.rglob("*")}
    assert files == {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*")}
    for file in sorted(files):
        if (config.target / file).is_file():
            assert (config.target / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_an_export_says_what_it_cannot_carry(tmp_path: Path, bring_in: Import, own_dataset: Dataset) -> None:
    dataset = own_dataset
    with pytest.raises(DatasetError, match=r"unknown stream 'rewrad'. Did you mean 'reward'"):
        export(ExportConfig(dataset.path, tmp_path / "out", leave_out=("rewrad",)))
    with dataset.writer() as writer:
        episode = writer.begin({})
        for name in (ACTION_EXECUTED, "joint/position", "object/pose"):
            array = dataset.streams[name]
            episode.append(name, np.array([0]), np.array([0]), np.zeros((1, *array.shape), array.dtype))
        episode.end({"success": True})
    with pytest.raises(DatasetError, match=r"camera/wrist is empty in 1 of 3 episodes \(2\).*--leave-out camera/wrist"):
        export(ExportConfig(dataset.path, tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    left_out = ("camera/wrist", REWARD, TAKEOVER, ACTION_REQUESTED)
    export(ExportConfig(dataset.path, tmp_path / "out", leave_out=left_out))
    assert [e.steps for e in bring_in(tmp_path / "out", tmp_path / "back").episodes] == [8, 6, 1]


def test_the_episodes_with_video_of_a_real_robot(shared_data: Path, tmp_path: Path, bring_in: Import) -> None:
    source = shared_data / "g1_bottle_lerobot_v21"
    with pytest.raises(
        DatasetError, match=r"episode_000000.mp4: there is no such video; 95 of 100 episodes lack"
    ) as no:
        bring_in(source, tmp_path / "set")
    assert "--episodes 10 28 29 30 31" in str(no.value)
    assert list(tmp_path.iterdir()) == []
    dataset = bring_in(source, tmp_path / "set", episodes=(10, 28), encoding="jpeg")
    for number, episode in zip((10, 28), dataset.episodes, strict=True):
        table = pq.read_table(source / f"data/chunk-000/episode_{number:06d}.parquet")
        assert episode.length("camera/cam_high") == episode.steps == table.num_rows
        np.testing.assert_array_equal(episode.read("state")[2], table["observation.state"].to_pylist())
        np.testing.assert_array_equal(episode.read(ACTION_EXECUTED)[2], table["action"].to_pylist())
        assert episode.metadata["prompt"] == "Pick up the yellow bottle on the table."


def test_a_real_robot_without_its_camera(shared_data: Path, tmp_path: Path, bring_in: Import) -> None:
    dataset = bring_in(shared_data / "g1_bottle_lerobot_v21", tmp_path / "set", without_cameras=True)
    assert len(dataset.episodes) == 100
    assert sum(episode.steps for episode in dataset.episodes) == 35_965
    assert dataset.spec.observation.names == ("state",)


def test_only_what_was_asked_for(v21: Path, tmp_path: Path, bring_in: Import) -> None:
    with pytest.raises(DatasetError, match=r"has 3 episodes, asked for \[7\]"):
        bring_in(v21, tmp_path / "set", episodes=(0, 7))
    with pytest.raises(DatasetError, match=r"unknown feature 'next.rewrad'. Did you mean 'next.reward'"):
        bring_in(v21, tmp_path / "set", leave_out=("next.rewrad",))
    dataset = bring_in(v21, tmp_path / "set", episodes=(2, 0), without_cameras=True, leave_out=("next.success",))
    assert [e.metadata["source_episode"] for e in dataset.episodes] == ["episode 0", "episode 2"]
    assert dataset.spec.observation.names == ("state", "keypoint")
    assert dataset.episodes[0].metadata["success"] is None
    assert dataset.attributes["source"]["version"] == "v2.1"
