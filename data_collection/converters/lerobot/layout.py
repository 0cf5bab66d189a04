"""What LeRobotDataset v2.1 and v3.0 call things, and `meta/info.json` read without trusting it.

v2.1 has one Parquet and one MP4 file per episode and lists the episodes in JSON lines; v3.0 may put many episodes into
one file and lists them, with where each begins, in Parquet.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from armature.errors import DatasetError, beside, unknown
from data_collection.converters.source import require_plausible, stream_name
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD, TAKEOVER

V21, V30 = "v2.1", "v3.0"

INFO = "meta/info.json"
EPISODES_JSONL, TASKS_JSONL = "meta/episodes.jsonl", "meta/tasks.jsonl"
EPISODES_FOLDER, TASKS_PARQUET = "meta/episodes", "meta/tasks.parquet"
EPISODES_PARQUET = "meta/episodes/chunk-000/file-000.parquet"
STATS = "meta/stats.json"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{FILE}.mp4"
FILES_PER_CHUNK = 1000

TIMESTAMP, FRAME_INDEX, EPISODE_INDEX, INDEX, TASK_INDEX = (
    "timestamp", "frame_index", "episode_index", "index", "task_index",
)  # fmt: skip
BOOKKEEPING = {TIMESTAMP: "float32", FRAME_INDEX: "int64", EPISODE_INDEX: "int64", INDEX: "int64", TASK_INDEX: "int64"}
"""The columns that every table has, and their types."""

ACTION = "action"
NEXT_REWARD, NEXT_DONE, NEXT_SUCCESS = "next.reward", "next.done", "next.success"
FLAGS = (NEXT_DONE, NEXT_SUCCESS)
"""Said of an episode's last row; with us they are metadata of the episode: `termination` and `success`."""
DONE, TRUNCATED = "done", "truncated"
STREAM_OF_KEY = {
    ACTION: ACTION_EXECUTED,
    NEXT_REWARD: REWARD,
    "complementary_info.is_intervention": TAKEOVER,
    "complementary_info.action_requested": ACTION_REQUESTED,
}
KEY_OF_STREAM = {stream: key for key, stream in STREAM_OF_KEY.items()}
IMAGES_PREFIX, CAMERA_PREFIX, OBSERVATION_PREFIX = "observation.images.", "camera/", "observation."
CAMERA_DTYPES = ("video", "image")

_NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
_JSON_BYTES_MAX = 64 << 20
_IMAGE_BYTES_MAX = 64 << 20
_ELEMENTS_MAX = 1 << 16
_FPS_MAX = 100_000
_PLACE = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")


@dataclass(frozen=True)
class Feature:
    """One column of a LeRobotDataset. `names` is kept as it stands: a list, a nested list, a mapping or nothing."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: Any = None

    @property
    def is_camera(self) -> bool:
        """Tell whether this is a camera, as a video or as pictures in the table."""
        return self.dtype in CAMERA_DTYPES

    @property
    def labels(self) -> tuple[str, ...]:
        """Name every element of a vector: by `names` where these fit, else by number."""
        if len(self.shape) != 1:
            return ()
        names = [str(name) for name in _leaves(self.names)]
        fits = len(names) == self.shape[0] and len(set(names)) == len(names)
        return tuple(names) if fits else tuple(f"{self.key}_{i}" for i in range(self.shape[0]))

    @property
    def stream(self) -> str:
        """Return the stream that takes this feature: `observation.images.front` is `camera/front`."""
        if self.key in STREAM_OF_KEY:
            return STREAM_OF_KEY[self.key]
        if self.key.startswith(IMAGES_PREFIX):
            return CAMERA_PREFIX + stream_name(self.key.removeprefix(IMAGES_PREFIX))
        return stream_name(self.key.removeprefix(OBSERVATION_PREFIX))


@dataclass(frozen=True)
class Info:
    """`meta/info.json`, checked."""

    root: Path
    version: str
    fps: float
    robot_type: str
    total_episodes: int
    total_frames: int
    chunks_size: int
    data_path: str
    video_path: str
    features: Mapping[str, Feature]

    @property
    def path(self) -> Path:
        """Return the file that this was read from."""
        return self.root / INFO


def read_info(root: Path) -> Info:
    """Read and check `meta/info.json` of the dataset at `root`; raise DatasetError naming the field at fault."""
    path = inside(root, INFO, "info.json")
    if not path.is_file():
        raise DatasetError(f"{path}: there is no LeRobotDataset here. {beside(root, INFO)}")
    data = read_json(path)
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: holds a {type(data).__name__}, expected an object")
    version = str(data.get("codebase_version"))
    if version not in (V21, V30):
        raise DatasetError(f"{path}: codebase_version {version!r} is not known; valid: {V21}, {V30}")
    features = data.get("features")
    if not isinstance(features, dict) or not features:
        raise DatasetError(f"{path}: features is {features!r}, expected an object of features")
    return Info(
        root=root,
        version=version,
        fps=_fps(path, data.get("fps")),
        robot_type=str(data.get("robot_type") or "unknown"),
        total_episodes=integer(data, "total_episodes", path),
        total_frames=integer(data, "total_frames", path),
        chunks_size=integer(data, "chunks_size", path, low=1) if version == V21 else FILES_PER_CHUNK,
        data_path=str(data.get("data_path")),
        video_path=str(data.get("video_path")),
        features={key: _feature(path, key, value) for key, value in features.items()},
    )


def read_json(path: Path) -> Any:
    """Read a small JSON file; raise DatasetError naming it."""
    try:
        if path.stat().st_size > _JSON_BYTES_MAX:
            raise DatasetError(f"{path}: has {path.stat().st_size} bytes, at most {_JSON_BYTES_MAX}")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error


def integer(row: Mapping[str, Any], name: str, path: Path, low: int = 0) -> int:
    """Return the field `name` of a row of `path`; raise DatasetError unless it is a whole number from `low` on."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 1 << 53:
        raise DatasetError(f"{path}: {name} is {value!r}, expected a whole number of at least {low}")
    return value


def fill(template: str, what: str, **fields: Any) -> str:
    """Put fields into a path template such as `data/chunk-{chunk_index:03d}`.

    Not by `str.format`, which would look up attributes and pad to any width that a file asks for.
    """

    def value(match: re.Match[str]) -> str:
        name, width = match.groups()
        if name not in fields:
            raise DatasetError(f"{what}: {unknown('field', name, fields)}")
        return str(fields[name]).zfill(int(width or 0))

    text = _PLACE.sub(value, template)
    if not text or "{" in text or "}" in text:
        raise DatasetError(f"{what}: '{template}' is no path template; its fields: {', '.join(sorted(fields))}")
    return text


def inside(root: Path, relative: str, what: str) -> Path:
    """Return `root / relative`; raise DatasetError where that leads out of `root`, through `..` or a link."""
    try:
        path = root / relative
        safe = ".." not in Path(relative).parts and path.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        raise DatasetError(f"{what}: {relative!r} is no path: {error}") from error
    if not safe:
        raise DatasetError(f"{what}: '{relative}' leads out of {root}; only files inside the dataset are read")
    return path


def _fps(path: Path, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _FPS_MAX:
        raise DatasetError(f"{path}: fps is {value!r}, expected a number above 0, at most {_FPS_MAX}")
    return float(value)


def _feature(path: Path, key: str, value: Any) -> Feature:
    what = f"{path}: feature {key!r}"
    stream_name(key)
    if not isinstance(value, dict) or not isinstance(value.get("shape"), list) or not value["shape"]:
        raise DatasetError(f"{what}: expected dtype and shape, got {str(value)[:200]}")
    dtype, shape = value.get("dtype"), tuple(value["shape"])
    if any(isinstance(length, bool) or not isinstance(length, int) or length < 1 for length in shape):
        raise DatasetError(f"{what}: shape {shape} must be of whole numbers above 0")
    if dtype != "string" and dtype not in (*_NUMBERS, *CAMERA_DTYPES):
        raise DatasetError(f"{what}: dtype {dtype!r} is not known; valid: {', '.join((*_NUMBERS, *CAMERA_DTYPES))}")
    limit = _IMAGE_BYTES_MAX if dtype in CAMERA_DTYPES else _ELEMENTS_MAX
    require_plausible(what, shape, np.dtype(dtype if dtype in _NUMBERS else "uint8"))
    if math.prod(shape) > limit:
        raise DatasetError(f"{what}: shape {shape} has {math.prod(shape)} elements a sample, at most {limit}")
    return Feature(key, dtype, shape, value.get("names"))


def _leaves(names: Any, depth: int = 3) -> list[Any]:
    if isinstance(names, Mapping):
        names = list(names.values()) if all(isinstance(v, list) for v in names.values()) else list(names)
    if not isinstance(names, list) or depth == 0:
        return [] if names is None else [names]
    return [leaf for name in names for leaf in _leaves(name, depth - 1)]
