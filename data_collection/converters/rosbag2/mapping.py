"""Which topics of a bag become which streams: a YAML file, held strictly against the dataclasses below."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from armature.config import from_plain
from armature.errors import ConfigError
from armature.spec import ActionKind

MAPPING_NAME = "mapping.yaml"
"""A mapping of this name beside the bags is taken where none is given; the MCAP export writes it."""

Clock = Literal["header", "log"]


@dataclass(frozen=True)
class TopicMapping:
    """Where a stream's samples come from."""

    topic: str
    field: str | tuple[str, ...] = ""
    """JointState: position (default), velocity or effort. Other types: a path such as `data` or `twist.linear.x`, or
    a list of paths, whose numbers are put end to end. Images, JointTrajectory and PoseStamped need none."""
    clock: Clock | None = None
    """`header`: header.stamp, the default where there is a header; `log`: when the recorder received the message."""
    received: str = ""
    """A std_msgs/Int64 topic with the receive times [ns], one for each message; empty: the bag's log times."""
    out_of_order: Literal["refuse", "drop"] = "refuse"
    """What to do where stamps go backwards. A repeated stamp is always dropped; both are counted."""


@dataclass(frozen=True)
class StreamMapping(TopicMapping):
    """A stream, and the parts of its ArraySpec that the messages do not tell."""

    labels: tuple[str, ...] = ()
    """JointState and JointTrajectory: the joints, selected by name."""
    shape: tuple[int, ...] | None = None
    """Default: what the first message has."""
    dtype: str = ""
    """Default: what the message holds, float64 for joints and poses."""
    unit: str = ""
    frame: str = ""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    encoding: Literal["lossless", "jpeg"] = "lossless"
    """How the dataset stores an image stream."""


@dataclass(frozen=True)
class PartMapping:
    """One part of the action vector; the parts' labels select joints by name, or count the elements of an array."""

    labels: tuple[str, ...]
    unit: str
    dtype: str = "float32"
    shape: tuple[int, ...] | None = None
    frame: str = ""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ActionMapping(TopicMapping):
    """The topic with the commands that were sent, all parts of the action in one message."""

    kind: ActionKind
    parts: dict[str, PartMapping]
    rate_hz: float | None = None
    """Default: the mapping's."""


@dataclass(frozen=True)
class BagMapping:
    """The whole file. `streams` may also hold the recorder's own `action/requested`, `control/takeover`, `reward`."""

    robot: str
    task: str
    rate_hz: float
    streams: dict[str, StreamMapping]
    action: ActionMapping
    prompt: str = ""
    operator: str = ""
    definitions: dict[str, str] = field(default_factory=dict[str, str])
    """Type to .msg text, for bags that hold messages of other packages without their definitions."""


def load_mapping(path: Path) -> BagMapping:
    """Read a mapping; raise ConfigError naming file and key."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: expected the fields of BagMapping, got {data!r}")
    try:
        mapping = from_plain(BagMapping, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not mapping.action.parts:
        raise ConfigError(f"{path}: action.parts is empty")
    for key, rate_hz in (("rate_hz", mapping.rate_hz), ("action.rate_hz", mapping.action.rate_hz)):
        if rate_hz is not None and not 0 < rate_hz < math.inf:
            raise ConfigError(f"{path}: {key} must be above 0, is {rate_hz}")
    return mapping


def dump_mapping(mapping: BagMapping, comment: str) -> str:
    """Return the YAML of a mapping, without what is at its default."""
    return f"# {comment}\n" + yaml.safe_dump(
        _without_defaults(mapping), sort_keys=False, width=110, default_flow_style=None
    )


def _without_defaults(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_defaults(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return list(value)
    if not is_dataclass(value):
        return value
    chosen = {
        info.name: getattr(value, info.name) for info in fields(value) if getattr(value, info.name) != info.default
    }
    return {name: _without_defaults(item) for name, item in chosen.items() if item != {}}
