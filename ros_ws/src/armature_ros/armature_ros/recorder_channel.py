"""One recorded topic on the wire: who publishes it, what is requested of them, and what was lost on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from armature.errors import InvalidValue
from armature_ros.conversions import ns_from_time
from armature_ros.diagnostics import StreamMonitor
from armature_ros.recorded_topics import RecordedTopic
from armature_ros.recorder_qos import Reliability, find_obstacle, is_heard, node_path, qos_text, requested_qos

_MIDDLEWARE_AGE_MAX_NS = 10_000_000_000


@dataclass(frozen=True)
class Arrival:
    """One message, and how many before it were published and never arrived."""

    message: Any
    stamp_ns: int
    received_ns: int
    """Steady clock."""
    lost: int


class Channel:
    """Subscribes to a topic with what its publishers offer. `adapt` and `take` are for one thread."""

    def __init__(self, node: Node, topic: RecordedTopic, full_name: str, reliability: Reliability) -> None:
        self.topic = topic
        self.full_name = full_name
        self.monitor = StreamMonitor()
        self.newest_ns = 0
        self._newest: Any = None
        self.publishers: list[TopicEndpointInfo] = []
        self.requested: QoSProfile | None = None
        self._node = node
        self._reliability: Reliability = reliability
        self._subscription: Subscription | None = None
        self._connections = 0
        self._sequence: int | None = None

    def adapt(self, *, may_interrupt: bool) -> None:
        """Look who publishes and subscribe, or anew where the offers have changed.

        Subscribing anew leaves a gap, so that without `may_interrupt` it is done only where nobody is heard any more.
        """
        self.publishers = self._node.get_publishers_info_by_topic(self.full_name)
        self._request(may_interrupt=may_interrupt)
        self._connections = 0 if self._subscription is None else self._subscription.get_publisher_count()

    def obstacle(self) -> str:
        """Say why the topic cannot be recorded now; "" if it can, or need not be."""
        obstacle = find_obstacle(self.topic, self.publishers, self.requested)
        if not obstacle and self._connections < len(self.publishers):
            return "its publisher is found, but not connected yet"
        return obstacle

    def staleness(self, now_ns: int, limit_s: float) -> str:
        """Say why a topic that is published would not be recorded: what arrives is old, or not valid, or nothing."""
        silence_s, age_s = self.monitor.age_s(), (now_ns - self.newest_ns) / 1e9
        publishers = f"published by {self.publisher_text()}"
        if not self.monitor.received:
            return f"stale: {publishers}, but no message has arrived (stale_after_s is {limit_s:g})"
        if silence_s > limit_s:
            return f"stale: {publishers}, no message for {silence_s:.1f} s (stale_after_s is {limit_s:g})"
        if abs(age_s) > limit_s:
            clocks = f"stamped {abs(age_s):.1f} s {'ago' if age_s > 0 else 'ahead'}"
            return f"stale: {publishers}, its newest message is {clocks} (stale_after_s is {limit_s:g})"
        return self._fault_of_newest()

    def publisher_text(self) -> str:
        """Name the nodes that publish the topic and what they offer."""
        return "; ".join(f"{node_path(p)} ({qos_text(p.qos_profile)})" for p in self.publishers) or "nobody"

    def take(self) -> Arrival | None:
        """Return the next message that has arrived; None when there is none."""
        if self._subscription is None:
            return None
        # Taken by hand: EventsExecutor (rclpy 7.1) crashes where a callback wants the sequence number, which alone
        # tells what was lost on the way.
        taken = self._subscription.handle.take_message(self.topic.message_type, False)
        if taken is None:
            return None
        message, info = taken
        stamp_ns, received_ns = ns_from_time(message.header.stamp), _steady_ns(info["received_timestamp"])
        self.monitor.on_sample(stamp_ns, received_ns)
        self.newest_ns, self._newest = stamp_ns, message
        return Arrival(message, stamp_ns, received_ns, self._count_lost(info["publication_sequence_number"]))

    def _fault_of_newest(self) -> str:
        try:
            self.topic.read(self._newest)
        except InvalidValue as error:
            return f"what {self.publisher_text()} publishes cannot be recorded: {error}"
        return ""

    def _request(self, *, may_interrupt: bool) -> None:
        offers = [p.qos_profile for p in self.publishers if p.topic_type == self.topic.type_name]
        if not offers:
            return
        wanted = requested_qos(self.topic, offers, self._reliability)
        if self.requested is None or (
            qos_text(wanted) != qos_text(self.requested)
            and (may_interrupt or not any(is_heard(offer, self.requested) for offer in offers))
        ):
            self._subscribe(wanted)

    def _count_lost(self, sequence: int | None) -> int:
        last, self._sequence = self._sequence, sequence
        # Several publishers have a sequence each; one that is started again begins anew.
        if sequence is None or last is None or len(self.publishers) != 1:
            return 0
        return max(0, sequence - last - 1)

    def _subscribe(self, qos: QoSProfile) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        # Without the default event callbacks, which need an executor; `obstacle` says what they would.
        silent = SubscriptionEventCallbacks(use_default_callbacks=False)
        self._subscription = self._node.create_subscription(
            self.topic.message_type, self.full_name, _unused, qos, event_callbacks=silent
        )
        self.requested = qos


def _unused(_message: Any) -> None:
    raise AssertionError("messages are taken, not called back")


def _steady_ns(received_ns: int) -> int:
    """Return the middleware's time of reception, which is of the system's clock, on the steady clock."""
    age_ns = time.time_ns() - received_ns
    # Outside: the middleware does not say, or the system's clock was set in between.
    return time.monotonic_ns() - (age_ns if 0 <= age_ns <= _MIDDLEWARE_AGE_MAX_NS else 0)
