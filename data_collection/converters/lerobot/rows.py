"""An episode of ours as rows of a LeRobotDataset: which columns there are, and what stands in row k."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import DatasetError, unknown
from armature.spec import ArraySpec
from data_collection.converters.aligned_export import align
from data_collection.converters.lerobot.layout import (
    ACTION,
    CAMERA_PREFIX,
    FLAGS,
    IMAGES_PREFIX,
    KEY_OF_STREAM,
    NEXT_DONE,
    NEXT_SUCCESS,
    OBSERVATION_PREFIX,
    TRUNCATED,
    Feature,
)
from data_collection.store import Dataset, Episode
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD, TAKEOVER, stream_specs

STATE = "observation.state"


@dataclass(frozen=True)
class Column:
    """A feature and the streams whose elements, end to end, make it; none for the flags of the last row."""

    feature: Feature
    streams: tuple[str, ...]


def columns_of(dataset: Dataset, episodes: Sequence[Episode], leave_out: Sequence[str], join: bool) -> list[Column]:
    """Choose the columns: what was imported from LeRobot gets its names back, all else LeRobot's usual ones."""
    choices = [name for name in dataset.streams if name != ACTION_EXECUTED]
    for name in set(leave_out) - set(choices):
        raise DatasetError(f"--leave-out: {unknown('stream', name, choices)}")
    kept = names_kept(dataset)
    observed = [array for array in dataset.spec.observation if array.name not in leave_out]
    vectors = [array for array in observed if not array.is_image]
    if join and vectors and not any(array.name in kept for array in vectors):
        # All of them where the first one stands.
        columns = [_joined(vectors) if a is vectors[0] else _column(a, kept) for a in observed if a not in vectors[1:]]
    else:
        columns = [_column(array, kept) for array in observed]
    spoken = [
        s for s in (TAKEOVER, ACTION_REQUESTED, REWARD) if s not in leave_out and any(e.length(s) for e in episodes)
    ]
    columns += [_special(dataset, stream, kept) for stream in (ACTION_EXECUTED, *spoken)]
    _require_samples(episodes, [stream for column in columns for stream in column.streams])
    flags = [Column(Feature(key, "bool", (1,)), ()) for key in _flags(episodes, kept)]
    _require_distinct([*columns, *flags])
    return [*columns, *flags]


class Rows:
    """The rows of one episode, aligned at its commands: of every stream the newest sample not after each."""

    def __init__(self, episode: Episode, columns: Sequence[Column]) -> None:
        """Find out which sample stands in which row; raises DatasetError where a stream was silent for too long."""
        self._arrays = stream_specs(episode.spec)
        self._metadata = episode.metadata
        streams = tuple(dict.fromkeys(stream for column in columns for stream in column.streams))
        self._aligned = align(episode, streams)
        self.length = self._aligned.steps

    def values(self, column: Column) -> NDArray[Any]:
        """Return a column of numbers, (N, *shape)."""
        feature = column.feature
        if feature.key in FLAGS:
            return np.arange(self.length)[:, None] == (self.length - 1 if self._flag(feature.key) else -1)
        parts = [np.concatenate(list(self._aligned.blocks(self._arrays[s]))) for s in column.streams]
        joined = np.concatenate([part.reshape(self.length, -1) for part in parts], axis=1)
        return joined.astype(feature.dtype).reshape(self.length, *feature.shape)

    def pictures(self, column: Column) -> Iterator[NDArray[np.uint8]]:
        """Yield a camera's picture of every row, with a few MiB in memory at a time."""
        for block in self._aligned.blocks(self._arrays[column.streams[0]]):
            yield from block

    def _flag(self, key: str) -> bool:
        if key == NEXT_SUCCESS:
            return self._metadata.get("success") is True
        return self._metadata.get("termination") != TRUNCATED


def names_kept(dataset: Dataset) -> Mapping[str, Mapping[str, Any]]:
    """Return what an import from LeRobot said of each stream: key, dtype, shape, names."""
    source = dataset.attributes.get("source")
    return source["streams"] if isinstance(source, Mapping) and source.get("format") == "lerobot" else {}


def _column(array: ArraySpec, kept: Mapping[str, Mapping[str, Any]]) -> Column:
    if array.is_image:
        key = IMAGES_PREFIX + array.name.removeprefix(CAMERA_PREFIX).replace("/", "_")
        names, dtype = ["height", "width", "channels"], "video"
    else:
        key = OBSERVATION_PREFIX + array.name.replace("/", ".")
        names, dtype = list(array.labels) or None, array.dtype
    said = kept.get(array.name, {})
    return Column(Feature(said.get("key", key), dtype, array.shape or (1,), said.get("names", names)), (array.name,))


def _joined(vectors: Sequence[ArraySpec]) -> Column:
    labels = [label for a in vectors for label in (a.labels or [f"{a.name}_{i}" for i in range(a.size)])]
    dtype = np.result_type(*(array.dtype for array in vectors)).name
    return Column(Feature(STATE, dtype, (len(labels),), labels), tuple(array.name for array in vectors))


def _special(dataset: Dataset, stream: str, kept: Mapping[str, Mapping[str, Any]]) -> Column:
    action = dataset.spec.action
    said = kept.get(stream, {})
    if stream in (ACTION_EXECUTED, ACTION_REQUESTED):
        dtype = np.result_type(*(array.dtype for array in action.arrays)).name
        usual: dict[str, Any] = {"dtype": dtype, "shape": [action.dim], "names": list(action.labels)}
    else:
        usual = {"dtype": "bool" if stream == TAKEOVER else "float64", "shape": [1], "names": None}
    said = usual | said
    return Column(Feature(KEY_OF_STREAM[stream], said["dtype"], tuple(said["shape"]), said["names"]), (stream,))


def _flags(episodes: Sequence[Episode], kept: Mapping[str, Mapping[str, Any]]) -> list[str]:
    keys = [said["key"] for said in kept.values() if said["key"] in FLAGS]
    if kept:
        return keys
    judged = all(isinstance(episode.metadata.get("success"), bool) for episode in episodes)
    return [NEXT_DONE, NEXT_SUCCESS] if judged else [NEXT_DONE]


def _require_samples(episodes: Sequence[Episode], streams: Sequence[str]) -> None:
    for stream in streams:
        empty = [str(episode.index) for episode in episodes if episode.length(stream) == 0]
        if empty:
            hint = "" if stream == ACTION_EXECUTED else f"; leave it out with --leave-out {stream}"
            raise DatasetError(
                f"{episodes[0].dataset}: stream {stream} is empty in {len(empty)} of {len(episodes)} episodes "
                f"({', '.join(empty[:20])}), and LeRobot needs every feature in all{hint}"
            )


def _require_distinct(columns: Sequence[Column]) -> None:
    keys = [column.feature.key for column in columns]
    for key in keys:
        if keys.count(key) > 1 or "/" in key:
            raise DatasetError(f"the feature name '{key}' would be given twice or holds a '/', which LeRobot refuses")
    if ACTION not in keys or len(columns) < 2:
        raise DatasetError("nothing but actions would be exported")
