"""On which topic and as which message each stream of ours goes into a bag, and the mapping that reads it back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from armature.errors import DatasetError
from armature.spec import ArraySpec, RobotSpec
from data_collection.converters.rosbag2 import messages as ros
from data_collection.converters.rosbag2.mapping import ActionMapping, BagMapping, PartMapping, StreamMapping
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, stream_specs

ToMessage = Callable[[Any, int], Any]
"""A sample (an array, or a JPEG file's bytes) and its stamp [ns] to a message."""

_JOINT_FIELD_OF_UNIT = {
    "rad": "position", "m": "position", "rad/s": "velocity", "m/s": "velocity", "Nm": "effort", "N": "effort",
}  # fmt: skip


@dataclass(frozen=True)
class StreamTopic:
    """One stream's place in a bag."""

    array: ArraySpec
    topic: str
    type_name: str
    to_message: ToMessage
    field: str = ""
    is_jpeg: bool = False

    @property
    def received(self) -> str:
        """Name the topic with the receive times: std_msgs/Int64 in ns, one for each message and at the same log time.

        The log times of the bag are the acquisition stamps, since ours were received on a steady clock.
        """
        return f"{self.topic}/received_ns"

    @property
    def has_header(self) -> bool:
        """Tell whether the message carries the stamp itself."""
        return self.type_name not in ros.MULTI_ARRAYS.values()


def stream_topics(spec: RobotSpec, encodings: Mapping[str, str]) -> list[StreamTopic]:
    """Return the topics of all streams; raise DatasetError where a stream fits no message or two share a topic."""
    topics = [_stream_topic(array, spec, encodings.get(name, "")) for name, array in stream_specs(spec).items()]
    names = [topic.topic for topic in topics]
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(f"two streams would share the topic {name}")
    return topics


def mapping_of(spec: RobotSpec, task: str, topics: list[StreamTopic]) -> BagMapping:
    """Return the mapping by which the import gives back the same spec and streams."""
    (executed,) = (topic for topic in topics if topic.array.name == ACTION_EXECUTED)
    action = ActionMapping(
        topic=executed.topic,
        field=executed.field,
        received=executed.received,
        kind=spec.action.kind,
        parts={part.name: _part(part) for part in spec.action.arrays},
        rate_hz=spec.action.rate_hz,
    )
    streams = {topic.array.name: _stream(topic, spec) for topic in topics if topic is not executed}
    return BagMapping(spec.name, task, spec.observation.rate_hz, streams, action)


def _stream_topic(array: ArraySpec, spec: RobotSpec, encoding: str) -> StreamTopic:
    topic, labels = _topic_name(array.name), array.labels
    if encoding == "jpeg":
        to_compressed = lambda jpeg, stamp_ns: ros.compressed_message(jpeg, stamp_ns, array.frame)  # noqa: E731
        return StreamTopic(array, f"{topic}/image_raw/compressed", ros.COMPRESSED_IMAGE, to_compressed, is_jpeg=True)
    if array.is_image and array.shape[2] == 3:
        to_image = lambda pixels, stamp_ns: ros.image_message(pixels, stamp_ns, array.frame)  # noqa: E731
        return StreamTopic(array, f"{topic}/image_raw", ros.IMAGE, to_image)
    is_named = len(array.shape) == 1 and len(set(labels)) == array.size and array.dtype in ("float32", "float64")
    if is_named and array.name in (ACTION_EXECUTED, ACTION_REQUESTED):
        period_ns = spec.action.period_ns
        to_target = lambda values, stamp_ns: ros.target_message(values, labels, stamp_ns, period_ns)  # noqa: E731
        return StreamTopic(array, topic, ros.JOINT_TRAJECTORY, to_target)
    if is_named and labels == ros.POSE_LABELS:
        to_pose = lambda pose, stamp_ns: ros.pose_message(pose, stamp_ns, array.frame)  # noqa: E731
        return StreamTopic(array, topic, ros.POSE_STAMPED, to_pose)
    field = _JOINT_FIELD_OF_UNIT.get(array.unit)
    if is_named and field:
        to_joints = lambda values, stamp_ns: ros.joint_message(values, field, labels, stamp_ns, array.frame)  # noqa: E731
        return StreamTopic(array, topic, ros.JOINT_STATE, to_joints, field)
    if array.dtype not in ros.MULTI_ARRAYS:
        raise DatasetError(
            f"stream {array.name}: no ROS message holds {array.dtype}. Valid: {', '.join(ros.MULTI_ARRAYS)}"
        )
    to_array = lambda values, _: ros.array_message(values, array.dtype)  # noqa: E731
    return StreamTopic(array, topic, ros.MULTI_ARRAYS[array.dtype], to_array, "data")


def _topic_name(name: str) -> str:
    # ROS permits neither a digit at the begin of a level nor two underscores in a row.
    return "/" + re.sub(r"(^|/)(?=[0-9])", r"\1_", re.sub(r"_+", "_", name))


def _stream(topic: StreamTopic, spec: RobotSpec) -> StreamMapping:
    array = topic.array
    if array.name not in spec.observation.names:
        return StreamMapping(topic.topic, topic.field, received=topic.received)
    # A JPEG stream comes back as the very pixels that the JPEGs decode to; encoded again it would be other ones.
    return StreamMapping(
        topic.topic, topic.field, received=topic.received, labels=array.labels, shape=array.shape, dtype=array.dtype,
        unit=array.unit, frame=array.frame, low=array.low, high=array.high,
    )  # fmt: skip


def _part(part: ArraySpec) -> PartMapping:
    shape = None if part.shape == (len(part.labels),) else part.shape
    return PartMapping(part.labels, part.unit, part.dtype, shape, part.frame, part.low, part.high)
