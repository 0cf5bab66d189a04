"""Import of robomimic's and robosuite's HDF5 files: `data/demo_k/{actions, states, rewards, dones, obs/*, next_obs/*}`.

Demonstrations are imported in the order of their numbers, whatever numbers are missing. `next_obs` has to be `obs` one
step later, as robomimic writes it; only its last row is kept, as one more sample of the observation.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import h5py
import numpy as np
import tyro
from numpy.typing import NDArray

from armature.errors import DatasetError
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
from data_collection.converters.robomimic.hdf5_reader import (
    attributes_of,
    datasets,
    member_group,
    members,
    open_hdf5,
    read_blocks,
    read_names,
)
from data_collection.converters.robomimic.robosuite import RATE_HZ, OscScaling, Simulator, osc_scaling, simulator_of
from data_collection.converters.source import Block, Source
from data_collection.streams import ACTION_EXECUTED, stream_specs

_DEMO = re.compile(r"demo_(0|[1-9][0-9]{0,8})")
_OBS, _NEXT_OBS = "obs/", "next_obs/"
_CALCULATED = ("total", "num_samples", "armature", "model_file")
Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Sample shape and dtype by key."""


@dataclass(frozen=True)
class ImportConfig:
    """Import demonstrations of robomimic or robosuite from an HDF5 file."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """The file, as low_dim.hdf5 or demo.hdf5."""
    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Where the new dataset is made."""
    action: Literal["raw", "tcp_delta"] = "raw"
    """raw: the controller's inputs, unchanged. tcp_delta: displacements [m, rad] and gripper opening [m] of a Panda."""
    robot: str | None = None
    """The robot's name; what the file says if unset."""
    task: str | None = None
    """The task's name; the environment's if unset."""
    rate_hz: float | None = None
    """Steps per second; what the file says if unset, else 20."""
    float_images: FloatImages = "uint8"
    """Float arrays that look like images: store them as bytes, where every value is one, or keep the floats."""


@dataclass(frozen=True)
class Demo:
    """One demonstration."""

    name: str
    steps: int
    path: Path
    plan: Plan
    scaling: OscScaling | None
    next_keys: frozenset[str]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return what the file says of it: attributes, the steps that are `done`, success where a reward is."""
        with open_hdf5(self.path) as file:
            group = file["data"][self.name]
            what = self._what
            attributes = attributes_of(group, what)
            if "armature" in attributes:
                return _own_demo(attributes["armature"], what)[1]
            metadata = {"source_attributes": {k: v for k, v in attributes.items() if k not in _CALCULATED}}
            if "model_file" in attributes:
                metadata["model_file_zlib_base64"] = _packed(str(attributes["model_file"]))
            if "dones" in group:
                metadata["done_steps"] = _done_steps(group["dones"], f"{what}/dones")
            if "rewards" in group and _is_success(group["rewards"], f"{what}/rewards"):
                metadata |= {"success": True, "outcome": "success"}
            return metadata

    def blocks(self) -> Iterator[Block]:
        """Read the demonstration stream by stream."""
        streams = stream_specs(self.plan.spec)
        with open_hdf5(self.path) as file:
            group = file["data"][self.name]
            for name, foreign in self.plan.arrays.items():
                what = f"{self._what}/{foreign.key}"
                for row, values in self._raw(group, foreign.key):
                    stamps_ns = even_stamps_ns(row, len(values), self.plan.spec.action.rate_hz)
                    values = require_finite(name, foreign.to_stream(values, streams[name], what), what)
                    yield name, stamps_ns, stamps_ns, self._action(values) if name == ACTION_EXECUTED else values

    @property
    def _what(self) -> str:
        return f"{self.path}: data/{self.name}"

    def _raw(self, group: h5py.Group, key: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read an array, and after the last row of an observation the one that `next_obs` has to add."""
        next_key = _NEXT_OBS + key.removeprefix(_OBS)
        if not key.startswith(_OBS) or next_key not in self.next_keys:
            yield from read_blocks(group[key], f"{self._what}/{key}")
            return
        later = group[next_key]
        for row, values in read_blocks(group[key], f"{self._what}/{key}"):
            _require_shifted(values, later, row, f"{self._what}/{next_key}")
            yield row, values
        attributes = attributes_of(group, self._what)
        if "armature" not in attributes or next_key in _own_demo(attributes["armature"], self._what)[0]:
            yield self.steps, later[self.steps - 1 :]

    def _action(self, actions: NDArray[np.float64]) -> NDArray[np.float64]:
        return actions if self.scaling is None else self.scaling.to_physical(actions)


def open_source(config: ImportConfig) -> Source:
    """Open and check a file; raise DatasetError naming file, field and value."""
    path = config.source
    with open_hdf5(path) as file:
        if others := sorted(set(members(file, str(path))) - {"data", "mask"}):
            raise DatasetError(f"{path}: {', '.join(others)} beside data and mask is not known and would be lost")
        data = member_group(file, "data", str(path))
        attributes = attributes_of(data, f"{path}: data")
        lengths, layout = _demos(data, attributes, str(path))
        mask = _mask(file, lengths, str(path))
    simulator = simulator_of(attributes, f"{path}: data")
    plan, generated, scaling = _plan(config, attributes, layout, simulator)
    check_plan(plan, layout, str(path))
    kept = {key: value for key, value in attributes.items() if key not in _CALCULATED}
    next_keys = frozenset(key for key in layout if key.startswith(_NEXT_OBS))
    source = {
        "format": "robomimic", "path": path.name, "data_attributes": kept, "mask": mask,
        "plan": None if "armature" in attributes else plan.to_json()["arrays"],
        "next_obs": sorted(next_keys),
        "dones": layout["dones"][1].str if "dones" in layout and "dones" not in generated else None,
        "tcp_delta": None if scaling is None else scaling.to_json(),
    }  # fmt: skip
    demos = [Demo(name, steps, path, plan, scaling, next_keys) for name, steps in lengths.items()]
    return Source(path, plan.task, plan.spec, demos, source)


def _demos(data: h5py.Group, attributes: Mapping[str, Any], path: str) -> tuple[dict[str, int], Layout]:
    """Return the length of each demonstration, in the order of their numbers, and the layout that all have."""
    groups = members(data, f"{path}: data")
    if wrong := [name for name in groups if not _DEMO.fullmatch(name) or not isinstance(groups[name], h5py.Group)]:
        raise DatasetError(f"{path}: data/{wrong[0]}: expected groups demo_0, demo_1, ...")
    lengths: dict[str, int] = {}
    layout: Layout = {}
    for name in sorted(groups, key=lambda name: int(name.removeprefix("demo_"))):
        found, lengths[name] = _demo_layout(groups[name], f"{path}: data/{name}")
        layout = layout or found
        _require_same(layout, found, f"{path}: data/{name}")
    if not lengths:
        raise DatasetError(f"{path}: data has no demonstrations")
    total = attributes.get("total")
    if total is not None and total != sum(lengths.values()):
        raise DatasetError(f"{path}: data: total is {total}, the demonstrations have {sum(lengths.values())} steps")
    return lengths, layout


def _demo_layout(group: h5py.Group, what: str) -> tuple[Layout, int]:
    found = dict(datasets(group, what))
    if "actions" not in found:
        raise DatasetError(f"{what}: there are no actions; it holds {', '.join(found) or 'nothing'}")
    steps = len(found["actions"])
    if steps == 0:
        raise DatasetError(f"{what}: is empty")
    for key, dataset in found.items():
        if len(dataset) != steps:
            raise DatasetError(f"{what}/{key}: has {len(dataset)} rows, actions has {steps}")
        other = found.get(_OBS + key.removeprefix(_NEXT_OBS))
        if key.startswith(_NEXT_OBS) and (
            other is None or (other.shape, other.dtype) != (dataset.shape, dataset.dtype)
        ):
            raise DatasetError(f"{what}/{key}: there is no such array in obs")
    claimed = attributes_of(group, what).get("num_samples", steps)
    if claimed != steps:
        raise DatasetError(f"{what}: num_samples is {claimed}, actions has {steps} rows")
    return {key: (dataset.shape[1:], dataset.dtype) for key, dataset in found.items()}, steps


def _require_same(first: Layout, found: Layout, what: str) -> None:
    for key in sorted(first.keys() | found.keys()):
        if first.get(key) != found.get(key):
            texts = [f"{a[1]} {a[0]}" if (a := layout.get(key)) else "nothing" for layout in (found, first)]
            raise DatasetError(f"{what}/{key}: is {texts[0]}, in the first demonstration {texts[1]}")


def _plan(
    config: ImportConfig, attributes: Mapping[str, Any], layout: Layout, simulator: Simulator
) -> tuple[Plan, list[str], OscScaling | None]:
    if "armature" in attributes:
        return *_own_plan(attributes["armature"], f"{config.source}: attribute 'armature'"), None
    what = f"{config.source}: data"
    rate_hz = require_rate(simulator.control_hz or RATE_HZ if config.rate_hz is None else config.rate_hz)
    shape = layout["actions"][0]
    scaling = osc_scaling(simulator, *shape, what) if config.action == "tcp_delta" and len(shape) == 1 else None
    action = scaling.action_spec(rate_hz) if scaling else plain_action("controller_input", shape, rate_hz, what)
    # What is left out here is kept otherwise: `dones` in the metadata, the last row of `next_obs` with `obs`.
    offered = {key: value for key, value in layout.items() if key != "dones" and not key.startswith(_NEXT_OBS)}
    robot = config.robot or "_".join(simulator.robots).lower() or "unknown"
    plan = plain_plan(
        robot, config.task or simulator.env_name.lower() or config.source.stem, offered, action,
        action_key="actions", reward_key="rewards", float_images=config.float_images, what=what,
    )  # fmt: skip
    return plan, [], scaling


def _own_plan(text: Any, what: str) -> tuple[Plan, list[str]]:
    try:
        data = json.loads(text)
        return Plan.from_json(data["plan"], what), [str(name) for name in data["generated"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DatasetError(f"{what}: is malformed: {error!r}") from error


def _own_demo(text: Any, what: str) -> tuple[list[str], dict[str, Any]]:
    """Return what an export of ours noted: the arrays of next_obs whose last row is a sample of its own, metadata."""
    try:
        data = json.loads(text)
        return list(data["later"]), dict(data["metadata"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DatasetError(f"{what}: attribute 'armature': is malformed: {error!r}") from error


def _mask(file: h5py.File, lengths: Mapping[str, int], path: str) -> dict[str, list[str]]:
    """Read the filter keys: lists of demonstrations."""
    if "mask" not in file:
        return {}
    group = member_group(file, "mask", path)
    mask: dict[str, list[str]] = {}
    for name, dataset in members(group, f"{path}: mask").items():
        if not isinstance(dataset, h5py.Dataset):
            raise DatasetError(f"{path}: mask/{name}: is a group, expected a list of names")
        mask[name] = read_names(dataset, f"{path}: mask/{name}")
        if strange := [demo for demo in mask[name] if demo not in lengths]:
            raise DatasetError(f"{path}: mask/{name}: {strange[0]!r} is no demonstration of this file")
    return mask


def _done_steps(dones: h5py.Dataset, what: str) -> list[int]:
    steps: list[int] = []
    for row, values in read_blocks(dones, what):
        if values.ndim != 1 or not np.isin(values, (0, 1)).all():
            raise DatasetError(f"{what}: expected one 0 or 1 per step")
        steps += (row + np.flatnonzero(values)).tolist()
    return steps


def _is_success(rewards: h5py.Dataset, what: str) -> bool:
    """Tell whether rewards are 0 or 1, and any is 1. Others do not tell; all 0 may mean that nobody gave any."""
    blocks = [(bool(np.isin(v, (0, 1)).all()), bool((v == 1).any())) for _, v in read_blocks(rewards, what)]
    return all(is_sparse for is_sparse, _ in blocks) and any(has_one for _, has_one in blocks)


def _require_shifted(values: NDArray[Any], later: h5py.Dataset, row: int, what: str) -> None:
    count = len(values) - 1
    if count and not np.array_equal(later[row : row + count].tobytes(), values[1:].tobytes()):
        raise DatasetError(f"{what}: rows from {row} are not those of obs one step later")


def _packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()
