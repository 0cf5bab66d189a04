"""What runs: one look at the ROS graph for a few seconds, and the checks that concern more than one stream."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import rclpy
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.signals import SignalHandlerOptions
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import Image

from armature_ros.conversions import ns_from_time
from armature_ros.doctor_findings import Finding
from armature_ros.doctor_streams import Arrivals, SeenTopic, WantedTopic
from armature_ros.qos import reliable_qos, stream_qos
from armature_ros.recorder_qos import node_path, qos_text

NAME = "armature_doctor"
CONTROL = "control_node"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
POLL_S = 0.1
PATIENCE_S = 5.0


@dataclass(frozen=True)
class SeenGraph:
    """What was found within the time of the look."""

    nodes: tuple[str, ...]
    """Full names, each as often as it is there."""
    topics: Mapping[str, SeenTopic]
    command: SeenTopic


@dataclass
class _Probe:
    """Notes when the messages of one topic come and keeps the last."""

    stamp_ns: list[int] = field(default_factory=list[int])
    received_ns: list[int] = field(default_factory=list[int])
    clock_ns: list[int] = field(default_factory=list[int])
    last: Any = None

    def arrivals(self) -> Arrivals:
        return Arrivals(tuple(self.stamp_ns), tuple(self.received_ns), tuple(self.clock_ns))


def look(topics: Sequence[WantedTopic], command_topic: str, expected: Sequence[str], duration_s: float) -> SeenGraph:
    """Listen to `topics` for a time and return what came and who is there.

    While a part is missing, of the `expected` nodes or of the topics, it goes on for PATIENCE_S: on a busy host they
    find each other late. The environment decides domain and transport. Nothing is published and no service is called.
    """
    with _listener() as (node, executor):
        probes = {wanted.name: _listen(node, wanted) for wanted in topics}
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s or (
            time.monotonic() < end_s + PATIENCE_S and _is_partial(_others(node), expected, topics, probes)
        ):
            executor.spin_once(timeout_sec=POLL_S)
        executor.shutdown()
        seen = {name: _seen(node, name, probe) for name, probe in probes.items()}
        return SeenGraph(_others(node), seen, _seen(node, command_topic, _Probe()))


def running_nodes(duration_s: float) -> tuple[str, ...]:
    """Return the full names of the nodes that are found within a time, each as often as it is there."""
    with _listener() as (node, _):
        time.sleep(duration_s)
        return _others(node)


@contextmanager
def _listener() -> Iterator[tuple[Node, EventsExecutor]]:
    """Make a node that only listens, and its executor."""
    context = rclpy.Context()
    # Not the arguments of the command line: to ROS those of `ros2 launch` are remappings.
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node(NAME, context=context, enable_rosout=False, start_parameter_services=False)
    try:
        executor = EventsExecutor(context=context)
        executor.add_node(node)
        yield node, executor
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def _is_partial(
    nodes: Sequence[str], expected: Sequence[str], topics: Sequence[WantedTopic], probes: Mapping[str, _Probe]
) -> bool:
    running = {path.rsplit("/", 1)[-1] for path in nodes}
    silent = any(not probes[wanted.name].received_ns for wanted in topics if wanted.topic.arrays)
    return silent or not running.issuperset(expected)


def _listen(node: Node, wanted: WantedTopic) -> _Probe:
    probe, clock = _Probe(), node.get_clock()

    def on_message(message: Any) -> None:
        probe.received_ns.append(time.monotonic_ns())
        probe.clock_ns.append(clock.now().nanoseconds)
        probe.stamp_ns.append(ns_from_time(message.header.stamp))
        probe.last = message

    if wanted.topic.arrays:
        # Best effort and volatile hears every publisher, also those that our nodes would not.
        qos = stream_qos(10, reliable=False, latched=False)
        node.create_subscription(wanted.topic.message_type, wanted.name, on_message, qos)
    return probe


def _seen(node: Node, topic: str, probe: _Probe) -> SeenTopic:
    subscriptions = [s for s in node.get_subscriptions_info_by_topic(topic) if s.node_name != NAME]
    return SeenTopic(
        tuple(node.get_publishers_info_by_topic(topic)), tuple(subscriptions), probe.arrivals(), probe.last
    )


def _others(node: Node) -> tuple[str, ...]:
    """Return the full names of the other nodes; those that begin with an underscore are tools."""
    found = node.get_node_names_and_namespaces()
    paths = [f"{namespace.rstrip('/')}/{name}" for name, namespace in found if not name.startswith("_")]
    own = node.get_fully_qualified_name()
    if own in paths:
        paths.remove(own)
    return tuple(sorted(paths))


def check_nodes(expected: Sequence[str], found: Sequence[str], start: str) -> list[Finding]:
    """All nodes of the graph run, each once; `start` is the command that starts them."""
    running = {path.rsplit("/", 1)[-1] for path in found}
    findings: list[Finding] = []
    if missing := [name for name in expected if name not in running]:
        text = "none of the graph's nodes runs" if len(missing) == len(expected) else f"missing: {', '.join(missing)}"
        findings.append(Finding("nodes", "running", "fail", text, f"start them: {start}"))
    if twice := [path for path, count in Counter(found).items() if count > 1]:
        text = f"more than one node is called {', '.join(twice)}"
        findings.append(Finding("nodes", "names", "fail", text, "end the ones that are left over from an earlier run"))
    return findings or [Finding("nodes", "running", "ok", ", ".join(found))]


def check_writers(topic: str, writers: Sequence[TopicEndpointInfo], nodes: Sequence[str]) -> Finding:
    """`control_node` alone writes to the arm."""
    own = [w for w in writers if w.node_name == CONTROL]
    others = [w for w in writers if w.node_name != CONTROL]
    runs = any(path.rsplit("/", 1)[-1] == CONTROL for path in nodes)
    if others or len(own) > 1:
        text = f"written by {', '.join(node_path(w) for w in writers)}"
        remedy = f"end all but {CONTROL}: nothing else may command the arm"
        return Finding(topic, "writers", "fail", text, remedy)
    if runs and not own:
        remedy = f"mend command_topic of {CONTROL}, or give it a moment and look again"
        return Finding(topic, "writers", "fail", f"{CONTROL} runs, but does not write to it", remedy)
    if not own:
        return Finding(topic, "writers", "warn", "nobody writes to it", f"start {CONTROL}")
    return Finding(topic, "writers", "ok", f"written by {node_path(own[0])} alone")


def check_command_listeners(topic: str, seen: SeenTopic) -> Finding:
    """An arm listens to the commands and gets them."""
    if not seen.subscriptions:
        return Finding(
            topic, "listener", "fail", "nobody listens to it", "start the driver of the arm, or mend the name"
        )
    for listener in seen.subscriptions:
        if listener.topic_type != TRAJECTORY:
            text = f"{node_path(listener)} expects {listener.topic_type}"
            return Finding(topic, "listener", "fail", text, f"have it take {TRAJECTORY}")
        for offer in [w.qos_profile for w in seen.publishers] or [reliable_qos()]:
            if _is_deaf(offer, listener.qos_profile):
                text = f"{node_path(listener)} requests {qos_text(listener.qos_profile)}; offered is {qos_text(offer)}"
                return Finding(topic, "listener", "fail", text, "have the driver request no more than is offered")
    return Finding(topic, "listener", "ok", f"heard by {', '.join(node_path(s) for s in seen.subscriptions)}")


def _is_deaf(offer: QoSProfile, request: QoSProfile) -> bool:
    return qos_check_compatible(offer, request)[0] == QoSCompatibility.ERROR


def check_frames(topics: Mapping[str, SeenTopic]) -> list[Finding]:
    """No two cameras are in the same frame: they could not be told apart."""
    by_frame: dict[str, list[str]] = {}
    for name, seen in topics.items():
        if isinstance(seen.last, Image) and seen.last.header.frame_id:
            by_frame.setdefault(seen.last.header.frame_id, []).append(name)
    return [
        Finding("cameras", "frame", "warn", f"{' and '.join(names)} share frame_id '{frame}'", "give each its own")
        for frame, names in by_frame.items()
        if len(names) > 1
    ]
