"""A subscription that gets nothing says from whom, and why, within five seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import rclpy
from rclpy.duration import Duration
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.qos import LivelinessPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from armature_ros.qos import find_mismatch, stream_qos

RELIABLE = stream_qos(10, reliable=True, latched=False)
BEST_EFFORT = stream_qos(10, reliable=False, latched=False)
LATCHED = stream_qos(10, reliable=True, latched=True)
LIMIT_S = 5.0

pytestmark = [pytest.mark.ros, pytest.mark.fault(row=28)]


class Pair:
    """A driver and a listener, of two participants as if they were two processes."""

    def __init__(self) -> None:
        self._contexts = rclpy.Context(), rclpy.Context()
        for context in self._contexts:
            rclpy.init(context=context)
        self.driver = Node("driver", namespace="left", context=self._contexts[0])
        self.listener = Node("listener", context=self._contexts[1])
        self._executor = EventsExecutor(context=self._contexts[1])
        self._executor.add_node(self.listener)
        # The five seconds are for the mismatch, not for two processes to find each other.
        self.wait(lambda: ("driver", "/left") in self.listener.get_node_names_and_namespaces(), limit_s=60.0)

    def subscribe(self, qos: QoSProfile) -> Callable[[], str]:
        """Return what asks for the mismatch of a new subscription to /camera."""
        subscription = self.listener.create_subscription(Image, "/camera", lambda _: None, qos)
        return lambda: find_mismatch(self.listener, subscription)

    def wait(self, is_done: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        deadline_s = time.monotonic() + limit_s
        while not is_done():
            assert time.monotonic() < deadline_s, f"it took more than {limit_s:g} s"
            self._executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        self.driver.destroy_node()
        self.listener.destroy_node()
        for context in self._contexts:
            rclpy.shutdown(context=context)


@pytest.fixture
def pair(environment: dict[str, str]) -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def deadline(qos: QoSProfile, seconds: float) -> QoSProfile:
    return QoSProfile(
        history=qos.history, depth=qos.depth, reliability=qos.reliability, durability=qos.durability,
        deadline=Duration(seconds=seconds),
    )  # fmt: skip


def manual_liveliness(qos: QoSProfile) -> QoSProfile:
    return QoSProfile(
        history=qos.history, depth=qos.depth, reliability=qos.reliability, durability=qos.durability,
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC, liveliness_lease_duration=Duration(seconds=0.2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("offered", "requested", "words"),
    [
        (BEST_EFFORT, RELIABLE, "best effort publisher and reliable subscription"),
        (RELIABLE, LATCHED, "volatile publisher and transient local subscription"),
        (RELIABLE, deadline(RELIABLE, 0.1), "subscription deadline is less than publisher deadline"),
        (deadline(RELIABLE, 0.5), deadline(RELIABLE, 0.1), "subscription deadline is less than publisher deadline"),
        (RELIABLE, manual_liveliness(RELIABLE), "publisher's liveliness is automatic and subscription's is manual"),
    ],
)
def test_a_mismatch_names_the_publisher_and_the_policy(pair: Pair, offered, requested, words: str) -> None:
    mismatch = pair.subscribe(requested)
    pair.driver.create_publisher(Image, "/camera", offered)
    pair.wait(lambda: "/left/driver" in mismatch())
    assert mismatch().lower().startswith(f"incompatible qos of /left/driver: {words}")


def test_a_mismatch_is_gone_with_its_publisher_while_another_is_heard(pair: Pair) -> None:
    mismatch = pair.subscribe(RELIABLE)
    assert mismatch() == ""
    wrong = pair.driver.create_publisher(Image, "/camera", BEST_EFFORT)
    pair.driver.create_publisher(Image, "/camera", RELIABLE)
    pair.wait(lambda: "/left/driver" in mismatch())
    assert mismatch().count("/left/driver") == 1
    pair.driver.destroy_publisher(wrong)
    pair.wait(lambda: not mismatch())


def test_a_topic_of_another_type_is_named(pair: Pair) -> None:
    mismatch = pair.subscribe(RELIABLE)
    pair.driver.create_publisher(CompressedImage, "/camera", RELIABLE)
    pair.wait(lambda: "/left/driver" in mismatch())
    assert mismatch() == "/left/driver publishes sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image"
