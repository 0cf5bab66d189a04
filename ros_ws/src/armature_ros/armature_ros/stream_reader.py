"""Reads every recorded stream of a robot, and what was sent to it, into a recorder."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from armature.errors import InvalidValue
from armature.spec import RobotSpec
from armature_ros.conversions import Episode, action_from_msg, ns_from_time, values_from_msg
from armature_ros.diagnostics import StreamMonitor
from armature_ros.qos import latched_qos, recorded_stream_qos
from armature_ros.streams import StreamConfig, topics_of
from data_collection.recorder import Recorder
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED

ACTION_TOPICS = {ACTION_EXECUTED: "control/executed", ACTION_REQUESTED: "control/requested"}
DISCOVERY_PERIOD_S = 0.2
ALL_TIME_NS = 2**63 - 1


@dataclass
class Window:
    """Which stamps belong to the episode, and what has arrived of it."""

    begin_ns: int = ALL_TIME_NS
    end_ns: int = ALL_TIME_NS
    newest_ns: int = 0
    accepted: Counter[str] = field(default_factory=Counter[str])
    last_accepted_s: float = 0.0


class StreamReader:
    """Subscribes to every recorded topic on an executor and thread of its own, so that services never delay a frame."""

    def __init__(self, node: Node, spec: RobotSpec, streams: dict[str, StreamConfig], recorder: Recorder) -> None:
        self.window = Window()
        self.episode: Episode | None = None
        self.result: dict[str, Any] | None = None
        self.malformed: Counter[str] = Counter()
        self._recorder = recorder
        # Names are resolved by the main node, whose remappings hold for both.
        self._node = Node(f"{node.get_name()}_streams", namespace=node.get_namespace(), use_global_arguments=False)
        self._readers = _readers(spec, streams)
        self._resolved = {topic: node.resolve_topic_name(topic) for topic in self._readers}
        self.monitors = {topic: StreamMonitor() for topic in self._readers}
        self._subscriptions: dict[str, Any] = {}
        self._episode_topic = node.resolve_topic_name("episode")
        for topic, callback in (("episode", self._on_episode), ("episode_result", self._on_result)):
            self._node.create_subscription(String, node.resolve_topic_name(topic), callback, latched_qos(10))
        self._node.create_timer(DISCOVERY_PERIOD_S, self._subscribe_to_new)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="streams", daemon=True)
        self._thread.start()

    def waiting_for(self) -> list[str]:
        """Name the topics that nobody publishes."""
        found = dict(self._subscriptions)
        return [topic for topic in self._readers if topic not in found or not found[topic].get_publisher_count()]

    def count_announcers(self) -> int:
        """Count who announces episodes."""
        return self._node.count_publishers(self._episode_topic)

    def close(self) -> None:
        """End the thread."""
        self._ends.set()
        self._thread.join(timeout=1.0)
        self._node.destroy_node()

    def _spin(self) -> None:
        executor = EventsExecutor()
        executor.add_node(self._node)
        while not self._ends.is_set():
            executor.spin_once(timeout_sec=0.1)

    def _subscribe_to_new(self) -> None:
        for topic, (message_type, read) in self._readers.items():
            if topic in self._subscriptions:
                continue
            qos = recorded_stream_qos(self._node, self._resolved[topic])
            if qos is not None:
                callback = self._callback(topic, read)
                self._subscriptions[topic] = self._node.create_subscription(
                    message_type, self._resolved[topic], callback, qos
                )

    def _callback(self, topic: str, read: Callable[[Any], dict[str, Any]]) -> Callable[[Any], None]:
        def on_message(message: Any) -> None:
            received_ns, stamp_ns = time.monotonic_ns(), ns_from_time(message.header.stamp)
            self.monitors[topic].on_sample(stamp_ns, received_ns)
            self._record(topic, message, read, stamp_ns, received_ns)

        return on_message

    def _record(
        self, topic: str, message: Any, read: Callable[[Any], dict[str, Any]], stamp_ns: int, received_ns: int
    ) -> None:
        window = self.window
        window.newest_ns = max(window.newest_ns, stamp_ns)
        if not window.begin_ns <= stamp_ns <= window.end_ns:
            return
        try:
            values = read(message)
        except InvalidValue as error:
            self.malformed[topic] += 1
            self._node.get_logger().error(f"{topic}: {error}; not recorded", throttle_duration_sec=2.0)
            return
        for name, value in values.items():
            self._recorder.add(name, stamp_ns, received_ns, value)
            window.accepted[name] += 1
        window.last_accepted_s = time.monotonic()

    def _on_episode(self, message: String) -> None:
        self.episode = Episode.from_msg(message)

    def _on_result(self, message: String) -> None:
        self.result = json.loads(message.data)


def _readers(
    spec: RobotSpec, streams: dict[str, StreamConfig]
) -> dict[str, tuple[type, Callable[[Any], dict[str, Any]]]]:
    """Return by topic its message type and the function that takes the recorded arrays out of a message."""
    found: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]] = {
        topic.topic: (topic.message_type, lambda message, arrays=topic.arrays: values_from_msg(message, arrays))
        for topic in topics_of(spec.observation.arrays, streams)
    }
    labels = spec.action.labels
    for name, topic in ACTION_TOPICS.items():
        found[topic] = (JointTrajectory, lambda message, name=name: {name: action_from_msg(message, labels)})
    return found
