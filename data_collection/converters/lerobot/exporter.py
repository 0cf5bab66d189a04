"""Export to LeRobotDataset v3.0.

LeRobot has one row for all at a fixed rate: the streams are aligned at the executed commands, and command k of an
episode is written as k / fps; native stamps and rates stay behind. Videos are lossy; with `--images` the pictures are
put into the tables as PNG and come back equal.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from armature.errors import ArmatureError, DatasetError
from armature.filesystem import Fs, append_line, sync_tree
from data_collection.converters.aligned_export import Incomplete, episodes_to_export
from data_collection.converters.lerobot.files import (
    data_file,
    episode_entry,
    video_file,
    write_episode,
    write_info,
    write_lists,
)
from data_collection.converters.lerobot.layout import EPISODE_INDEX, INDEX, TASK_INDEX
from data_collection.converters.lerobot.rows import Column, Rows, columns_of, names_kept
from data_collection.converters.lerobot.spec import ARMATURE, write_contract
from data_collection.converters.lerobot.video import require_codec
from data_collection.store import Dataset, Episode, open_dataset

_DONE = ".done.jsonl"


@dataclass(frozen=True)
class ExportConfig:
    """Export a dataset as LeRobotDataset v3.0. An interrupted export goes on after its last whole episode."""

    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """The folder to make."""
    codec: Literal["h264", "av1"] = "h264"
    """How videos are encoded; both are lossy."""
    images: bool = False
    """Put pictures into the tables as PNG instead: lossless, larger."""
    state: Literal["joined", "streams"] = "joined"
    """All vectors as one `observation.state`, as LeRobot's policies expect it, or a feature for each stream. A dataset
    that came from LeRobot keeps its features in any case."""
    leave_out: tuple[str, ...] = ()
    """Streams not to export."""
    incomplete: Incomplete = "refuse"
    """Episodes of which only a verified beginning exists."""


def export(config: ExportConfig, on_episode: Callable[[int, int], None] = lambda *_: None) -> None:
    """Write the LeRobotDataset; `on_episode(done, total)` follows. Raises DatasetError and leaves nothing behind."""
    dataset = open_dataset(config.dataset)
    if config.target.exists() or config.target.is_symlink():
        raise DatasetError(f"{config.target}: exists already; choose a new path")
    episodes = episodes_to_export(dataset, config.incomplete)
    columns = _columns(dataset, episodes, config)
    draft = config.target.with_name(f".{config.target.name}.exporting")
    try:
        _write(dataset, episodes, columns, draft, config, on_episode)
        fs = Fs()
        sync_tree(fs, draft)
        fs.rename(draft, config.target)
        fs.sync(config.target.parent)
    except ArmatureError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise DatasetError(f"{config.target}: cannot be written: {error}") from error


def _columns(dataset: Dataset, episodes: Sequence[Episode], config: ExportConfig) -> list[Column]:
    columns = columns_of(dataset, episodes, config.leave_out, config.state == "joined")
    if config.images:
        as_image = [replace(c.feature, dtype="image") if c.feature.is_camera else c.feature for c in columns]
        return [replace(column, feature=feature) for column, feature in zip(columns, as_image, strict=True)]
    for feature in (column.feature for column in columns if column.feature.is_camera):
        require_codec(config.codec)
        if feature.shape[0] % 2 or feature.shape[1] % 2:
            raise DatasetError(
                f"{feature.key}: {feature.shape} cannot be a video, which needs even sides; use --images"
            )
    return columns


def _write(
    dataset: Dataset, episodes: Sequence[Episode], columns: Sequence[Column], draft: Path, config: ExportConfig,
    on_episode: Callable[[int, int], None],
) -> None:  # fmt: skip
    fps = dataset.spec.action.rate_hz
    prompts = list(dict.fromkeys(_prompt(dataset, episode) for episode in episodes))
    entries = _taken_up(draft, _key(dataset, episodes, config))
    for number, episode in enumerate(episodes):
        if number >= len(entries):
            begin = entries[-1]["dataset_to_index"] if entries else 0
            prompt = _prompt(dataset, episode)
            place = {EPISODE_INDEX: number, INDEX: begin, TASK_INDEX: prompts.index(prompt)}
            rows = Rows(episode, columns)
            stats = write_episode(draft, rows, columns, place, fps, config.codec)
            entries.append(episode_entry(place, prompt, rows.length, columns, fps, stats))
            _commit(draft, entries[-1], columns)
        on_episode(number + 1, len(episodes))
    write_lists(draft, entries, prompts)
    if not names_kept(dataset):
        streams = {column.feature.key: column.streams for column in columns}
        write_contract(draft / ARMATURE, dataset.spec, dataset.task, streams)
    (draft / _DONE).unlink()
    write_info(draft, entries, prompts, columns, fps, _robot_type(dataset), config.codec)


def _taken_up(draft: Path, key: str) -> list[dict[str, Any]]:
    """Return the entries of the episodes that an interrupted export of the same has finished; else begin a draft."""
    log = draft / _DONE
    lines = log.read_bytes().splitlines(keepends=True) if log.is_file() else []
    try:
        said = [json.loads(line) for line in lines if line.endswith(b"\n")]
    except ValueError:
        said = []
    if said[:1] == [{"key": key}]:
        log.write_bytes(b"".join(lines[: len(said)]))  # without a line cut short
        return said[1:]
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    append_line(Fs(), log, json.dumps({"key": key}).encode() + b"\n")
    return []


def _commit(draft: Path, entry: dict[str, Any], columns: Sequence[Column]) -> None:
    """Force an episode's files to disk, then say that it is done."""
    fs, number = Fs(), entry[EPISODE_INDEX]
    fs.sync(draft / data_file(number))
    for column in columns:
        if column.feature.dtype == "video":
            fs.sync(draft / video_file(column.feature.key, number))
    append_line(fs, draft / _DONE, json.dumps(entry, allow_nan=False).encode() + b"\n")


def _key(dataset: Dataset, episodes: Sequence[Episode], config: ExportConfig) -> str:
    options = {name: value for name, value in asdict(config).items() if name not in ("dataset", "target")}
    text = repr((dataset.fingerprint, [episode.index for episode in episodes], sorted(options.items())))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _prompt(dataset: Dataset, episode: Episode) -> str:
    return str(episode.metadata.get("prompt") or dataset.task)


def _robot_type(dataset: Dataset) -> str:
    return dataset.spec.name
