"""Which episodes a LeRobotDataset lists, and in which files their rows and frames lie."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armature.errors import DatasetError
from data_collection.converters.lerobot.layout import (
    EPISODE_INDEX,
    EPISODES_FOLDER,
    EPISODES_JSONL,
    TASK_INDEX,
    TASKS_JSONL,
    TASKS_PARQUET,
    V21,
    Info,
    fill,
    inside,
    integer,
)
from data_collection.converters.lerobot.tables import open_table, read_columns

_LINE_BYTES_MAX = 1 << 20
_EPISODES_MAX = 1_000_000


@dataclass(frozen=True)
class Listed:
    """One episode as the dataset lists it."""

    index: int
    length: int
    prompt: str
    task_index: int
    data: Path
    first_row: int
    """Where it begins in its table."""
    file_rows: int
    """How many rows its table has to have."""
    videos: Mapping[str, tuple[Path, float]]
    """Camera to video file and where the episode begins in it [s]."""


def list_episodes(info: Info, cameras: Sequence[str]) -> list[Listed]:
    """Return all episodes in order of their numbers; raise DatasetError where list and totals differ."""
    if info.total_episodes > _EPISODES_MAX:
        raise DatasetError(f"{info.path}: total_episodes is {info.total_episodes}, at most {_EPISODES_MAX}")
    tasks = _tasks(info)
    path = inside(info.root, EPISODES_JSONL if info.version == V21 else EPISODES_FOLDER, "list of episodes")
    rows = list(_lines(path, info.total_episodes)) if info.version == V21 else _table_rows(info, path, cameras)
    rows.sort(key=lambda row: integer(row, EPISODE_INDEX, path))
    if [row[EPISODE_INDEX] for row in rows] != list(range(info.total_episodes)):
        shown = ", ".join(str(row[EPISODE_INDEX]) for row in rows[:5])
        raise DatasetError(
            f"{info.path}: total_episodes is {info.total_episodes}, {path} lists {len(rows)} ({shown}, ...); "
            f"they must be numbered from 0 on, without gaps"
        )
    frames = sum(integer(row, "length", path, low=1) for row in rows)
    if frames != info.total_frames:
        raise DatasetError(
            f"{info.path}: total_frames is {info.total_frames}, the lengths in {path} add up to {frames}"
        )
    locate = _locate_v21 if info.version == V21 else _locate_v30
    places = locate(info, rows, cameras, path)
    return [
        Listed(row[EPISODE_INDEX], row["length"], *_prompt(row, tasks, path), *place)
        for row, place in zip(rows, places, strict=True)
    ]


def _prompt(row: Mapping[str, Any], tasks: Mapping[str, int], path: Path) -> tuple[str, int]:
    named = row.get("tasks")
    where = f"{path}: episode {row[EPISODE_INDEX]}"
    if not isinstance(named, list) or len(named) != 1:
        raise DatasetError(f"{where}: tasks is {str(named)[:200]}; episodes with exactly one task can be imported")
    if named[0] not in tasks:
        raise DatasetError(f"{where}: its task {str(named[0])[:200]!r} is not among the dataset's {len(tasks)} tasks")
    return named[0], tasks[named[0]]


def _tasks(info: Info) -> dict[str, int]:
    path = inside(info.root, TASKS_JSONL if info.version == V21 else TASKS_PARQUET, "list of tasks")
    rows = list(_lines(path, _EPISODES_MAX)) if info.version == V21 else _task_rows(path)
    return {str(row.get("task")): integer(row, TASK_INDEX, path) for row in rows}


def _task_rows(path: Path) -> list[dict[str, Any]]:
    # The prompt is the index of a pandas frame, with or without a name.
    with open_table(path) as table:
        columns = table.schema_arrow.names
    name = "task" if "task" in columns else "__index_level_0__"
    return [{TASK_INDEX: row[TASK_INDEX], "task": row[name]} for row in read_columns(path, (TASK_INDEX, name))]


def _lines(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; at most one more than `count`."""
    try:
        with path.open("rb") as file:
            for number in range(1, count + 2):
                line = file.readline(_LINE_BYTES_MAX)
                if not line:
                    return
                row = json.loads(line) if len(line) < _LINE_BYTES_MAX else None
                if not isinstance(row, dict):
                    raise DatasetError(f"{path}: line {number} is no JSON object of at most {_LINE_BYTES_MAX} bytes")
                yield row
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error


def _locate_v21(info: Info, rows: list[dict[str, Any]], cameras: Sequence[str], _: Path) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        index = row[EPISODE_INDEX]
        fields = {"episode_chunk": index // info.chunks_size, "episode_index": index}
        data = _file(info, info.data_path, "data_path", fields)
        videos = {
            key: (_file(info, info.video_path, "video_path", {"video_key": key, **fields}), 0.0) for key in cameras
        }
        yield data, 0, row["length"], videos


def _locate_v30(
    info: Info, rows: list[dict[str, Any]], cameras: Sequence[str], path: Path
) -> Iterator[tuple[Any, ...]]:
    file_rows: Counter[Path] = Counter()
    places = []
    begin = 0
    for row in rows:
        where = f"{path}: episode {row[EPISODE_INDEX]}"
        span = row["dataset_from_index"], row["dataset_to_index"]
        if span != (begin, begin + row["length"]):
            raise DatasetError(f"{where}: rows {span[0]}..{span[1]}, by the lengths {begin}..{begin + row['length']}")
        data = _file(info, info.data_path, "data_path", _indices(row, "data", path))
        places.append((data, file_rows[data], {key: _video(info, row, key, path) for key in cameras}))
        file_rows[data] += row["length"]
        begin += row["length"]
    for data, first_row, videos in places:
        yield data, first_row, file_rows[data], videos


def _video(info: Info, row: Mapping[str, Any], key: str, path: Path) -> tuple[Path, float]:
    fields = {"video_key": key, **_indices(row, f"videos/{key}", path)}
    start_s, end_s = (row[f"videos/{key}/{name}_timestamp"] for name in ("from", "to"))
    # The file is read where rows say, and must be as long: half a frame of difference is another frame.
    fits = all(isinstance(t, float) and 0 <= t < 1e9 for t in (start_s, end_s))
    if not fits or abs(end_s - start_s - row["length"] / info.fps) > 0.5 / info.fps:
        raise DatasetError(
            f"{path}: episode {row[EPISODE_INDEX]}: {key} from {start_s} s to {end_s} s, "
            f"expected {row['length'] / info.fps:g} s for {row['length']} rows"
        )
    return _file(info, info.video_path, "video_path", fields), start_s


def _indices(row: Mapping[str, Any], prefix: str, path: Path) -> dict[str, int]:
    return {name: integer({name: row[f"{prefix}/{name}"]}, name, path) for name in ("chunk_index", "file_index")}


def _file(info: Info, template: str, what: str, fields: Mapping[str, Any]) -> Path:
    return inside(info.root, fill(template, f"{info.path}: {what}", **fields), f"{info.path}: {what}")


def _table_rows(info: Info, folder: Path, cameras: Sequence[str]) -> list[dict[str, Any]]:
    video = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns = [EPISODE_INDEX, "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index",
               "dataset_to_index", *(f"videos/{key}/{name}" for key in cameras for name in video)]  # fmt: skip
    found = sorted(folder.glob("*/*.parquet"))
    if not found:
        raise DatasetError(f"{folder}: holds no Parquet file, so there is no list of episodes")
    files = [inside(info.root, str(file.relative_to(info.root)), "list of episodes") for file in found]
    listed = 0
    for file in files:
        with open_table(file) as table:
            listed += table.metadata.num_rows
    if listed != info.total_episodes:
        raise DatasetError(f"{info.path}: total_episodes is {info.total_episodes}, {folder} lists {listed}")
    return [row for file in files for row in read_columns(file, columns)]
