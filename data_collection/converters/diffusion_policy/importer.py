"""Import of diffusion_policy's replay buffers: Zarr v2 folders with `data/*` and `meta/episode_ends`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from armature.errors import DatasetError, unknown
from data_collection.converters.diffusion_policy.zarr_v2 import (
    StoredArray,
    list_arrays,
    open_array,
    read_attributes,
    require_contained,
)
from data_collection.converters.foreign_array import (
    FloatImages,
    Plan,
    check_plan,
    even_stamps_ns,
    plain_action,
    plain_plan,
    require_finite,
    require_rate,
)
from data_collection.converters.mapping import load_mapping, mapped_plan
from data_collection.converters.source import Block, Source
from data_collection.streams import stream_specs

EPISODE_ENDS = "episode_ends"
_EPISODES_MAX = 10_000_000


@dataclass(frozen=True)
class ImportConfig:
    """Import a replay buffer of diffusion_policy (a Zarr v2 folder; unpack a .zarr.zip first)."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """The folder, as pusht_cchi_v7_replay.zarr."""
    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Where the new dataset is made."""
    mapping: str | None = None
    """What the arrays are: a YAML file, or the name of a shipped one (pusht). Without it all are kept as they are."""
    robot: str = "pusht"
    """The robot's name, without --mapping."""
    task: str = "pusht"
    """The task's name, without --mapping."""
    rate_hz: float = 10.0
    """Steps per second, which the format does not say, without --mapping."""
    action_key: str = "action"
    """The array of the actions, without --mapping."""
    action_kind: Literal["controller_input", "planar_position"] = "controller_input"
    """What the actions are, without --mapping."""
    float_images: FloatImages = "uint8"
    """Float arrays that look like images: store them as bytes, where every value is one, or keep the floats."""


@dataclass(frozen=True)
class BufferEpisode:
    """Rows start..stop of every array."""

    name: str
    start: int
    stop: int
    arrays: Mapping[str, StoredArray]
    plan: Plan

    @property
    def steps(self) -> int:
        """Count the actions."""
        return self.stop - self.start

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return nothing: the format says nothing about an episode."""
        return {}

    def blocks(self) -> Iterator[Block]:
        """Read the episode stream by stream."""
        streams = stream_specs(self.plan.spec)
        for name, foreign in self.plan.arrays.items():
            stored = self.arrays[foreign.key]
            for row, values in stored.blocks(self.start, self.stop):
                what = f"{stored.what}: {self.name}, rows from {row}"
                stamps_ns = even_stamps_ns(row - self.start, len(values), self.plan.spec.action.rate_hz)
                # The same name: a block of float images is let go before the next one is read.
                values = foreign.to_stream(values, streams[name], what)
                yield name, stamps_ns, stamps_ns, require_finite(name, values, what)


def open_source(config: ImportConfig) -> Source:
    """Open and check a replay buffer; raise DatasetError naming file, field and value."""
    root = config.source
    if not (root / ".zgroup").is_file():
        raise DatasetError(f"{root}: is no Zarr v2 folder, it has no .zgroup")
    require_contained(root)
    arrays = {key: open_array(root, f"data/{key}") for key in list_arrays(root, "data")}
    ends = _episode_ends(root, arrays)
    for stored in arrays.values():
        stored.check_chunks_exist()
    plan = _plan(config, arrays)
    check_plan(plan, _offered(arrays), str(root))
    starts = [0, *ends[:-1]]
    episodes = [
        BufferEpisode(f"episode_{i}", int(start), int(stop), arrays, plan)
        for i, (start, stop) in enumerate(zip(starts, ends, strict=True))
    ]
    kept = "plan" if config.mapping is None else "mapped"
    attributes = {"format": "diffusion_policy", "path": root.name, kept: plan.to_json()["arrays"]}
    return Source(root, plan.task, plan.spec, episodes, attributes)


def _plan(config: ImportConfig, arrays: Mapping[str, StoredArray]) -> Plan:
    offered = _offered(arrays)
    if config.mapping is not None:
        return mapped_plan(load_mapping(config.mapping), offered)
    ours = read_attributes(config.source).get("armature")
    if ours is not None:
        return Plan.from_json(ours, f"{config.source}: attribute 'armature'")
    if config.action_key not in offered:
        raise DatasetError(f"{config.source}: {unknown('action array', config.action_key, offered)}")
    what = f"{config.source}/data/{config.action_key}"
    action = plain_action(config.action_kind, offered[config.action_key][0], require_rate(config.rate_hz), what)
    return plain_plan(
        config.robot, config.task, offered, action, action_key=config.action_key, reward_key="reward",
        float_images=config.float_images, what=str(config.source),
    )  # fmt: skip


def _offered(arrays: Mapping[str, StoredArray]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {key: (stored.shape[1:], stored.dtype) for key, stored in arrays.items()}


def _episode_ends(root: Path, arrays: Mapping[str, StoredArray]) -> NDArray[np.int64]:
    """Read where the episodes end; raise DatasetError unless they fill the arrays in rising order."""
    others = [key for key in list_arrays(root, "meta") if key != EPISODE_ENDS]
    if others:
        raise DatasetError(f"{root}/meta: arrays {', '.join(others)} are not known and would be lost; remove them")
    stored = open_array(root, f"meta/{EPISODE_ENDS}")
    what = stored.what
    if len(stored.shape) != 1 or stored.dtype.kind not in "iu" or not 0 < len(stored) <= _EPISODES_MAX:
        raise DatasetError(f"{what}: is {stored.dtype} {stored.shape}, expected integers (1 to {_EPISODES_MAX},)")
    stored.check_chunks_exist()
    ends = stored.read_all().astype(np.int64)
    if len(wrong := np.flatnonzero(np.diff(ends, prepend=0) <= 0)):
        raise DatasetError(f"{what}: element {wrong[0]} is {ends[wrong[0]]}: the ends must rise")
    for array in arrays.values():
        if len(array) != ends[-1]:
            raise DatasetError(f"{what}: the last episode ends at {ends[-1]}, {array.what} has {len(array)} rows")
    return ends
