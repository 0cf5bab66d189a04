"""Which topic carries which arrays of a robot, and the publishers and subscriptions for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState

from armature.errors import ConfigError, unknown
from armature.spec import ArraySpec
from armature_ros.conversions import values_to_msg

MESSAGE_TYPES: dict[str, type] = {"image": Image, "joint_state": JointState, "pose": PoseStamped}


@dataclass(frozen=True)
class StreamConfig:
    """The topic and the kind of message that carry one array; several arrays may share a joint state."""

    topic: str
    message: Literal["image", "joint_state", "pose"]


@dataclass(frozen=True)
class TopicArrays:
    """One topic, its message type and the arrays in it."""

    topic: str
    message_type: type
    arrays: tuple[ArraySpec, ...]


def topics_of(arrays: Sequence[ArraySpec], streams: Mapping[str, StreamConfig]) -> tuple[TopicArrays, ...]:
    """Group arrays by the topic that carries them, in order; raise ConfigError on an array without a stream."""
    found: dict[str, TopicArrays] = {}
    for array in arrays:
        if array.name not in streams:
            raise ConfigError(unknown("stream of array", array.name, streams))
        stream = streams[array.name]
        before = found[stream.topic].arrays if stream.topic in found else ()
        found[stream.topic] = TopicArrays(stream.topic, MESSAGE_TYPES[stream.message], (*before, array))
    return tuple(found.values())


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
