"""Which robot a LeRobotDataset was recorded from, and which streams its features are.

LeRobot knows names and shapes only. What we export says the rest in `meta/armature.json`, so that it comes back whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armature.errors import ConfigError, DatasetError
from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.converters.lerobot.layout import ACTION, FLAGS, STREAM_OF_KEY, Feature, Info, inside, read_json
from data_collection.streams import stream_specs

ARMATURE = "meta/armature.json"


@dataclass(frozen=True)
class Contract:
    """The robot, the streams that each feature's elements are, end to end, and the task where it is known."""

    spec: RobotSpec
    streams: Mapping[str, tuple[ArraySpec, ...]]
    task: str | None = None

    @property
    def is_ours(self) -> bool:
        """Tell whether the dataset was exported by us."""
        return self.task is not None


def read_contract(info: Info, features: Mapping[str, Feature]) -> Contract:
    """Return what `features` are: as `meta/armature.json` has it, else by their names."""
    path = inside(info.root, ARMATURE, "contract")
    values = {key: feature for key, feature in features.items() if key not in FLAGS}
    if not path.is_file():
        spec = _spec_of(info, values)
        arrays = stream_specs(spec)
        return Contract(spec, {key: (arrays[feature.stream],) for key, feature in values.items()})
    try:
        return _ours(read_json(path), values)
    except (ConfigError, DatasetError, KeyError, TypeError, ValueError, AttributeError) as error:
        hint = "remove the file to import without it"
        raise DatasetError(f"{path}: does not fit {info.path}: {error}; {hint}") from error


def write_contract(path: Path, spec: RobotSpec, task: str, streams: Mapping[str, tuple[str, ...]]) -> None:
    """Write `meta/armature.json`: robot, task and the streams of each feature."""
    path.write_text(json.dumps({"task": task, "spec": spec.to_json(), "streams": streams}))


def _ours(said: Mapping[str, Any], features: Mapping[str, Feature]) -> Contract:
    spec = RobotSpec.from_json(said["spec"])
    arrays = stream_specs(spec)
    streams = {key: tuple(arrays[name] for name in said["streams"][key]) for key in features}
    for key, feature in features.items():
        parts = streams[key]
        if sum(part.size for part in parts) != math.prod(feature.shape) or (
            feature.is_camera and (len(parts) != 1 or not parts[0].is_image or parts[0].shape != feature.shape)
        ):
            raise ValueError(f"feature {key!r} is {feature.shape}, its streams are {[part.shape for part in parts]}")
    given = [part.name for parts in streams.values() for part in parts]
    if len(set(given)) != len(given):
        raise ValueError(f"streams are given twice: {given}")
    observed = tuple(name for name in spec.observation.names if name in given)
    return Contract(spec.select(observed), streams, str(said["task"]))


def _spec_of(info: Info, features: Mapping[str, Feature]) -> RobotSpec:
    arrays = tuple(_array(feature) for key, feature in features.items() if key not in STREAM_OF_KEY)
    action = features[ACTION]
    part = ArraySpec(ACTION, action.shape, action.dtype, "unknown", labels=action.labels)
    commands = ActionSpec("controller_input", (part,), info.fps)
    return RobotSpec(info.robot_type, ObservationSpec(arrays, info.fps), commands)


def _array(feature: Feature) -> ArraySpec:
    if feature.is_camera:
        return ArraySpec(feature.stream, feature.shape, "uint8", "rgb8")
    return ArraySpec(feature.stream, feature.shape, feature.dtype, "unknown", labels=feature.labels)
