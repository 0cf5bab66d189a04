"""Export to robomimic's HDF5: `data/demo_k/{actions, rewards, dones, states, obs/*, next_obs/*}`, `mask/*`.

The streams are aligned at the stamps of the executed commands; `next_obs` is the observation one tick later, after the
last tick the newest there is. A dataset that was imported from this format gets its own keys, types, attributes and
filter keys back. Of any other, the observations go to `obs/` with `/` as `_`; where nobody gave rewards, the last step
of a success has 1, and the last step is `done`, because robomimic does not train without.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import h5py
import numpy as np
import tyro
from numpy.typing import NDArray

from armature.errors import DatasetError
from armature.spec import ArraySpec
from data_collection.converters.aligned_export import (
    AlignedEpisode,
    Incomplete,
    align,
    episodes_to_export,
    export_plan,
)
from data_collection.converters.export_draft import export_draft
from data_collection.converters.foreign_array import ForeignArray, Plan
from data_collection.converters.robomimic.robosuite import OscScaling, env_args_for, scaling_from
from data_collection.store import Dataset, Episode, open_dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD, TAKEOVER

_KEYS = {
    ACTION_EXECUTED: "actions",
    REWARD: "rewards",
    ACTION_REQUESTED: "action_requested",
    TAKEOVER: "control_takeover",
}
_METADATA = ("seed", "success", "outcome", "operator", "prompt", "termination")


@dataclass(frozen=True)
class ExportConfig:
    """Export a dataset as one HDF5 file for robomimic. An interrupted export begins anew: HDF5 has no commit."""

    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """The file to make, as demos.hdf5."""
    leave_out: tuple[str, ...] = ()
    """Streams not to export."""
    incomplete: Incomplete = "refuse"
    """Episodes of which only a verified beginning exists."""
    compression: Literal["none", "gzip"] = "none"
    """How images are packed."""
    env_args: str | None = None
    """JSON that tells robomimic which environment to roll out in; the source's own or the task's name if unset."""


@dataclass(frozen=True)
class _Job:
    dataset: Dataset
    plan: Plan
    source: Mapping[str, Any]
    """What the import from this format remembered; empty for any other dataset."""
    scaling: OscScaling | None
    compression: str
    env_args: str

    @property
    def generated(self) -> list[str]:
        """List what is made up for robomimic."""
        if self.source:
            return []
        return ["dones"] if REWARD in self.plan.arrays else ["dones", "rewards"]


def export(config: ExportConfig, on_episode: Callable[[int, int], None] = lambda *_: None) -> None:
    """Write the file; `on_episode(done, total)` follows. Raises DatasetError and leaves nothing behind."""
    dataset = open_dataset(config.dataset)
    episodes = episodes_to_export(dataset, config.incomplete)
    job = _job(config, dataset, episodes)
    names = _demo_names(job, episodes)
    with export_draft(config.target) as draft, h5py.File(draft, "w") as file:
        data = file.create_group("data")
        total = 0
        for count, (name, episode) in enumerate(zip(names, episodes, strict=True), start=1):
            total += _write_demo(job, data.create_group(name), episode)
            on_episode(count, len(episodes))
        _write_attributes(job, data, total)
        for key, demos in job.source.get("mask", {}).items():
            kept = [name for name in demos if name in names]
            file.create_dataset(f"mask/{key}", data=np.array(kept, dtype="S"))


def _job(config: ExportConfig, dataset: Dataset, episodes: list[Episode]) -> _Job:
    source = dataset.attributes.get("source", {})
    source = source if source.get("format") == "robomimic" and source.get("plan") else {}
    plan = export_plan(dataset, episodes, config.leave_out, source.get("plan", {}), _own_array)
    env_args = config.env_args or env_args_for(source.get("data_attributes", {}), dataset.task)
    scaling = scaling_from(source["tcp_delta"]) if source.get("tcp_delta") else None
    return _Job(dataset, plan, source, scaling, config.compression, env_args)


def _own_array(array: ArraySpec) -> ForeignArray:
    key = _KEYS.get(array.name, "obs/" + array.name.replace("/", "_"))
    shape = () if array.name == REWARD else array.shape
    return ForeignArray(key, np.dtype(array.dtype).str, shape)


def _demo_names(job: _Job, episodes: list[Episode]) -> list[str]:
    own = [str(episode.metadata.get("source_episode")) for episode in episodes]
    if job.source and len(set(own)) == len(own) and all(re.fullmatch(r"demo_[0-9]+", name) for name in own):
        return own
    return [f"demo_{i}" for i in range(len(episodes))]


def _write_demo(job: _Job, group: h5py.Group, episode: Episode) -> int:
    aligned = align(episode, tuple(job.plan.arrays))
    later: list[str] = []
    for name, foreign in job.plan.arrays.items():
        array = job.dataset.streams[name]
        _fill(job, group, foreign, array, aligned.steps, aligned.blocks(array))
        if foreign.key.startswith("obs/") and (not job.source or f"next_{foreign.key}" in job.source["next_obs"]):
            rows = aligned.next_rows(name, job.dataset.spec.action.period_ns)
            if rows[-1] != aligned.rows[name][-1]:
                later.append("next_" + foreign.key)
            moved = ForeignArray("next_" + foreign.key, foreign.dtype, foreign.shape, foreign.columns)
            _fill(job, group, moved, array, aligned.steps, aligned.blocks(array, rows))
    _write_ends(job, group, aligned)
    group.attrs.update(episode.metadata.get("source_attributes", {}) if job.source else {})
    if job.source and (packed := episode.metadata.get("model_file_zlib_base64")):
        group.attrs["model_file"] = zlib.decompress(base64.b64decode(packed)).decode()
    if not job.source:
        # For the import: which last rows of next_obs are samples of their own, and what robomimic has no place for.
        kept = {key: episode.metadata[key] for key in _METADATA if key in episode.metadata}
        group.attrs["armature"] = json.dumps({"later": later, "metadata": kept})
    group.attrs["num_samples"] = aligned.steps
    return aligned.steps


def _fill(
    job: _Job, group: h5py.Group, foreign: ForeignArray, array: ArraySpec, steps: int, blocks: Iterator[NDArray[Any]]
) -> None:
    is_packed = array.is_image and job.compression == "gzip"
    packing: dict[str, Any] = {"chunks": (1, *foreign.shape), "compression": "gzip"} if is_packed else {}
    out = group.create_dataset(foreign.key, (steps, *foreign.shape), np.dtype(foreign.dtype), **packing)
    row = 0
    for values in blocks:
        if array.name == ACTION_EXECUTED and job.scaling is not None:
            values = job.scaling.to_inputs(values)
        if array.name == REWARD:
            values = np.nan_to_num(values, nan=0.0)
        out[row : row + len(values)] = foreign.from_stream(values, array, f"{group.name}/{foreign.key}")
        row += len(values)


def _write_ends(job: _Job, group: h5py.Group, aligned: AlignedEpisode) -> None:
    """Write `dones`, and `rewards` where nobody gave any."""
    metadata = aligned.episode.metadata
    if not job.source or job.source.get("dones"):
        dones = np.zeros(aligned.steps, job.source.get("dones", "<i8"))
        dones[_done_steps(aligned)] = 1
        group.create_dataset("dones", data=dones)
    if "rewards" in job.generated:
        rewards = np.zeros(aligned.steps)
        rewards[-1] = float(metadata.get("success") is True)
        group.create_dataset("rewards", data=rewards)


def _done_steps(aligned: AlignedEpisode) -> list[int]:
    """Return the steps that are `done`: those the source had, of a beginning those within it; else the last one."""
    episode = aligned.episode
    steps = episode.metadata.get("done_steps", [-1])
    beyond = [step for step in steps if step >= aligned.steps]
    if beyond and episode.is_complete:
        has = f"it has {aligned.steps} steps"
        raise DatasetError(f"{episode.dataset}: episode {episode.index}: done_steps names step {beyond[0]}, {has}")
    return [step for step in steps if step < aligned.steps]


def _write_attributes(job: _Job, data: h5py.Group, total: int) -> None:
    data.attrs.update(job.source.get("data_attributes", {}))
    data.attrs["env_args"] = job.env_args
    data.attrs["total"] = total
    if not job.source:
        # With it the import gives back the same dataset; robomimic does not look at it.
        data.attrs["armature"] = json.dumps({"plan": job.plan.to_json(), "generated": job.generated})
