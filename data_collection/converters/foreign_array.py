"""How an array of a foreign dataset becomes a stream and, on export, the same array again, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from armature.config import from_plain, to_plain
from armature.errors import ConfigError, DatasetError
from armature.spec import AGENT_POSITION, ActionKind, ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.converters.source import require_plausible, stream_name
from data_collection.streams import ACTION_EXECUTED, REWARD, stream_specs

FloatImages = Literal["uint8", "keep"]
CONTROLLER_INPUT = "controller/input"
_CAST_BYTES = 1 << 20
_IMAGE_EDGE_MIN = 16
"""A float array (N, H, W, 3) with a shorter edge is taken for numbers, not for an image."""


@dataclass(frozen=True)
class ForeignArray:
    """One array of a foreign dataset, and which part of it a stream holds."""

    key: str
    dtype: str
    """NumPy's notation with the byte order, as `<f4`."""
    shape: tuple[int, ...]
    """Of one sample."""
    columns: tuple[int, ...] | None = None
    """The elements that make the stream; all of them if None."""

    def to_stream(self, values: NDArray[Any], array: ArraySpec, what: str) -> NDArray[Any]:
        """Convert samples (N, *self.shape) to what `array` says; raise DatasetError where that would change a value."""
        if self.columns is not None:
            values = values[:, list(self.columns)]
        elif self._is_channels_first(array):
            values = values.transpose(0, 2, 3, 1)
        return exact_cast(values.reshape(len(values), *array.shape), array.dtype, what)

    def from_stream(self, values: NDArray[Any], array: ArraySpec, what: str) -> NDArray[Any]:
        """Undo `to_stream`."""
        if self.columns is None and self._is_channels_first(array):
            values = values.transpose(0, 3, 1, 2)
        return exact_cast(values.reshape(len(values), *self.shape), self.dtype, what)

    def _is_channels_first(self, array: ArraySpec) -> bool:
        return array.is_image and self.shape != array.shape


@dataclass(frozen=True)
class Plan:
    """Which foreign array each stream of a robot is made of."""

    spec: RobotSpec
    task: str
    arrays: Mapping[str, ForeignArray]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; inverse of `from_json`."""
        arrays = {name: to_plain(array) for name, array in self.arrays.items()}
        return {"spec": self.spec.to_json(), "task": self.task, "arrays": arrays}

    @classmethod
    def from_json(cls, data: Any, what: str) -> Plan:
        """Rebuild a plan; raise DatasetError naming `what` where it is malformed."""
        try:
            plan = from_plain(cls, data)
            for part in (plan.spec.action, plan.spec.observation):
                require_rate(part.rate_hz)
        except (ConfigError, DatasetError) as error:
            raise DatasetError(f"{what}: {error}") from error
        for name, array in plan.arrays.items():
            require_plausible(f"{what}: {name}", array.shape, _dtype(array.dtype, f"{what}: {name}"))
        return plan


def check_plan(plan: Plan, offered: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], what: str) -> None:
    """Raise DatasetError naming `what` unless every stream of `plan` can be made of the arrays `offered` (sample shape,
    dtype), by key."""
    streams = stream_specs(plan.spec)
    needed = [*plan.spec.observation.names, ACTION_EXECUTED]
    if missing := [name for name in needed if name not in plan.arrays]:
        raise DatasetError(f"{what}: nothing is said to make stream {', '.join(missing)}")
    if inside := [name for name in streams for other in streams if name.startswith(f"{other}/")]:
        raise DatasetError(f"{what}: stream {inside[0]} would lie in the folder of another; map it to another name")
    for name, array in plan.arrays.items():
        if name not in streams:
            raise DatasetError(f"{what}: stream {name} is none of the robot's: {', '.join(streams)}")
        if array.key not in offered:
            raise DatasetError(f"{what}: stream {name} needs array {array.key!r}; there are {', '.join(offered)}")
        shape, dtype = offered[array.key]
        if (array.shape, np.dtype(array.dtype)) != (shape, dtype):
            raise DatasetError(f"{what}: {array.key} is {dtype} {shape}, expected {array.dtype} {array.shape}")
        _check_layout(array, streams[name], f"{what}: {array.key}")


def plain_plan(
    robot: str,
    task: str,
    offered: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
    action: ActionSpec,
    *,
    action_key: str,
    reward_key: str,
    float_images: FloatImages,
    what: str,
) -> Plan:
    """Plan to keep every array `offered` under its own name, `action_key` and `reward_key` as action and reward."""
    arrays = {ACTION_EXECUTED: foreign(action_key, *offered[action_key])}
    if reward_key in offered:
        arrays[REWARD] = foreign(reward_key, *offered[reward_key])
    observations: list[ArraySpec] = []
    for key, (shape, dtype) in offered.items():
        if key not in (action_key, reward_key):
            name = stream_name(key)
            if name in arrays or name == REWARD:
                raise DatasetError(f"{what}: {key!r} would become stream {name}, as another array does already")
            arrays[name] = foreign(key, shape, dtype)
            observations.append(_natural_spec(name, shape, dtype, float_images))
    spec = RobotSpec(robot, ObservationSpec(tuple(observations), action.rate_hz), action)
    return Plan(spec, task, arrays)


def foreign(key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ForeignArray:
    """Describe a whole foreign array."""
    return ForeignArray(key, dtype.str, tuple(shape))


def plain_action(kind: ActionKind, shape: tuple[int, ...], rate_hz: float, what: str) -> ActionSpec:
    """Describe actions of which only numbers are known; raise DatasetError unless a sample is a vector."""
    if len(shape) != 1 or shape[0] < 1:
        raise DatasetError(f"{what}: one action has the shape {shape}, expected (D,)")
    if kind == "planar_position":
        if shape != (2,):
            raise DatasetError(f"{what}: a planar position has 2 elements, these actions have {shape[0]}")
        return ActionSpec(kind, (ArraySpec(AGENT_POSITION, (2,), "float32", "px", labels=("x", "y")),), rate_hz)
    labels = tuple(f"a{i}" for i in range(shape[0]))
    return ActionSpec(kind, (ArraySpec(CONTROLLER_INPUT, shape, "float32", "1", labels=labels),), rate_hz)


def even_stamps_ns(first: int, count: int, rate_hz: float) -> NDArray[np.int64]:
    """Return the stamps of samples first..first+count of a stream of which only the rate is known."""
    return np.round(np.arange(first, first + count) * (1e9 / rate_hz)).astype(np.int64)


def require_rate(rate_hz: float) -> float:
    """Return `rate_hz`; raise DatasetError unless stamps can be made of it."""
    if not 0 < rate_hz < 1e6:
        raise DatasetError(f"rate_hz: {rate_hz} is not in (0, 1e6)")
    return rate_hz


def require_finite(stream: str, values: NDArray[Any], what: str) -> NDArray[Any]:
    """Return the values (N, D) of a stream; raise DatasetError naming the first action that no robot could have
    executed, or reward that would spoil the sum."""
    word = {ACTION_EXECUTED: "action", REWARD: "reward"}.get(stream)
    if word is not None and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise DatasetError(f"{what}: {word} {row} is not finite: {values[row].tolist()}")
    return values


def exact_cast(values: NDArray[Any], dtype: str, what: str) -> NDArray[Any]:
    """Return `values` as `dtype`; raise DatasetError where casting back would not give the same bits."""
    values = np.ascontiguousarray(values)
    if values.dtype == np.dtype(dtype):
        return values
    cast = np.empty(values.shape, dtype)
    rows = max(1, _CAST_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        with np.errstate(invalid="ignore", over="ignore"):
            cast[start : start + rows] = part
            back = cast[start : start + rows].astype(values.dtype)
        if back.tobytes() != part.tobytes():
            at = np.flatnonzero(np.frombuffer(back, np.uint8) != np.frombuffer(part, np.uint8))[0]
            value = part.flat[at // values.dtype.itemsize]
            raise DatasetError(f"{what}: {value} cannot be kept as {dtype} without a change")
    return cast


def _natural_spec(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], float_images: FloatImages) -> ArraySpec:
    image = _image_shape(shape, dtype, float_images)
    if image is not None:
        return ArraySpec(name, image, "uint8", "rgb8")
    if dtype == np.uint8 and len(shape) == 3:
        # Three dimensions of bytes would be taken for a colour image: kept flat, and given back in shape on export.
        return ArraySpec(name, (int(np.prod(shape)),), "uint8", "1")
    return ArraySpec(name, shape or (1,), dtype.name, "1")


def _image_shape(shape: tuple[int, ...], dtype: np.dtype[Any], float_images: FloatImages) -> tuple[int, ...] | None:
    if len(shape) != 3 or 3 not in (shape[0], shape[2]):
        return None
    hwc = shape if shape[2] == 3 else (*shape[1:], 3)
    if dtype == np.uint8 or (dtype.kind == "f" and float_images == "uint8" and min(hwc[:2]) >= _IMAGE_EDGE_MIN):
        return hwc
    return None


def _check_layout(array: ForeignArray, stream: ArraySpec, what: str) -> None:
    if array.columns is not None:
        if len(array.shape) != 1 or any(not 0 <= column < array.shape[0] for column in array.columns):
            raise DatasetError(f"{what}: has no columns {array.columns}, its samples are {array.shape}")
        size = len(array.columns)
    else:
        size = int(np.prod(array.shape))
    is_image_moved = stream.is_image and array.shape not in (stream.shape, (3, *stream.shape[:2]))
    if size != stream.size or is_image_moved:
        raise DatasetError(f"{what}: samples {array.shape} do not fit stream {stream.name} {stream.shape}")


def _dtype(text: str, what: str) -> np.dtype[Any]:
    try:
        return np.dtype(text)
    except TypeError as error:
        raise DatasetError(f"{what}: dtype {text!r} is unknown") from error
