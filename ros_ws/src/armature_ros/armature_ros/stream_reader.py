"""Reads every recorded stream of a robot, and what was sent to it, into a recorder."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rclpy.node import Node
from rclpy.subscription import Subscription
from std_msgs.msg import String

from armature.errors import InvalidValue
from armature_ros.announcements import Episode, result_from_msg
from armature_ros.qos import latched_qos
from armature_ros.recorded_topics import RecordedTopic
from armature_ros.recorder_channel import Arrival, Channel
from armature_ros.recorder_qos import Reliability
from data_collection.recorder import Recorder

ReadT = TypeVar("ReadT")

DISCOVERY_PERIOD_S = 0.2
# How long a message may lie in the middleware; when it came is known from there. Waking up less often is cheaper.
POLL_PERIOD_S = 0.005
BATCH = 64
ALL_TIME_NS = 2**63 - 1
TRANSPORT, MALFORMED = "transport", "malformed"


@dataclass
class Window:
    """Which stamps belong to the episode, and what has arrived of it."""

    begin_ns: int = ALL_TIME_NS
    end_ns: int = ALL_TIME_NS
    newest_ns: int = 0
    late_after_ns: int = ALL_TIME_NS
    """Samples whose stamp is older than this when they arrive are counted as late."""
    settled: Counter[str] = field(default_factory=Counter[str])
    """By stream, of how many samples it is known what became of them."""
    last_accepted_s: float = 0.0

    def close(self) -> None:
        """Take no further sample; the counts stay."""
        self.begin_ns = ALL_TIME_NS


class StreamReader:
    """Takes messages on a thread of its own, so that services never delay a frame.

    No executor: a recorder is in no hurry, and taking what has gathered every few milliseconds needs less of the
    processor than a callback for each message.
    """

    def __init__(
        self, node: Node, topics: Sequence[RecordedTopic], reliability: Reliability, recorder: Recorder
    ) -> None:
        self.window = Window()
        self.episode: Episode | None = None
        self.result: dict[str, Any] | None = None
        self.failure: Exception | None = None
        self._recorder = recorder
        self._clock = node.get_clock()
        # Names are resolved by the main node, whose remappings hold for both.
        self._node = Node(
            f"{node.get_name()}_streams",
            namespace=node.get_namespace(),
            use_global_arguments=False,
            start_parameter_services=False,
        )
        self.channels = [Channel(self._node, t, node.resolve_topic_name(t.name), reliability) for t in topics]
        self._episode_topic = node.resolve_topic_name("episode")
        self._episodes = self._announcements(self._episode_topic)
        self._results = self._announcements(node.resolve_topic_name("episode_result"))
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
        self._thread.start()

    def obstacles(self) -> dict[str, str]:
        """Say by topic what keeps it from being recorded."""
        return {c.topic.name: obstacle for c in self.channels if (obstacle := c.obstacle())}

    def stale(self, limit_s: float) -> dict[str, str]:
        """Say by topic which required ones are silent, or old."""
        now_ns = self._clock.now().nanoseconds
        required = [c for c in self.channels if c.topic.is_required]
        return {c.topic.name: staleness for c in required if (staleness := c.staleness(now_ns, limit_s))}

    def count_announcers(self) -> int:
        """Count who announces episodes."""
        return self._node.count_publishers(self._episode_topic)

    def close(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._ends.set()
            self._thread.join(timeout=1.0)
            self._node.destroy_node()

    def _announcements(self, topic: str) -> Subscription:
        return self._node.create_subscription(String, topic, lambda _: None, latched_qos(10))

    def _run(self) -> None:
        try:
            next_s = 0.0
            while not self._ends.is_set():
                if time.monotonic() >= next_s:
                    self._discover()
                    next_s = time.monotonic() + DISCOVERY_PERIOD_S
                # The announcement first: what follows may belong to it.
                self._take_announcements()
                if not any([self._take_batch(channel) for channel in self.channels]):
                    time.sleep(POLL_PERIOD_S)
        except Exception as error:
            # The node's main thread ends the process with it.
            self.failure = error

    def _discover(self) -> None:
        for channel in self.channels:
            channel.adapt(may_interrupt=not self._recorder.is_recording)

    def _take_announcements(self) -> None:
        self.episode = self._newest(self._episodes, Episode.from_msg, self.episode)
        self.result = self._newest(self._results, result_from_msg, self.result)

    def _newest(self, topic: Subscription, read: Callable[[String], ReadT], before: ReadT | None) -> ReadT | None:
        """Return the newest announcement that can be read, of those that have come and the one before."""
        newest = before
        while (taken := topic.handle.take_message(String, False)) is not None:
            try:
                newest = read(taken[0])
            except InvalidValue as error:
                self._node.get_logger().error(f"{topic.topic_name}: {error}; refused", throttle_duration_sec=2.0)
        return newest

    def _take_batch(self, channel: Channel) -> bool:
        """Record what has arrived, some at a time so that no stream waits for another; return False when idle."""
        for _ in range(BATCH):
            arrival = channel.take()
            if arrival is None:
                return False
            self._record(channel.topic, arrival)
        return True

    def _record(self, topic: RecordedTopic, arrival: Arrival) -> None:
        window, stamp_ns = self.window, arrival.stamp_ns
        window.newest_ns = max(window.newest_ns, stamp_ns)
        if not window.begin_ns <= stamp_ns <= window.end_ns:
            return
        window.last_accepted_s = time.monotonic()
        if arrival.lost:
            self._drop(topic, TRANSPORT, arrival.lost, received=False)
        try:
            values = topic.read(arrival.message)
        except InvalidValue as error:
            self._drop(topic, MALFORMED, 1, received=True)
            self._node.get_logger().error(f"{topic.name}: {error}; not recorded", throttle_duration_sec=2.0)
            return
        is_late = self._age_ns(arrival) > window.late_after_ns
        for name, value in values.items():
            self._recorder.add(name, stamp_ns, arrival.received_ns, value, late=is_late)
            window.settled[name] += 1

    def _drop(self, topic: RecordedTopic, reason: str, count: int, *, received: bool) -> None:
        for stream in topic.streams:
            self._recorder.drop(stream, reason, count, received=received)
            self.window.settled[stream] += count

    def _age_ns(self, arrival: Arrival) -> int:
        """Return how old a sample was by its stamp when it arrived."""
        since_ns = time.monotonic_ns() - arrival.received_ns
        return self._clock.now().nanoseconds - since_ns - arrival.stamp_ns
