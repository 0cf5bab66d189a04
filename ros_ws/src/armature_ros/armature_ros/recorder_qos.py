"""What publishers of a recorded topic offer, what is requested of them, and in words what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from armature_ros.qos import stream_qos
from armature_ros.recorded_topics import RecordedTopic

Reliability = Literal["adapt", "reliable", "best_effort"]
"""`adapt` requests what all publishers of a topic offer; `reliable` refuses those that may lose messages."""


def requested_qos(topic: RecordedTopic, offers: Sequence[QoSProfile], reliability: Reliability) -> QoSProfile:
    """Return the strictest profile that all `offers` satisfy, with the reliability that is insisted upon.

    A reliable request towards a best-effort publisher gets nothing at all, nor does a latched one towards a volatile.
    """
    adapted = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
    return stream_qos(
        topic.depth,
        reliable=adapted if reliability == "adapt" else reliability == "reliable",
        latched=all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers),
    )


def is_heard(offered: QoSProfile, requested: QoSProfile) -> bool:
    """Tell whether a subscription gets what a publisher sends: it may not request more than is offered."""
    return _strictness(offered)[0] >= _strictness(requested)[0] and _strictness(offered)[1] >= _strictness(requested)[1]


def find_obstacle(topic: RecordedTopic, publishers: Sequence[TopicEndpointInfo], requested: QoSProfile | None) -> str:
    """Say why a topic cannot be recorded from its publishers, naming them and both ends of the QoS; "" if it can."""
    if not publishers:
        return "nobody publishes it" if topic.is_required else ""
    for publisher in publishers:
        if publisher.topic_type != topic.type_name:
            return f"{node_path(publisher)} publishes {publisher.topic_type}, expected {topic.type_name}"
    if requested is None:
        return "found, not subscribed yet"
    for publisher in publishers:
        if not is_heard(publisher.qos_profile, requested):
            offer = qos_text(publisher.qos_profile)
            return f"incompatible QoS: {node_path(publisher)} offers {offer}; requested is {qos_text(requested)}"
    return ""


def qos_text(profile: QoSProfile) -> str:
    """Word the two policies that decide who hears whom."""
    reliable, latched = (bool(value) for value in _strictness(profile))
    return f"{'reliable' if reliable else 'best effort'}, {'transient local' if latched else 'volatile'}"


def node_path(publisher: TopicEndpointInfo) -> str:
    """Return the full name of the node of an endpoint."""
    return f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"


def _strictness(profile: QoSProfile) -> tuple[int, int]:
    return (
        int(profile.reliability == ReliabilityPolicy.RELIABLE),
        int(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL),
    )
