"""One episode as Parquet and MP4 files, and the lists and totals of a whole LeRobotDataset v3.0."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from data_collection.converters.lerobot.layout import (
    BOOKKEEPING,
    DATA_PATH,
    EPISODE_INDEX,
    EPISODES_PARQUET,
    FILES_PER_CHUNK,
    FRAME_INDEX,
    INDEX,
    INFO,
    STATS,
    TASK_INDEX,
    TASKS_PARQUET,
    TIMESTAMP,
    V30,
    VIDEO_PATH,
    Feature,
)
from data_collection.converters.lerobot.rows import Column, Rows
from data_collection.converters.lerobot.stats import PictureStats, Stats, aggregate, vector_stats
from data_collection.converters.lerobot.video import PIXEL_FORMAT, write_video

# Rows with pictures are encoded and written this many at a time.
_GROUP_ROWS = 16
_PNG_LEVEL = 1


def write_episode(
    draft: Path, rows: Rows, columns: Sequence[Column], place: Mapping[str, int], fps: float, codec: str
) -> dict[str, Stats]:
    """Write one episode's table and videos; `place` holds episode_index, index (its first) and task_index.

    Each episode has files of its own, so that those that are done stay when an export is interrupted.
    """
    table = {c.feature.key: rows.values(c) for c in columns if not c.feature.is_camera} | _book(rows.length, place, fps)
    stats = {key: vector_stats(values) for key, values in table.items()}
    pictures = {c.feature.key: PictureStats() for c in columns if c.feature.is_camera}
    episode = place[EPISODE_INDEX]
    embedded = {
        c.feature.key: _counted(rows.pictures(c), pictures[c.feature.key])
        for c in columns
        if c.feature.dtype == "image"
    }
    _write_table(_made(draft, data_file(episode)), table, embedded, [c.feature for c in columns])
    for column in columns:
        key = column.feature.key
        if column.feature.dtype == "video":
            write_video(
                _made(draft, video_file(key, episode)), _counted(rows.pictures(column), pictures[key]), fps, codec
            )
    return stats | {key: counted.stats() for key, counted in pictures.items()}


def data_file(episode: int) -> str:
    """Return where an episode's table lies."""
    return DATA_PATH.format(**_numbers(episode))


def video_file(key: str, episode: int) -> str:
    """Return where an episode's video lies."""
    return VIDEO_PATH.format(video_key=key, **_numbers(episode))


def episode_entry(
    place: Mapping[str, int],
    prompt: str,
    length: int,
    columns: Sequence[Column],
    fps: float,
    stats: Mapping[str, Stats],
) -> dict[str, Any]:
    """Return an episode's row in the list of episodes."""
    numbers = _numbers(place[EPISODE_INDEX])
    entry: dict[str, Any] = {EPISODE_INDEX: place[EPISODE_INDEX], "tasks": [prompt], "length": length}
    entry |= {f"data/{name}": number for name, number in numbers.items()}
    entry |= {"dataset_from_index": place[INDEX], "dataset_to_index": place[INDEX] + length}
    for column in columns:
        if column.feature.dtype == "video":
            where = numbers | {"from_timestamp": 0.0, "to_timestamp": length / fps}
            entry |= {f"videos/{column.feature.key}/{name}": value for name, value in where.items()}
    entry |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    return entry | {f"stats/{key}/{name}": value for key, said in stats.items() for name, value in said.items()}


def write_lists(draft: Path, entries: Sequence[dict[str, Any]], prompts: Sequence[str]) -> None:
    """Write the list of episodes, the tasks and the statistics over all."""
    _write_parquet(_made(draft, EPISODES_PARQUET), pa.Table.from_pylist(list(entries)))
    tasks = pa.table({TASK_INDEX: pa.array(range(len(prompts)), pa.int64()), "task": pa.array(prompts, pa.string())})
    _write_parquet(_made(draft, TASKS_PARQUET), tasks.replace_schema_metadata({"pandas": json.dumps(_TASKS_PANDAS)}))
    names = [name.removeprefix("stats/").rpartition("/") for name in entries[0] if name.startswith("stats/")]
    stats: dict[str, Stats] = {}
    for key in dict.fromkeys(key for key, _, _ in names):
        parts = [name for of, _, name in names if of == key]
        stats[key] = aggregate([{name: entry[f"stats/{key}/{name}"] for name in parts} for entry in entries])
    _made(draft, STATS).write_text(json.dumps(stats, allow_nan=False))


def write_info(
    draft: Path, entries: Sequence[Mapping[str, Any]], prompts: Sequence[str], columns: Sequence[Column],
    fps: float, robot_type: str, codec: str,
) -> None:  # fmt: skip
    """Write `meta/info.json`, without which nothing here is a dataset: last."""
    rate = int(fps) if fps == int(fps) else fps
    has_video = any(column.feature.dtype == "video" for column in columns)
    book = [Feature(key, dtype, (1,)) for key, dtype in BOOKKEEPING.items()]
    info = {
        "codebase_version": V30,
        "robot_type": robot_type,
        "total_episodes": len(entries),
        "total_frames": sum(entry["length"] for entry in entries),
        "total_tasks": len(prompts),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": rate,
        "splits": {"train": f"0:{len(entries)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if has_video else None,
        "features": {f.key: _described(f, rate, codec) for f in [*(c.feature for c in columns), *book]},
    }
    _made(draft, INFO).write_text(json.dumps(info, indent=4, ensure_ascii=False))


def _described(feature: Feature, fps: float, codec: str) -> dict[str, Any]:
    said: dict[str, Any] = {"dtype": feature.dtype, "shape": list(feature.shape), "names": feature.names}
    if feature.dtype != "video":
        return said
    video = {"height": feature.shape[0], "width": feature.shape[1], "codec": codec, "pix_fmt": PIXEL_FORMAT,
             "is_depth_map": False, "fps": fps, "channels": 3}  # fmt: skip
    return said | {"info": {f"video.{name}": value for name, value in video.items()} | {"has_audio": False}}


def _book(length: int, place: Mapping[str, int], fps: float) -> dict[str, NDArray[Any]]:
    frames = np.arange(length)
    values = {
        TIMESTAMP: frames / fps,
        FRAME_INDEX: frames,
        EPISODE_INDEX: np.full(length, place[EPISODE_INDEX]),
        INDEX: place[INDEX] + frames,
        TASK_INDEX: np.full(length, place[TASK_INDEX]),
    }
    return {key: values[key].astype(dtype)[:, None] for key, dtype in BOOKKEEPING.items()}


def _write_table(
    path: Path, table: Mapping[str, NDArray[Any]], pictures: Mapping[str, Iterator[Any]], features: Sequence[Feature]
) -> None:
    length = len(table[TIMESTAMP])
    rows = _GROUP_ROWS if pictures else length
    # In the order of info.json, where the columns that every table has come last.
    keys = [*(f.key for f in features if f.key in table or f.key in pictures), *BOOKKEEPING]
    writer = None
    for start in range(0, length, rows):
        count = min(rows, length - start)
        arrays = {key: _nested(table[key][start : start + count]) for key in table}
        arrays |= {key: _encoded([next(images) for _ in range(count)], start) for key, images in pictures.items()}
        part = pa.table({key: arrays[key] for key in keys})
        if writer is None:
            metadata = {"huggingface": json.dumps({"info": {"features": {k: _hub_type(part[k].type) for k in keys}}})}
            writer = pq.ParquetWriter(path, part.schema.with_metadata(metadata), write_page_checksum=True)
        writer.write_table(part)
    if writer is not None:
        writer.close()


def _nested(values: NDArray[Any]) -> pa.Array:
    """Return (N, 1) as plain numbers, (N, D) as lists of D, and so on."""
    array = pa.array(np.ascontiguousarray(values).ravel())
    for length in [] if values.shape[1:] == (1,) else values.shape[:0:-1]:
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array


def _encoded(images: Sequence[NDArray[np.uint8]], start: int) -> pa.Array:
    names = [f"frame-{start + k:06d}.png" for k in range(len(images))]
    return pa.StructArray.from_arrays([pa.array(map(_png, images), pa.binary()), pa.array(names)], ["bytes", "path"])


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()


def _hub_type(found: pa.DataType) -> dict[str, Any]:
    """Say what a column holds in the words of the `datasets` package, which reads them from the file."""
    if pa.types.is_struct(found):
        return {"_type": "Image"}
    if pa.types.is_fixed_size_list(found):
        return {"feature": _hub_type(found.value_type), "length": found.list_size, "_type": "Sequence"}
    names = {"float": "float32", "double": "float64"}
    return {"dtype": names.get(str(found), str(found)), "_type": "Value"}


def _counted(images: Iterator[NDArray[np.uint8]], stats: PictureStats) -> Iterator[NDArray[np.uint8]]:
    for image in images:
        stats.add(image)
        yield image


def _numbers(episode: int) -> dict[str, int]:
    return {"chunk_index": episode // FILES_PER_CHUNK, "file_index": episode % FILES_PER_CHUNK}


def _made(draft: Path, name: str) -> Path:
    path = draft / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, write_page_checksum=True)


# LeRobot finds the prompts in the index of a pandas frame.
_TASKS_PANDAS = {
    "index_columns": ["task"],
    "column_indexes": [{"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
                        "metadata": {"encoding": "UTF-8"}}],
    "columns": [
        {"name": TASK_INDEX, "field_name": TASK_INDEX, "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ],
    "pandas_version": "2.2.0",
}  # fmt: skip
