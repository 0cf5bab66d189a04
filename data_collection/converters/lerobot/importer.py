"""LeRobotDataset v2.1 and v3.0 into a dataset of ours.

Row k of an episode gets the stamp k / fps: LeRobot has no other clock. `observation.state` becomes the stream `state`,
`observation.images.front` becomes `camera/front`, `action` the executed command and `next.reward` the reward. Names and
types are kept in the dataset's attributes, from which the exporter restores them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from armature.errors import DatasetError, unknown
from armature.spec import ArraySpec
from data_collection.converters.lerobot.episodes import Listed, list_episodes
from data_collection.converters.lerobot.layout import (
    ACTION,
    BOOKKEEPING,
    DONE,
    EPISODE_INDEX,
    FLAGS,
    FRAME_INDEX,
    KEY_OF_STREAM,
    NEXT_DONE,
    NEXT_REWARD,
    NEXT_SUCCESS,
    STREAM_OF_KEY,
    TASK_INDEX,
    TIMESTAMP,
    TRUNCATED,
    V21,
    Feature,
    Info,
    read_info,
)
from data_collection.converters.lerobot.spec import Contract, read_contract
from data_collection.converters.lerobot.tables import read_blocks, require_columns
from data_collection.converters.lerobot.video import VideoFile
from data_collection.converters.source import Block, Source

# As LeRobot itself demands; above 1000 s float32 cannot tell 0.1 ms apart any more.
_TOLERANCE_S = 1e-4
_FLOAT32_STEP = 2.0**-23
_SHOWN_MAX = 20


@dataclass(frozen=True)
class ImportConfig:
    """Import a LeRobotDataset v2.1 or v3.0."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder with `meta/info.json`."""
    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The new dataset."""
    episodes: tuple[int, ...] = ()
    """Only these episodes, by LeRobot's numbers; all where none is named."""
    without_cameras: bool = False
    """Leave the cameras out."""
    leave_out: tuple[str, ...] = ()
    """Features to leave out, by LeRobot's names."""
    encoding: Literal["lossless", "jpeg"] = "lossless"
    """How pictures are stored. They are decoded in any case: a video's frames are kept as they come out."""


def open_source(config: ImportConfig) -> Source:
    """Open a LeRobotDataset; raise DatasetError naming file and field unless lists, tables and videos fit together."""
    info = read_info(config.source)
    features = _features(info, config)
    cameras = [f.key for f in features.values() if f.dtype == "video"]
    episodes = _selected(list_episodes(info, cameras), config.episodes, info)
    _require_videos(episodes, cameras)
    _require_tables(info, episodes, features)
    for key in cameras:
        _require_frames(info, episodes, features[key])
    contract = read_contract(info, features)
    return Source(
        path=config.source,
        task=contract.task or _task(config.source, episodes),
        spec=contract.spec,
        episodes=[LeRobotEpisode(info, listed, features, contract.streams) for listed in episodes],
        attributes=_attributes(info, features, contract),
        encodings={contract.streams[key][0].name: config.encoding for key, f in features.items() if f.is_camera},
    )


@dataclass(frozen=True)
class LeRobotEpisode:
    """One episode; its rows are read first, then each camera."""

    info: Info
    listed: Listed
    features: Mapping[str, Feature]
    streams: Mapping[str, tuple[ArraySpec, ...]]
    """By feature, end to end."""
    metadata: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Read the flags of the last row, which are metadata with us."""
        object.__setattr__(self, "metadata", {"prompt": self.listed.prompt, **self._flags()})

    @property
    def name(self) -> str:
        """Return the number that LeRobot gives it."""
        return f"episode {self.listed.index}"

    @property
    def steps(self) -> int:
        """Return the length that the list of episodes claims."""
        return self.listed.length

    def blocks(self) -> Iterator[Block]:
        """Read the episode in pieces of a few MiB; raise DatasetError naming file and field."""
        yield from self._rows()
        for feature in self.features.values():
            if feature.is_camera:
                yield from self._pictures(feature)

    def _rows(self) -> Iterator[Block]:
        numbers = [f for f in self.features.values() if not f.is_camera and f.key not in FLAGS]
        keep_book = [Feature(key, dtype, (1,)) for key, dtype in BOOKKEEPING.items()]
        row = 0
        for block in read_blocks(self.listed.data, [*keep_book, *numbers], self.listed.first_row, self.steps):
            self._require_book(block, row)
            self._require_finite(block, ACTION, row)
            self._require_finite(block, NEXT_REWARD, row, f"; leave it out with --leave-out {NEXT_REWARD}")
            stamps_ns = self._stamps_ns(row, len(block[TIMESTAMP]))
            row += len(stamps_ns)
            for feature in numbers:
                for array, values in _split(block[feature.key], self.streams[feature.key]):
                    yield array.name, stamps_ns, stamps_ns, values

    def _pictures(self, feature: Feature) -> Iterator[Block]:
        if feature.dtype == "video":
            path, start_s = self.listed.videos[feature.key]
            blocks = _video(path, feature).blocks(start_s, self.steps, self.info.fps)
        else:
            tables = read_blocks(self.listed.data, [feature], self.listed.first_row, self.steps)
            blocks = (table[feature.key] for table in tables)
        row = 0
        for images in blocks:
            stamps_ns = self._stamps_ns(row, len(images))
            row += len(images)
            yield self.streams[feature.key][0].name, stamps_ns, stamps_ns, images

    def _stamps_ns(self, first: int, count: int) -> NDArray[np.int64]:
        return np.rint(np.arange(first, first + count) * 1e9 / self.info.fps).astype(np.int64)

    def _require_book(self, block: Mapping[str, NDArray[Any]], first: int) -> None:
        """Compare the columns that place a row with the list of episodes."""
        expected = np.arange(first, first + len(block[TIMESTAMP]))[:, None]
        time_s = expected / self.info.fps
        fits = {
            EPISODE_INDEX: block[EPISODE_INDEX] == self.listed.index,
            FRAME_INDEX: block[FRAME_INDEX] == expected,
            TASK_INDEX: block[TASK_INDEX] == self.listed.task_index,
            TIMESTAMP: np.abs(block[TIMESTAMP] - time_s) <= _TOLERANCE_S + time_s * _FLOAT32_STEP,
        }
        for name, fit in fits.items():
            if not fit.all():
                row = int(np.flatnonzero(~fit)[0])
                wanted = {EPISODE_INDEX: self.listed.index, FRAME_INDEX: first + row,
                          TASK_INDEX: self.listed.task_index, TIMESTAMP: float(time_s[row, 0])}  # fmt: skip
                raise DatasetError(
                    f"{self._where}, row {first + row}: {name} is {block[name][row, 0]}, expected {wanted[name]:g} "
                    f"(fps {self.info.fps:g}, tolerance {_TOLERANCE_S:g} s)"
                )

    def _require_finite(self, block: Mapping[str, NDArray[Any]], key: str, first: int, hint: str = "") -> None:
        if key in block and len(bad := np.argwhere(~np.isfinite(block[key]))):
            row, element = bad[0]
            raise DatasetError(f"{self._where}, row {first + row}: {key} is not finite at element {element}{hint}")

    def _flags(self) -> dict[str, Any]:
        flags = [f for f in self.features.values() if f.key in FLAGS]
        found = {flag.key: self._flag(flag) for flag in flags}
        said: dict[str, Any] = {}
        if NEXT_SUCCESS in found:
            said = {"success": found[NEXT_SUCCESS], "outcome": "success" if found[NEXT_SUCCESS] else "failure"}
        return said | ({"termination": DONE if found[NEXT_DONE] else TRUNCATED} if NEXT_DONE in found else {})

    def _flag(self, feature: Feature) -> bool:
        row, last = 0, False
        for block in read_blocks(self.listed.data, [feature], self.listed.first_row, self.steps):
            values = block[feature.key].ravel()
            row += len(values)
            early = np.flatnonzero(values if row < self.steps else values[:-1])
            if len(early):
                at = row - len(values) + int(early[0])
                raise DatasetError(
                    f"{self._where}, row {at}: {feature.key} is true before the last row, which cannot be kept; "
                    f"leave it out with --leave-out {feature.key}"
                )
            last = bool(values[-1])
        return last

    @property
    def _where(self) -> str:
        return f"{self.listed.data}: {self.name}"


def _split(values: NDArray[Any], arrays: Sequence[ArraySpec]) -> Iterator[tuple[ArraySpec, NDArray[Any]]]:
    """Cut the elements of a feature, (N, *shape), into its streams."""
    flat, begin = values.reshape(len(values), -1), 0
    for array in arrays:
        part = flat[:, begin : begin + array.size]
        begin += array.size
        yield array, part.reshape(len(values), *array.shape).astype(array.dtype)


def _task(source: Path, episodes: Sequence[Listed]) -> str:
    prompts = {episode.prompt for episode in episodes}
    return prompts.pop() if len(prompts) == 1 else source.resolve().name


def _attributes(info: Info, features: Mapping[str, Feature], contract: Contract) -> dict[str, Any]:
    """Keep what the exporter needs to give names and types back; what was ours gets its names anew."""
    streams = {} if contract.is_ours else {
        f.stream: {"key": f.key, "dtype": f.dtype, "shape": list(f.shape), "names": f.names} for f in features.values()
    }  # fmt: skip
    return {"format": "lerobot", "version": info.version, "robot_type": info.robot_type, "streams": streams}


def _features(info: Info, config: ImportConfig) -> dict[str, Feature]:
    """Choose the features to import, each for a stream of its own."""
    for key in config.leave_out:
        if key not in info.features or key in (*BOOKKEEPING, ACTION):
            choices = [key for key in info.features if key not in (*BOOKKEEPING, ACTION)]
            raise DatasetError(f"--leave-out: {unknown('feature', key, choices)}")
    left_out = {*BOOKKEEPING, *config.leave_out}
    chosen = {
        key: feature
        for key, feature in info.features.items()
        if key not in left_out and not (config.without_cameras and feature.is_camera)
    }
    if ACTION not in chosen:
        raise DatasetError(f"{info.path}: has no feature '{ACTION}'")
    if not any(key not in STREAM_OF_KEY and key not in FLAGS for key in chosen):
        raise DatasetError(f"{info.path}: nothing but actions would be imported; it has {', '.join(info.features)}")
    for key, feature in chosen.items():
        _require_feature(info, feature, [other for other in chosen.values() if other.key != key])
    return chosen


def _require_feature(info: Info, feature: Feature, others: Sequence[Feature]) -> None:
    what, hint = f"{info.path}: feature {feature.key!r}", f"leave it out with --leave-out {feature.key}"
    if feature.dtype == "string":
        raise DatasetError(f"{what}: dtype 'string' cannot be stored; {hint}")
    if feature.is_camera and (len(feature.shape) != 3 or feature.shape[2] != 3):
        raise DatasetError(f"{what}: shape {feature.shape} is no colour picture (height, width, 3); {hint}")
    dim = info.features[ACTION].shape[0]
    shapes = {ACTION: (dim,), "complementary_info.action_requested": (dim,)}
    shapes |= {key: (1,) for key in (*STREAM_OF_KEY, *FLAGS) if key not in shapes}
    if feature.shape != shapes.get(feature.key, feature.shape) or (feature.key in shapes and feature.is_camera):
        raise DatasetError(f"{what}: {feature.dtype} {feature.shape}, expected numbers of shape {shapes[feature.key]}")
    if feature.key.startswith("next.") and feature.key not in (*STREAM_OF_KEY, *FLAGS):
        raise DatasetError(f"{what}: its meaning is not known, and it is no observation; {hint}")
    clash = [other.key for other in others if other.stream == feature.stream]
    if clash:
        raise DatasetError(f"{what}: would be stream '{feature.stream}', as {clash[0]!r} would; {hint}")
    if feature.key not in STREAM_OF_KEY and feature.stream in KEY_OF_STREAM:
        raise DatasetError(f"{what}: would be stream '{feature.stream}', which has a meaning of its own; {hint}")


def _selected(episodes: list[Listed], wanted: Sequence[int], info: Info) -> list[Listed]:
    absent = [index for index in wanted if not 0 <= index < len(episodes)]
    if absent or not episodes:
        raise DatasetError(f"{info.path}: has {len(episodes)} episodes, asked for {absent or 'all'}")
    return [episodes[index] for index in sorted(set(wanted))] if wanted else episodes


def _require_videos(episodes: Sequence[Listed], cameras: Sequence[str]) -> None:
    missing = {e.index: path for key in cameras for e in episodes if not (path := e.videos[key][0]).is_file()}
    if not missing:
        return
    have = [str(episode.index) for episode in episodes if episode.index not in missing]
    some = f"those that have it with --episodes {' '.join(have[:_SHOWN_MAX])}{' ...' * (len(have) > _SHOWN_MAX)}, or "
    raise DatasetError(
        f"{missing[min(missing)]}: there is no such video; {len(missing)} of {len(episodes)} episodes lack theirs. "
        f"Import {some if have else ''}all without pictures with --without-cameras"
    )


def _require_tables(info: Info, episodes: Sequence[Listed], features: Mapping[str, Feature]) -> None:
    columns = [f for f in features.values() if f.dtype != "video"]
    columns += [Feature(key, dtype, (1,)) for key, dtype in BOOKKEEPING.items()]
    for path, episode in {episode.data: episode for episode in episodes}.items():
        rows = require_columns(path, columns)
        if rows != episode.file_rows:
            said = f"the list of episodes says {episode.file_rows} (up to episode {episode.index})"
            raise DatasetError(f"{path}: has {rows} rows, {said}")


def _require_frames(info: Info, episodes: Sequence[Listed], feature: Feature) -> None:
    """Compare frame counts with the tables before anything is written, as far as the videos' headers tell."""
    wanted: dict[Path, int] = {}
    for episode in episodes:
        path = episode.videos[feature.key][0]
        wanted[path] = wanted.get(path, 0) + episode.length
    for path, rows in wanted.items():
        frames = _video(path, feature).require_readable()
        # In v3.0 a file may also hold episodes that are not imported.
        if frames and (frames < rows or (info.version == V21 and frames != rows)):
            raise DatasetError(f"{path}: has {frames} frames, the tables have {rows} rows for it")


def _video(path: Path, feature: Feature) -> VideoFile:
    return VideoFile(path, feature.shape[0], feature.shape[1])
