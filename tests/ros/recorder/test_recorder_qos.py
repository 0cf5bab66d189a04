"""The request that follows from what publishers offer, by literal cases; no node is started."""

from __future__ import annotations

import itertools

import pytest
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import Image

from armature_ros.qos import stream_qos
from armature_ros.recorded_topics import RecordedTopic
from armature_ros.recorder_qos import find_obstacle, is_heard, qos_text, requested_qos

TOPIC = RecordedTopic("camera/scene/image_raw", Image, ("camera/scene",), read=lambda _: {})
PROFILES = {
    "reliable, transient local": stream_qos(1, reliable=True, latched=True),
    "reliable, volatile": stream_qos(1, reliable=True, latched=False),
    "best effort, transient local": stream_qos(1, reliable=False, latched=True),
    "best effort, volatile": stream_qos(1, reliable=False, latched=False),
}


def publisher(text: str, kind: str = "sensor_msgs/msg/Image") -> TopicEndpointInfo:
    return TopicEndpointInfo(
        node_name="camera", node_namespace="/left", topic_type=kind, qos_profile=PROFILES[text]
    )  # fmt: skip


@pytest.mark.parametrize("text", PROFILES)
def test_one_publisher_is_asked_for_all_that_it_offers(text: str) -> None:
    assert qos_text(requested_qos(TOPIC, [PROFILES[text]], "adapt")) == text


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(PROFILES, 2)))
def test_what_is_asked_for_is_offered_by_all(first: str, second: str) -> None:
    offers = [PROFILES[first], PROFILES[second]]
    requested = requested_qos(TOPIC, offers, "adapt")
    assert all(is_heard(offer, requested) for offer in offers)
    stricter = [p for p in PROFILES.values() if all(is_heard(offer, p) for offer in offers)]
    assert all(is_heard(requested, profile) for profile in stricter)


def test_reliability_that_is_insisted_upon_names_both_ends() -> None:
    offer = publisher("best effort, transient local")
    requested = requested_qos(TOPIC, [offer.qos_profile], "reliable")
    assert find_obstacle(TOPIC, [offer], requested) == (
        "incompatible QoS: /left/camera offers best effort, transient local; requested is reliable, transient local"
    )
    assert qos_text(requested_qos(TOPIC, [PROFILES["reliable, volatile"]], "best_effort")) == "best effort, volatile"


def test_obstacles_are_named() -> None:
    requested = PROFILES["reliable, volatile"]
    assert find_obstacle(TOPIC, [], None) == "nobody publishes it"
    assert find_obstacle(TOPIC, [publisher("reliable, volatile")], None) == "found, not subscribed yet"
    assert find_obstacle(TOPIC, [publisher("reliable, volatile")], requested) == ""
    wrong = publisher("reliable, volatile", "sensor_msgs/msg/CompressedImage")
    expected = "/left/camera publishes sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image"
    assert find_obstacle(TOPIC, [wrong], requested) == expected
