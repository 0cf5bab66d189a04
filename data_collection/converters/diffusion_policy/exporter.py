"""Export to diffusion_policy's replay buffer: Zarr v2, `data/*` end to end and `meta/episode_ends`.

The streams are aligned at the stamps of the executed commands. A dataset that was imported whole from this format gets
its own keys, shapes and types back; any other is written under the streams' names with `/` as `_`, its actions as
`action`. The root's attribute `armature` keeps the robot's spec, so that importing it again restores the dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numcodecs
import numpy as np
import tyro
import zarr
from numpy.typing import NDArray

from armature.spec import ArraySpec
from data_collection.converters.aligned_export import AlignedEpisode, Incomplete, align, episodes_to_export, export_plan
from data_collection.converters.export_draft import export_draft
from data_collection.converters.foreign_array import ForeignArray, Plan
from data_collection.store import Dataset, Episode, open_dataset
from data_collection.streams import ACTION_EXECUTED, REWARD

_CHUNK_BYTES = 2 << 20
_CHUNK_ROWS_MAX = 1024


@dataclass(frozen=True)
class ExportConfig:
    """Export a dataset as a replay buffer of diffusion_policy. An interrupted export begins anew."""

    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """The folder to make, as demos.zarr."""
    leave_out: tuple[str, ...] = ()
    """Streams not to export."""
    incomplete: Incomplete = "refuse"
    """Episodes of which only a verified beginning exists."""


def export(config: ExportConfig, on_episode: Callable[[int, int], None] = lambda *_: None) -> None:
    """Write the replay buffer; `on_episode(done, total)` follows. Raises DatasetError and leaves nothing behind."""
    dataset = open_dataset(config.dataset)
    episodes = episodes_to_export(dataset, config.incomplete)
    source = dataset.attributes.get("source", {})
    own = (source.get("plan") or {}) if source.get("format") == "diffusion_policy" else {}
    plan = export_plan(dataset, episodes, config.leave_out, own, _own_array)
    with export_draft(config.target) as draft:
        _write(dataset, episodes, plan, draft, on_episode)


def _own_array(array: ArraySpec) -> ForeignArray:
    key = "action" if array.name == ACTION_EXECUTED else array.name.replace("/", "_")
    return ForeignArray(key, np.dtype(array.dtype).str, array.shape)


def _write(
    dataset: Dataset, episodes: list[Episode], plan: Plan, draft: Path, on_episode: Callable[[int, int], None]
) -> None:
    # Aligned twice, once only to count: the row numbers of all episodes together could be large.
    ends = np.cumsum([align(episode, tuple(plan.arrays)).steps for episode in episodes], dtype=np.int64)
    root = zarr.open_group(draft, mode="w", zarr_format=2, attributes={"armature": plan.to_json()})
    data, meta = root.create_group("data"), root.create_group("meta")
    columns = [_Column(data, plan.arrays[name], dataset.streams[name], int(ends[-1])) for name in plan.arrays]
    for count, episode in enumerate(episodes, start=1):
        aligned = align(episode, tuple(plan.arrays))
        for column in columns:
            column.add(aligned)
        on_episode(count, len(episodes))
    for column in columns:
        column.flush()
    _create(meta, "episode_ends", ends.shape, ends.dtype, len(ends))[:] = ends


class _Column:
    """One array being written in whole chunks."""

    def __init__(self, group: zarr.Group, foreign: ForeignArray, array: ArraySpec, length: int) -> None:
        dtype = np.dtype(foreign.dtype)
        rows = _CHUNK_BYTES // max(1, int(np.prod(foreign.shape)) * dtype.itemsize)
        rows = max(1, min(rows, _CHUNK_ROWS_MAX, length))
        self._foreign, self._array = foreign, array
        self._stored = _create(group, foreign.key, (length, *foreign.shape), dtype, rows)
        self._buffer = np.empty((rows, *foreign.shape), dtype)
        self._filled = 0
        self._written = 0

    def add(self, episode: AlignedEpisode) -> None:
        what = f"{episode.episode.dataset}: episode {episode.episode.index}: {self._array.name}"
        for values in episode.blocks(self._array):
            if self._array.name == REWARD:  # of an episode that has none, where others have some
                values = np.nan_to_num(values, nan=0.0)
            self._put(self._foreign.from_stream(values, self._array, what))

    def flush(self) -> None:
        self._stored[self._written : self._written + self._filled] = self._buffer[: self._filled]
        self._written += self._filled
        self._filled = 0

    def _put(self, values: NDArray[Any]) -> None:
        while len(values):
            count = min(len(self._buffer) - self._filled, len(values))
            self._buffer[self._filled : self._filled + count] = values[:count]
            self._filled += count
            values = values[count:]
            if self._filled == len(self._buffer):
                self.flush()


def _create(group: zarr.Group, key: str, shape: tuple[int, ...], dtype: np.dtype[Any], rows: int) -> Any:
    # Chunks of zeros are written too: whoever reads the store can then tell a lost chunk from a dark image.
    return group.create_array(
        key, shape=shape, dtype=dtype, chunks=(rows, *shape[1:]), filters=None, fill_value=0,
        compressors=numcodecs.Blosc(cname="zstd", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE),
        config={"write_empty_chunks": True},
    )  # fmt: skip
