"""Quality of service of every topic, and the transport of a graph that lives on one host."""

from __future__ import annotations

import os
from pathlib import Path

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

FASTDDS_PROFILE = Path(__file__).with_name("fastdds.xml")
FASTDDS_SOCKETS_PROFILE = Path(__file__).with_name("fastdds_sockets.xml")
# Jazzy's Fast DDS 2 reads the second, newer ones the first.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


def single_host_environment() -> dict[str, str]:
    """Return the variables that every process of a single-host graph needs before its first ROS call."""
    return {
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        **dict.fromkeys(PROFILE_VARIABLES, str(FASTDDS_PROFILE)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }


def leave_shared_memory() -> None:
    """Have this process use sockets alone, from its first ROS call on; a profile that is not ours stays in force."""
    for name in PROFILE_VARIABLES:
        if os.environ.get(name) == str(FASTDDS_PROFILE):
            os.environ[name] = str(FASTDDS_SOCKETS_PROFILE)
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"


def latched_qos(depth: int = 1) -> QoSProfile:
    """Reliable, and kept for those who come later: announcements, and what the recorder must not miss."""
    return stream_qos(depth, reliable=True, latched=True)


def reliable_qos(depth: int = 10) -> QoSProfile:
    """Reliable and not kept: commands and chunks."""
    return stream_qos(depth, reliable=True, latched=False)


def published_stream_qos(*, lockstep: bool) -> QoSProfile:
    """Return the profile of our own sensor streams.

    In lockstep nothing may be lost, not even to a subscriber that is matched after the first tick: both sides wait for
    each other. In real time a late subscriber wants what comes next.
    """
    return stream_qos(10, reliable=True, latched=lockstep)


def newest_stream_qos(*, lockstep: bool) -> QoSProfile:
    """Return the profile of a subscriber that wants the newest sample; best effort matches every driver."""
    return stream_qos(10, reliable=True, latched=True) if lockstep else stream_qos(1, reliable=False, latched=False)


def stream_qos(depth: int, *, reliable: bool, latched: bool) -> QoSProfile:
    """Return the profile that keeps the last `depth` messages."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def find_mismatch(node: Node, subscription: Subscription) -> str:
    """Name the publishers that a subscription gets nothing from, and why: another type, or QoS; "" if it hears all.

    It asks the graph: a mismatch that is mended is gone, and one of a policy that we do not set is found as well.
    """
    found: list[str] = []
    wanted = _type_name(subscription.msg_type)
    for publisher in node.get_publishers_info_by_topic(subscription.topic_name):
        compatibility, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
        if publisher.topic_type != wanted:
            found.append(f"{_who(publisher)} publishes {publisher.topic_type}, expected {wanted}")
        elif compatibility == QoSCompatibility.ERROR:
            reasons = ", ".join(part.removeprefix("ERROR: ") for part in reason.split(";") if part.strip())
            found.append(f"incompatible QoS of {_who(publisher)}: {reasons}")
    return "; ".join(found)


def _who(publisher: TopicEndpointInfo) -> str:
    # Publishers are discovered before the names of their nodes.
    if publisher.node_name == "_NODE_NAME_UNKNOWN_":
        return "a node whose name is not known yet"
    return f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"


def _type_name(message_type: type) -> str:
    """Return the ROS name of a message type, such as sensor_msgs/msg/Image."""
    return "/".join((*message_type.__module__.split(".")[:2], message_type.__name__))
