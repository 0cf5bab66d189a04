"""Quality of service of every topic, and the transport of a graph that lives on one host."""

from __future__ import annotations

from pathlib import Path

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

FASTDDS_PROFILE = Path(__file__).with_name("fastdds.xml")


def single_host_environment() -> dict[str, str]:
    """Return the variables that every process of a single-host graph needs before its first ROS call."""
    return {
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        # Jazzy's Fast DDS 2 reads the second name, newer ones the first.
        "FASTDDS_DEFAULT_PROFILES_FILE": str(FASTDDS_PROFILE),
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(FASTDDS_PROFILE),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }


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
