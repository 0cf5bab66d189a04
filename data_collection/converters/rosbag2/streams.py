"""From a mapping and the first messages of a bag to the robot's spec and a plan for each stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, DatasetError, InvalidValue
from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.converters.rosbag2 import messages as ros
from data_collection.converters.rosbag2.mapping import BagMapping, StreamMapping, TopicMapping
from data_collection.converters.rosbag2.message_types import Decoder
from data_collection.converters.rosbag2.reader import Bag, Message, read_messages
from data_collection.converters.source import require_plausible
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD, TAKEOVER, stream_specs

RECORDERS_OWN = (ACTION_REQUESTED, TAKEOVER, REWARD)
"""Streams that are no observations; their shape and dtype are fixed."""

_IMAGES = (ros.IMAGE, ros.COMPRESSED_IMAGE)


@dataclass(frozen=True)
class StreamPlan:
    """How the messages of one topic become the samples of one stream."""

    array: ArraySpec
    mapping: TopicMapping

    def values(self, type_name: str, message: Any) -> NDArray[Any]:
        """Return one sample; raise InvalidValue where the message does not hold it."""
        array = self.array
        values = values_of(type_name, message, self.mapping, array.labels, array.shape)
        if type_name in _IMAGES and values.shape != array.shape:
            raise InvalidValue(f"image is {values.shape}, expected {array.shape}")
        out = ros.exactly(values, array.shape, array.dtype)
        # Only what was asked for may be absent: NaN says so.
        if out.dtype.kind == "f" and array.name != ACTION_REQUESTED and not np.isfinite(out).all():
            raise InvalidValue(f"{array.name} is not finite at elements {np.flatnonzero(~np.isfinite(out)).tolist()}")
        return out


def values_of(
    type_name: str, message: Any, mapping: TopicMapping, labels: Sequence[str], shape: tuple[int, ...] | None
) -> NDArray[Any]:
    """Return what a mapping selects of a message, in the message's own shape and dtype."""
    if type_name in _IMAGES and mapping.field:
        raise InvalidValue(f"field '{mapping.field}' of an image: its pixels are always taken, leave 'field' out")
    if type_name == ros.IMAGE:
        return ros.pixels_of(message)
    if type_name == ros.COMPRESSED_IMAGE:
        return ros.decoded_pixels_of(message, ros.compressed_shape(message) if shape is None else shape)
    field = mapping.field
    if type_name == ros.JOINT_STATE and field in ("", *ros.JOINT_FIELDS):
        return ros.joints_of(message, str(field) or "position", _require_labels(labels, message.name))
    if type_name == ros.JOINT_TRAJECTORY and not field:
        return ros.target_of(message, _require_labels(labels, message.joint_names))
    if type_name == ros.POSE_STAMPED and not field:
        return ros.pose_of(message)
    return ros.field_of(message, (field or "data",) if isinstance(field, str) else field)


def plan_streams(mapping: BagMapping, bags: Sequence[Bag]) -> tuple[RobotSpec, list[StreamPlan]]:
    """Return the robot's spec and a plan for every stream; what the mapping leaves open, the first messages tell."""
    if ACTION_EXECUTED in mapping.streams:
        raise ConfigError(f"stream {ACTION_EXECUTED} is what 'action' tells; take it out of 'streams'")
    observed = {name: stream for name, stream in mapping.streams.items() if name not in RECORDERS_OWN}
    wanted = {stream.topic for stream in observed.values() if stream.shape is None or not stream.dtype}
    for topic in {mapping.action.topic, *(stream.topic for stream in mapping.streams.values())}:
        bags[0].topic(topic)
    first = _first_messages(bags, wanted, mapping.definitions)
    arrays = tuple(_array(name, stream, bags[0], first) for name, stream in observed.items())
    action = ActionSpec(mapping.action.kind, _parts(mapping), mapping.action.rate_hz or mapping.rate_hz)
    spec = RobotSpec(mapping.robot, ObservationSpec(arrays, mapping.rate_hz), action)
    named = stream_specs(spec)
    mappings: dict[str, TopicMapping] = {**mapping.streams, ACTION_EXECUTED: mapping.action}
    return spec, [StreamPlan(named[name], stream) for name, stream in mappings.items()]


def _first_messages(bags: Sequence[Bag], topics: set[str], definitions: Mapping[str, str]) -> dict[str, Any]:
    """Return the type and the first message of each topic, from the first bag that has one."""
    found: dict[str, Any] = {}
    for bag in bags:
        open_topics = {name for name in topics - found.keys() if name in bag.topics and bag.topics[name].count}
        for message in read_messages(bag, open_topics) if open_topics else ():
            if message.topic not in found:
                found[message.topic] = _decoded(bag, message, definitions)
            if open_topics <= found.keys():
                break
    return found


def _decoded(bag: Bag, message: Message, definitions: Mapping[str, str]) -> Any:
    topic = bag.topics[message.topic]
    try:
        return Decoder(topic.type, topic.definition, definitions)(message.data)
    except DatasetError as error:
        raise DatasetError(f"{message.file}: {message.topic}: message {message.number}: {error}") from error


def _array(name: str, stream: StreamMapping, bag: Bag, first: Mapping[str, Any]) -> ArraySpec:
    kind = bag.topic(stream.topic).type
    is_image = kind in _IMAGES
    labels = stream.labels or (ros.POSE_LABELS if kind == ros.POSE_STAMPED and not stream.field else ())
    shape, dtype = stream.shape, stream.dtype
    if shape is None or not dtype:
        if stream.topic not in first:
            raise DatasetError(
                f"stream {name}: topic {stream.topic} has no messages; give the stream's shape and dtype"
            )
        try:
            values = np.atleast_1d(values_of(kind, first[stream.topic], stream, labels, None))
        except InvalidValue as error:
            raise DatasetError(f"{bag.path}: {stream.topic}: message 0: {error}") from error
        shape = values.shape if shape is None else shape
        dtype = dtype or ("uint8" if values.dtype == np.bool_ else values.dtype.name)
    _require_stream(name, stream, labels, shape, dtype)
    unit = stream.unit or ("rgb8" if is_image else "")
    return ArraySpec(name, shape, dtype, unit, stream.frame, stream.low, stream.high, labels)


def _require_stream(
    name: str, stream: StreamMapping, labels: tuple[str, ...], shape: tuple[int, ...], dtype: str
) -> None:
    try:
        require_plausible(f"stream {name}", shape, np.dtype(dtype))
    except TypeError as error:
        raise ConfigError(f"stream {name}: dtype '{dtype}' is not known") from error
    size = int(np.prod(shape))
    for key, values in (("labels", labels or None), ("low", stream.low), ("high", stream.high)):
        if values is not None and len(values) != size:
            raise ConfigError(f"stream {name}: {len(values)} {key} for {size} elements of shape {shape}")


def _parts(mapping: BagMapping) -> tuple[ArraySpec, ...]:
    parts: list[ArraySpec] = []
    for name, part in mapping.action.parts.items():
        shape = part.shape or (len(part.labels),)
        if int(np.prod(shape)) != len(part.labels):
            raise ConfigError(f"action part {name}: {len(part.labels)} labels for shape {shape}")
        parts.append(ArraySpec(name, shape, part.dtype, part.unit, part.frame, part.low, part.high, part.labels))
    labels = [label for part in parts for label in part.labels]
    if len(set(labels)) != len(labels):
        raise ConfigError(f"action: a label is given twice: {', '.join(labels)}")
    return tuple(parts)


def _require_labels(labels: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    if not labels:
        raise InvalidValue(f"'labels' must say which joints are meant. It has: {', '.join(names)}")
    return labels
