"""What a robot offers and what a policy needs: named arrays with shape, unit, frame and bounds.

Names are the constants below; no code ever takes a name apart. Elements of a vector are told apart by `labels`
(joint names), so that they can be selected by name wherever they come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from armature.config import fingerprint, from_plain, to_plain
from armature.errors import InvalidValue, SpecMismatch, unknown

CAMERA_SCENE = "camera/scene"
CAMERA_WRIST = "camera/wrist"
JOINT_POSITION = "joint/position"
JOINT_VELOCITY = "joint/velocity"
GRIPPER_OPENING = "gripper/opening"
TCP_POSE = "tcp/pose"
TCP_DELTA = "tcp/delta"
OBJECT_POSE = "object/pose"
OBJECT_KEYPOINTS = "object/keypoints"
AGENT_POSITION = "agent/position"
HAND_POSE = "hand/pose"

ActionKind = Literal["joint_position", "tcp_delta", "planar_position", "controller_input", "hand_pose"]


@dataclass(frozen=True)
class ArraySpec:
    """One named array: shape without time, dtype, unit, frame, optional bounds and element labels."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str
    frame: str = ""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    labels: tuple[str, ...] = ()

    @property
    def is_image(self) -> bool:
        """Tell whether this is a camera image, (H, W, 3) uint8."""
        return self.dtype == "uint8" and len(self.shape) == 3

    @property
    def size(self) -> int:
        """Count the elements of one sample."""
        return math.prod(self.shape)

    def validate(self, value: NDArray[Any]) -> NDArray[Any]:
        """Return `value` unchanged; raise InvalidValue unless shape and dtype match and all elements are finite."""
        if value.shape != self.shape:
            raise InvalidValue(f"{self.name}: shape {value.shape}, expected {self.shape}")
        if value.dtype != np.dtype(self.dtype):
            raise InvalidValue(f"{self.name}: dtype {value.dtype}, expected {self.dtype}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise InvalidValue(f"{self.name}: not finite at elements {np.flatnonzero(~np.isfinite(value)).tolist()}")
        return value

    def sample(self, rng: np.random.Generator) -> NDArray[Any]:
        """Draw a random valid value, for tests and shape checks."""
        if self.dtype == "uint8":
            return np.frombuffer(rng.bytes(self.size), dtype=np.uint8).reshape(self.shape).copy()
        low = np.full(self.size, -1.0) if self.low is None else np.asarray(self.low)
        high = np.full(self.size, 1.0) if self.high is None else np.asarray(self.high)
        return rng.uniform(low, high).reshape(self.shape).astype(self.dtype)


@dataclass(frozen=True)
class ObservationSpec:
    """The arrays that a robot publishes, in order, and the rate [Hz] at which they are aligned."""

    arrays: tuple[ArraySpec, ...]
    rate_hz: float

    def __iter__(self) -> Iterator[ArraySpec]:
        return iter(self.arrays)

    def __getitem__(self, name: str) -> ArraySpec:
        for array in self.arrays:
            if array.name == name:
                return array
        raise SpecMismatch(unknown("observation", name, self.names))

    @property
    def names(self) -> tuple[str, ...]:
        """List the array names in order."""
        return tuple(array.name for array in self.arrays)

    @property
    def images(self) -> tuple[ArraySpec, ...]:
        """List the camera images."""
        return tuple(array for array in self.arrays if array.is_image)

    @property
    def vectors(self) -> tuple[ArraySpec, ...]:
        """List the low-dimensional arrays."""
        return tuple(array for array in self.arrays if not array.is_image)

    def select(self, names: tuple[str, ...]) -> ObservationSpec:
        """Return the spec of a subset of the arrays, in the order of `names`; raise SpecMismatch on an unknown one."""
        return ObservationSpec(tuple(self[name] for name in names), self.rate_hz)

    def validate(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Raise InvalidValue or SpecMismatch unless `values` holds exactly these arrays, each valid."""
        if set(values) != set(self.names):
            raise SpecMismatch(f"observation holds {sorted(values)}, expected {sorted(self.names)}")
        for array in self.arrays:
            array.validate(values[array.name])


@dataclass(frozen=True)
class ActionSpec:
    """What an action is: its kind, its parts in order, and the rate [Hz] at which it is executed.

    `joint_position`: absolute joint targets [rad]; `tcp_delta`: TCP displacement per step (position [m], rotation
    vector [rad]) in the frame of its array; `planar_position`: absolute planar target [px]. A gripper opening [m] may
    follow. `controller_input`: what some foreign controller takes, known only as numbers; imported datasets have it.
    `hand_pose`: where both human hands are, absolute, as `armature.hand_pose` lays it out.
    """

    kind: ActionKind
    arrays: tuple[ArraySpec, ...]
    rate_hz: float

    def __getitem__(self, name: str) -> ArraySpec:
        for array in self.arrays:
            if array.name == name:
                return array
        raise SpecMismatch(unknown("action part", name, [a.name for a in self.arrays]))

    @property
    def dim(self) -> int:
        """Count the elements of one action vector."""
        return sum(array.size for array in self.arrays)

    @property
    def period_ns(self) -> int:
        """Return the time between two actions [ns]."""
        return round(1e9 / self.rate_hz)

    @property
    def labels(self) -> tuple[str, ...]:
        """Name every element of the action vector, in order."""
        return tuple(label for array in self.arrays for label in array.labels)

    @property
    def low(self) -> NDArray[np.float64]:
        """Return the lower bounds, (dim,)."""
        return np.concatenate([np.asarray(a.low if a.low else [-np.inf] * a.size) for a in self.arrays])

    @property
    def high(self) -> NDArray[np.float64]:
        """Return the upper bounds, (dim,)."""
        return np.concatenate([np.asarray(a.high if a.high else [np.inf] * a.size) for a in self.arrays])

    def slice_of(self, name: str) -> slice:
        """Return where the part `name` lies in the action vector."""
        start = 0
        for array in self.arrays:
            if array.name == name:
                return slice(start, start + array.size)
            start += array.size
        raise SpecMismatch(unknown("action part", name, [a.name for a in self.arrays]))

    def split(self, action: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Cut an action (..., dim) into its named parts."""
        return {array.name: action[..., self.slice_of(array.name)] for array in self.arrays}

    def join(self, parts: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Put named parts together into one action (..., dim); inverse of `split`."""
        return np.concatenate([parts[array.name] for array in self.arrays], axis=-1)


@dataclass(frozen=True)
class RobotSpec:
    """The whole contract between a robot (or a dataset of it) and a policy."""

    name: str
    observation: ObservationSpec
    action: ActionSpec

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; inverse of `from_json`."""
        return to_plain(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RobotSpec:
        """Rebuild a spec from `to_json` data; raise ConfigError on unknown or missing keys."""
        return from_plain(cls, data)

    @property
    def fingerprint(self) -> str:
        """Return a short hash that changes when any field of the contract changes."""
        return fingerprint(self)

    def select(self, names: tuple[str, ...]) -> RobotSpec:
        """Return the contract restricted to the named observations."""
        return RobotSpec(self.name, self.observation.select(names), self.action)


def differences(needed: RobotSpec, offered: RobotSpec) -> list[str]:
    """List every field in which `offered` does not give what `needed` asks for; extra observations are fine."""
    found: list[str] = []
    if needed.name != offered.name:
        found.append(f"robot: needs '{needed.name}', offered '{offered.name}'")
    if needed.observation.rate_hz != offered.observation.rate_hz:
        found.append(f"observation.rate_hz: needs {needed.observation.rate_hz}, offered {offered.observation.rate_hz}")
    for array in needed.observation:
        if array.name not in offered.observation.names:
            found.append(f"observation {array.name}: needed, offered only {', '.join(offered.observation.names)}")
        else:
            found += _array_differences("observation", array, offered.observation[array.name])
    return found + _action_differences(needed.action, offered.action)


def require_compatible(needed: RobotSpec, offered: RobotSpec, who: str) -> None:
    """Raise SpecMismatch naming `who` and every differing field unless `offered` satisfies `needed`."""
    found = differences(needed, offered)
    if found:
        raise SpecMismatch(f"{who} does not fit this robot: " + "; ".join(found))


def _array_differences(side: str, needed: ArraySpec, offered: ArraySpec) -> list[str]:
    pairs = {key: (value, getattr(offered, key)) for key, value in vars(needed).items()}
    return [f"{side} {needed.name}.{key}: needs {a}, offered {b}" for key, (a, b) in pairs.items() if a != b]


def _action_differences(needed: ActionSpec, offered: ActionSpec) -> list[str]:
    found = [
        f"action.{key}: needs {getattr(needed, key)}, offered {getattr(offered, key)}"
        for key in ("kind", "rate_hz")
        if getattr(needed, key) != getattr(offered, key)
    ]
    names = [a.name for a in needed.arrays], [a.name for a in offered.arrays]
    if names[0] != names[1]:
        return [*found, f"action parts: needs {names[0]}, offered {names[1]}"]
    for a, b in zip(needed.arrays, offered.arrays, strict=True):
        found += _array_differences("action", a, b)
    return found
