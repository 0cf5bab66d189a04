"""Small LeRobotDatasets of both versions, written from what is known of the format, and datasets of ours to export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.converters.importing import import_source
from data_collection.converters.lerobot.importer import ImportConfig, open_source
from data_collection.converters.lerobot.video import write_video
from data_collection.store import Dataset, create_dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD, TAKEOVER

FPS = 10
LENGTHS = (7, 5, 9)
FRONT = "observation.images.front"
FEATURES: dict[str, Any] = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": ["a", "b", "c"]}},
    "observation.keypoint": {"dtype": "float64", "shape": [2, 2], "names": None},
    FRONT: {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channel"]},
    "action": {"dtype": "float32", "shape": [3], "names": [["a", "b", "c"]]},
    "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    "next.success": {"dtype": "bool", "shape": [1], "names": None},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    **{
        key: {"dtype": "int64", "shape": [1], "names": None}
        for key in ("frame_index", "episode_index", "index", "task_index")
    },
}


def rows_of(episode: int, first: int, length: int) -> dict[str, Any]:
    rng = np.random.default_rng(episode)
    frames = np.arange(length)
    return {
        "observation.state": rng.normal(size=(length, 3)).astype(np.float32).tolist(),
        "observation.keypoint": rng.normal(size=(length, 2, 2)).tolist(),
        "action": rng.normal(size=(length, 3)).astype(np.float32).tolist(),
        "next.reward": rng.normal(size=length).astype(np.float32),
        "next.done": frames == length - 1,
        "next.success": frames == (length - 1 if episode else -1),
        "timestamp": (frames / FPS).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(length, episode),
        "index": first + frames,
        "task_index": np.full(length, episode % 2),
    }


def table_of(rows: dict[str, Any]) -> pa.Table:
    lists = {"observation.state": pa.list_(pa.float32()), "observation.keypoint": pa.list_(pa.list_(pa.float64()))}
    lists["action"] = pa.list_(pa.float32(), 3)
    return pa.table({key: pa.array(values, lists.get(key)) for key, values in rows.items()})


def pictures(episode: int, length: int) -> Iterator[np.ndarray]:
    """A bright column that moves on by one pixel a frame, so that no two frames of the dataset are equal."""
    for k in range(length):
        image = np.full((32, 48, 3), 40 * episode, np.uint8)
        image[:, 3 * k : 3 * k + 3] = 255
        yield image


def info_of(version: str, **changes: Any) -> dict[str, Any]:
    file = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    paths = {
        "v2.1": ("data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
                 "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"),
        "v3.0": (f"data/{file}.parquet", f"videos/{{video_key}}/{file}.mp4"),
    }  # fmt: skip
    data_path, video_path = paths[version]
    info = {"codebase_version": version, "robot_type": "arm", "total_episodes": len(LENGTHS), "chunks_size": 1000}
    info |= {"total_frames": sum(LENGTHS), "total_tasks": 2, "fps": FPS, "data_path": data_path}
    return info | {"video_path": video_path, "features": FEATURES} | changes


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = content if isinstance(content, list) else [content]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="session")
def v21_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lerobot") / "v21"
    put(root / "meta/info.json", info_of("v2.1"))
    put(root / "meta/tasks.jsonl", [{"task_index": k, "task": task} for k, task in enumerate(("push", "pull"))])
    episodes = [{"episode_index": e, "tasks": [("push", "pull")[e % 2]], "length": n} for e, n in enumerate(LENGTHS)]
    put(root / "meta/episodes.jsonl", episodes)
    (root / "data/chunk-000").mkdir(parents=True)
    videos = root / f"videos/chunk-000/{FRONT}"
    videos.mkdir(parents=True)
    for e, length in enumerate(LENGTHS):
        table = table_of(rows_of(e, sum(LENGTHS[:e]), length))
        pq.write_table(table, root / f"data/chunk-000/episode_{e:06d}.parquet")
        write_video(videos / f"episode_{e:06d}.mp4", pictures(e, length), FPS, "h264")
    return root


@pytest.fixture(scope="session")
def v30_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All episodes in one table of two row groups that cut through an episode, and in one video."""
    root = tmp_path_factory.mktemp("lerobot") / "v30"
    put(root / "meta/info.json", info_of("v3.0"))
    (root / "data/chunk-000").mkdir(parents=True)
    video = root / f"videos/{FRONT}/chunk-000/file-000.mp4"
    video.parent.mkdir(parents=True)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    begins = [sum(LENGTHS[:e]) for e in range(len(LENGTHS))]
    tables = [table_of(rows_of(e, begins[e], n)) for e, n in enumerate(LENGTHS)]
    pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet", row_group_size=10)
    write_video(video, (image for e, n in enumerate(LENGTHS) for image in pictures(e, n)), FPS, "h264")
    pq.write_table(pa.table({"task_index": [0, 1], "__index_level_0__": ["push", "pull"]}), root / "meta/tasks.parquet")
    episodes = [
        {"episode_index": e, "tasks": [("push", "pull")[e % 2]], "length": n, "data/chunk_index": 0,
         "data/file_index": 0, "dataset_from_index": begins[e], "dataset_to_index": begins[e] + n,
         f"videos/{FRONT}/chunk_index": 0, f"videos/{FRONT}/file_index": 0,
         f"videos/{FRONT}/from_timestamp": begins[e] / FPS, f"videos/{FRONT}/to_timestamp": (begins[e] + n) / FPS}
        for e, n in enumerate(LENGTHS)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    return root


@pytest.fixture
def v21(v21_original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(v21_original, tmp_path / "v21"))


@pytest.fixture
def v30(v30_original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(v30_original, tmp_path / "v30"))


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """What the datasets were made of."""
    return SimpleNamespace(
        fps=FPS, lengths=LENGTHS, features=FEATURES, rows_of=rows_of, table_of=table_of, pictures=pictures
    )


@pytest.fixture(scope="session")
def bring_in() -> Callable[..., Dataset]:
    """Import a LeRobotDataset: `bring_in(source, to, **options)`."""

    def bring(source: Path, to: Path, **options: Any) -> Dataset:
        config = ImportConfig(source, to, **options)
        return import_source(open_source(config), config.dataset)

    return bring


def record(path: Path) -> Dataset:
    """Record a camera at 10 Hz, joints at 40 Hz and commands at 20 Hz, which begin before the first picture."""
    rng = np.random.default_rng(1)
    joints = ArraySpec("joint/position", (2,), "float32", "rad", labels=("j1", "j2"))
    pose = ArraySpec("object/pose", (4, 4), "float64", "m")
    camera = ArraySpec("camera/wrist", (24, 32, 3), "uint8", "rgb8")
    spec = RobotSpec(
        "arm", ObservationSpec((camera, joints, pose), 20.0), ActionSpec("joint_position", (joints,), 20.0)
    )
    dataset = create_dataset(path, spec, "lift")
    with dataset.writer() as writer:
        for number, length in enumerate((8, 6)):
            episode = writer.begin({"prompt": "lift the cube"})
            rates_hz = {"camera/wrist": 10, "joint/position": 40, "object/pose": 40, REWARD: 20, TAKEOVER: 20}
            for stream, rate_hz in (rates_hz | {ACTION_EXECUTED: 20, ACTION_REQUESTED: 20}).items():
                array, begin_ns = dataset.streams[stream], 70_000_000 if stream == "camera/wrist" else 0
                stamps_ns = begin_ns + np.arange(length * rate_hz // 20) * (1_000_000_000 // rate_hz)
                values = np.stack([array.sample(rng) for _ in stamps_ns]).astype(np.float32).astype(array.dtype)
                values = values % 2 if stream == TAKEOVER else values
                episode.append(stream, stamps_ns, stamps_ns, values)
            episode.end({"success": number == 0, "outcome": "success" if number == 0 else "failure"})
    return dataset


@pytest.fixture
def own_dataset(tmp_path: Path) -> Dataset:
    """Two recordings of ours, of 8 and 6 commands, at `set`."""
    return record(tmp_path / "set")
