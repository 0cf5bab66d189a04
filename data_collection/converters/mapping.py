"""A YAML file that says what the arrays of a foreign dataset are: which stream, unit, frame and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from armature.config import from_plain
from armature.errors import ConfigError, unknown
from armature.spec import ActionKind, ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.converters.foreign_array import ForeignArray, Plan, foreign, require_rate
from data_collection.streams import ACTION_EXECUTED, REWARD

SHIPPED = Path(__file__).parent / "mappings"
_SIZE_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class MappedStream:
    """What makes one stream, and what it means."""

    key: str
    columns: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    """Of a sample of the stream, where it is to be another than that of the array; not for images."""
    unit: str = "1"
    frame: str = ""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class MappedAction:
    """What the actions are; `arrays` are its parts in order."""

    key: str
    kind: ActionKind
    arrays: tuple[ArraySpec, ...]


@dataclass(frozen=True)
class DatasetMapping:
    """The whole file. Arrays that it does not name are not imported."""

    robot: str
    task: str
    rate_hz: float
    action: MappedAction
    streams: Mapping[str, MappedStream]
    reward: str | None = None
    """The key of the reward, where there is one."""


def load_mapping(name_or_path: str) -> DatasetMapping:
    """Read a mapping file, or one of those shipped by its name; raise ConfigError naming file, key and value."""
    shipped = {file.stem: file for file in SHIPPED.glob("*.yaml")}
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise ConfigError(f"{unknown('mapping', name_or_path, shipped)}; or give the path of a YAML file")
    if path.stat().st_size > _SIZE_BYTES_MAX:
        raise ConfigError(
            f"{path}: {path.stat().st_size} bytes are more than {_SIZE_BYTES_MAX}, no mapping is so large"
        )
    try:
        return from_plain(DatasetMapping, yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def mapped_plan(mapping: DatasetMapping, offered: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> Plan:
    """Plan an import by a mapping; raise ConfigError where it names an array that is not `offered`, DatasetError on a
    rate of which no stamps can be made."""
    require_rate(mapping.rate_hz)
    for key in (mapping.action.key, *(stream.key for stream in mapping.streams.values())):
        if key not in offered:
            raise ConfigError(f"mapping: {unknown('array', key, offered)}")
    arrays: dict[str, ForeignArray] = {ACTION_EXECUTED: foreign(mapping.action.key, *offered[mapping.action.key])}
    observations: list[ArraySpec] = []
    for name, stream in mapping.streams.items():
        shape, dtype = offered[stream.key]
        arrays[name] = ForeignArray(stream.key, dtype.str, shape, stream.columns)
        observations.append(_array_spec(name, stream, shape, dtype))
    if mapping.reward is not None and mapping.reward in offered:
        arrays[REWARD] = foreign(mapping.reward, *offered[mapping.reward])
    action = ActionSpec(mapping.action.kind, mapping.action.arrays, mapping.rate_hz)
    spec = RobotSpec(mapping.robot, ObservationSpec(tuple(observations), mapping.rate_hz), action)
    return Plan(spec, mapping.task, arrays)


def _array_spec(name: str, stream: MappedStream, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArraySpec:
    about = (stream.unit, stream.frame, stream.low, stream.high, stream.labels)
    if stream.unit == "rgb8":
        if stream.shape is not None:
            raise ConfigError(f"mapping: {name}: shape {stream.shape}, an image keeps the shape of {stream.key}")
        if len(shape) != 3 or 3 not in (shape[0], shape[2]):
            raise ConfigError(f"mapping: {name}: {stream.key} has samples {shape}, an image is (H, W, 3) or (3, H, W)")
        return ArraySpec(name, shape if shape[2] == 3 else (*shape[1:], 3), "uint8", *about)
    shape = stream.shape or (shape if stream.columns is None else (len(stream.columns),))
    return ArraySpec(name, shape or (1,), dtype.name, *about)
