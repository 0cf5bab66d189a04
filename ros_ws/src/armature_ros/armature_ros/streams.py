"""Which topic carries which arrays of a robot, and the publishers and subscriptions for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState

from armature.control.stream_watch import LiveChecks
from armature.errors import ConfigError, InvalidValue, unknown
from armature.spec import ArraySpec, ObservationSpec
from armature_ros.conversions import values_from_msg, values_to_msg

MESSAGE_TYPES: dict[str, type] = {
    "image": Image,
    "compressed_image": CompressedImage,
    "joint_state": JointState,
    "pose": PoseStamped,
}


@dataclass(frozen=True)
class StreamConfig:
    """The topic and the kind of message that carry one array; several arrays may share a joint state.

    What a real robot's streams should also say is checked where it is given.
    """

    topic: str
    message: Literal["image", "compressed_image", "joint_state", "pose"]
    frame_id: str = ""
    """Messages of any other frame are refused, so that two cameras cannot be taken for each other; empty: all pass."""
    rate_hz: float = 0.0
    """How often it is published; another rate is a warning. 0: not known."""
    frozen_s: float = 0.0
    """After what time without a change it counts as frozen; 0: it may stand still, as a simulated camera does."""


@dataclass(frozen=True)
class TopicArrays:
    """One topic, its message type, the arrays in it, and the frame and rate [Hz] that its messages should have."""

    topic: str
    message_type: type
    arrays: tuple[ArraySpec, ...]
    frame_id: str = ""
    rate_hz: float = 0.0

    def read(self, message: Any) -> dict[str, NDArray[Any]]:
        """Return all arrays of a message; raise InvalidValue where its frame is another or one of them is not valid."""
        if self.frame_id and message.header.frame_id != self.frame_id:
            raise InvalidValue(f"frame_id is '{message.header.frame_id}', expected '{self.frame_id}'")
        values = values_from_msg(message, self.arrays)
        for array in self.arrays:
            array.validate(values[array.name])
        return values


def topics_of(arrays: Sequence[ArraySpec], streams: Mapping[str, StreamConfig]) -> tuple[TopicArrays, ...]:
    """Group arrays by the topic that carries them, in order.

    Raises ConfigError on an array without a stream, and on two that say different things about one topic.
    """
    found: dict[str, TopicArrays] = {}
    for array in arrays:
        if array.name not in streams:
            raise ConfigError(unknown("stream of array", array.name, streams))
        stream = streams[array.name]
        alone = TopicArrays(stream.topic, MESSAGE_TYPES[stream.message], (array,), stream.frame_id, stream.rate_hz)
        before = found.get(stream.topic, alone)
        if replace(before, arrays=()) != replace(alone, arrays=()):
            shared = f"{array.name} and {before.arrays[0].name} share topic '{stream.topic}'"
            raise ConfigError(f"{shared}, but differ in message, frame_id or rate_hz")
        found[stream.topic] = alone if before is alone else replace(before, arrays=(*before.arrays, array))
    return tuple(found.values())


def live_checks(
    spec: ObservationSpec,
    streams: Mapping[str, StreamConfig],
    now_ns: Callable[[], int],
    *,
    future_max_s: float,
    skew_max_s: float,
) -> LiveChecks:
    """Return what the streams of a running robot have to satisfy; `now_ns` is the clock of the stamps."""
    frozen_s = {name: streams[name].frozen_s for name in spec.names if streams[name].frozen_s}
    frozen_after_ns = {name: round(limit_s * 1e9) for name, limit_s in frozen_s.items()}
    return LiveChecks(now_ns, round(future_max_s * 1e9), round(skew_max_s * 1e9), frozen_after_ns)


class StreamPublishers:
    """Publishes the arrays of a robot on their topics and counts them."""

    def __init__(self, node: Node, topics: Sequence[TopicArrays], qos: QoSProfile) -> None:
        self.counts: dict[str, int] = {array.name: 0 for topic in topics for array in topic.arrays}
        self._publishers: list[tuple[TopicArrays, Publisher]] = [
            (topic, node.create_publisher(topic.message_type, topic.topic, qos)) for topic in topics
        ]

    def publish(self, values: Mapping[str, Any], stamp_ns: int) -> None:
        """Publish one sample of every array."""
        for topic, publisher in self._publishers:
            publisher.publish(values_to_msg(topic.message_type, topic.arrays, values, stamp_ns))
            for array in topic.arrays:
                self.counts[array.name] += 1

    def reset_counts(self) -> None:
        """Begin to count from zero."""
        self.counts = dict.fromkeys(self.counts, 0)

    def unmatched(self, node: Node) -> list[str]:
        """Name the topics that have subscribers in the graph whom their publisher has not met yet."""
        return [
            topic.topic
            for topic, publisher in self._publishers
            if publisher.get_subscription_count() < node.count_subscribers(publisher.topic_name)
        ]


def subscribe(
    node: Node, topics: Sequence[TopicArrays], qos: QoSProfile, on_message: Callable[[TopicArrays, Any], None]
) -> dict[str, Any]:
    """Subscribe to topics; `on_message(topic, message)` gets every message. Return the subscriptions by topic."""

    def subscription(topic: TopicArrays) -> Any:
        return node.create_subscription(topic.message_type, topic.topic, lambda m: on_message(topic, m), qos)

    return {topic.topic: subscription(topic) for topic in topics}
