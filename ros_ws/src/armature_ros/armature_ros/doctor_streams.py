"""Checks of one stream: who publishes it, how fast, with which stamps, and whether its content keeps the contract.

Pure: everything was gathered before, no node is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image, JointState

from armature.errors import InvalidValue
from armature.spec import ArraySpec
from armature_ros.doctor_findings import Finding
from armature_ros.recorder_qos import node_path, qos_text
from armature_ros.streams import TopicArrays

FUTURE_MAX_S = 0.02
RATE_LOW, RATE_FAR_TOO_LOW = 0.9, 0.5
"""Shares of the expected rate below which it is a warning, and a failure."""
GAP_PERIODS = 3
OUTSIDE_SHARE = 0.005
"""Share of its range by which a joint may lie outside: encoders and grippers are not exact at their ends."""
_KINDS: dict[type, tuple[str, str]] = {
    Image: ("image", "set size, encoding and frame_id of the camera as the contract and the robot's streams say"),
    CompressedImage: ("image", "set size and frame_id of the camera as the contract and the robot's streams say"),
    JointState: ("joints", "mend its driver, or the labels in the contract"),
}
"""By message type: what its content is called, and what to do where it is wrong."""


@dataclass(frozen=True)
class Listener:
    """Who reads a topic, and what it requests."""

    node: str
    qos: QoSProfile


@dataclass(frozen=True)
class WantedTopic:
    """What a deployment needs of one topic."""

    topic: TopicArrays
    """Without arrays only its end points are looked at."""
    listeners: tuple[Listener, ...]
    rate_hz: float = 0.0
    """0: none is expected."""
    age_max_s: float = math.inf
    publisher: str = ""
    """The node of the graph that publishes it; empty: one of the robot."""
    is_simulated: bool = False
    """A simulator publishes it: between episodes nothing flows."""
    is_lockstep: bool = False
    """Its stamps are simulated time and its rate is that of whoever answers."""

    @property
    def name(self) -> str:
        """Return the topic's name."""
        return self.topic.topic

    @property
    def type_name(self) -> str:
        """Return the ROS name of the message type, such as sensor_msgs/msg/Image."""
        kind = self.topic.message_type
        return "/".join((*kind.__module__.split(".")[:2], kind.__name__))


@dataclass(frozen=True)
class Arrivals:
    """When messages of a topic were stamped, came (steady clock), and what the ROS clock was then; (N,) each [ns]."""

    stamp_ns: tuple[int, ...] = ()
    received_ns: tuple[int, ...] = ()
    clock_ns: tuple[int, ...] = ()


@dataclass(frozen=True)
class SeenTopic:
    """What was found of one topic."""

    publishers: tuple[TopicEndpointInfo, ...] = ()
    subscriptions: tuple[TopicEndpointInfo, ...] = ()
    arrivals: Arrivals = Arrivals()
    last: Any = None
    """The last message."""


def check_topic(wanted: WantedTopic, seen: SeenTopic) -> list[Finding]:
    """Return all findings about a topic; what follows from an earlier one is left out."""
    findings = [check_publishers(wanted, seen.publishers)]
    if not seen.publishers:
        return findings
    findings.append(check_qos(wanted, seen.publishers, seen.subscriptions))
    if not wanted.topic.arrays or any(p.topic_type != wanted.type_name for p in seen.publishers):
        return findings
    findings.append(check_rate(wanted, seen.arrivals))
    if seen.last is None:
        return findings
    return [*findings, check_stamps(wanted, seen.arrivals), check_content(wanted, seen.last)]


def check_publishers(wanted: WantedTopic, publishers: Sequence[TopicEndpointInfo]) -> Finding:
    """Somebody publishes the topic, one node only, and with the right type."""

    def fail(found: str, remedy: str) -> Finding:
        return Finding(wanted.name, "publisher", "fail", found, remedy)

    if not publishers:
        readers = " and ".join(listener.node for listener in wanted.listeners)
        return fail("nobody publishes it", f"start its publisher; needed by {readers}")
    for publisher in publishers:
        if publisher.topic_type != wanted.type_name:
            found = f"{node_path(publisher)} publishes {publisher.topic_type}"
            return fail(found, f"have it publish {wanted.type_name}")
    names = ", ".join(node_path(p) for p in publishers)
    if len(publishers) > 1:
        return fail(f"{len(publishers)} publishers: {names}", "leave one of them running")
    return Finding(wanted.name, "publisher", "ok", f"from {names}")


def check_qos(
    wanted: WantedTopic, publishers: Sequence[TopicEndpointInfo], subscriptions: Sequence[TopicEndpointInfo] = ()
) -> Finding:
    """Every listener gets what every publisher offers; a listener that runs counts with what it requests in fact."""
    # The recorder subscribes through a second node of its own.
    running = {
        name: Listener(name, s.qos_profile) for s in subscriptions for name in [s.node_name.removesuffix("_streams")]
    }
    listeners = [running.get(listener.node, listener) for listener in wanted.listeners]
    for publisher in publishers:
        for listener in listeners:
            verdict, reason = qos_check_compatible(publisher.qos_profile, listener.qos)
            if verdict == QoSCompatibility.ERROR:
                offer, request = qos_text(publisher.qos_profile), qos_text(listener.qos)
                found = f"{node_path(publisher)} offers {offer}; {listener.node} requests {request}"
                return Finding(wanted.name, "QoS", "fail", found, _tidy(reason) + ": have it offer what is requested")
    return Finding(wanted.name, "QoS", "ok", "QoS fits")


def check_rate(wanted: WantedTopic, arrivals: Arrivals) -> Finding:
    """Messages come as often as expected, and evenly."""

    def finding(level: Any, found: str, remedy: str = "") -> Finding:
        return Finding(wanted.name, "rate", level, found, remedy)

    if len(arrivals.received_ns) < 2:
        found = f"silent: {len(arrivals.received_ns)} messages came"
        if wanted.is_simulated:
            return finding("warn", found, "nothing to do between episodes; start one to have it checked")
        return finding("fail", found, "its publisher runs but sends nothing: look at its log, cable and power")
    intervals_s = np.diff(arrivals.received_ns) / 1e9
    rate_hz, longest_s = 1 / intervals_s.mean(), intervals_s.max()
    found = f"{rate_hz:.1f} Hz ± {1e3 * intervals_s.std():.1f} ms"
    if wanted.is_lockstep or not wanted.rate_hz:
        return finding("ok", found)
    if rate_hz < RATE_LOW * wanted.rate_hz:
        level = "fail" if rate_hz < RATE_FAR_TOO_LOW * wanted.rate_hz else "warn"
        return finding(level, f"{found}, expected {wanted.rate_hz:g} Hz", "mend its rate: exposure, USB, CPU load")
    if longest_s > GAP_PERIODS / wanted.rate_hz:
        return finding("warn", f"{found}, longest gap {1e3 * longest_s:.0f} ms", "find what delays it: CPU load, USB")
    return finding("ok", found)


def check_stamps(wanted: WantedTopic, arrivals: Arrivals) -> Finding:
    """Stamps are set, advance, and lie shortly before the clock."""
    stamps = np.array(arrivals.stamp_ns)
    ages_s = (np.array(arrivals.clock_ns) - stamps) / 1e9
    steps = np.diff(stamps)

    def finding(level: Any, found: str, remedy: str = "") -> Finding:
        return Finding(wanted.name, "stamps", level, found, remedy)

    if zeros := int((stamps == 0).sum()):
        return finding("fail", f"{zeros} of {len(stamps)} stamps are zero", "have its driver stamp when it measures")
    if len(steps) and not steps.any():
        return finding("fail", f"all {len(stamps)} stamps are the same", "have its driver stamp every message anew")
    if (steps < 0).any():
        found = f"{int((steps < 0).sum())} of {len(stamps)} stamps go backwards"
        return finding("fail", found, "look for a second publisher, a replayed bag or a clock that was set")
    if not wanted.is_lockstep and ages_s.min() < -FUTURE_MAX_S:
        found = f"stamped up to {_seconds(-ages_s.min())} in the future, allowed {_seconds(FUTURE_MAX_S)}"
        return finding("fail", found, "synchronise the clocks of the hosts (chrony, PTP)")
    age_s = float(np.median(ages_s))
    if not wanted.is_lockstep and age_s > wanted.age_max_s:
        found = f"{_seconds(age_s)} old when it comes, allowed {_seconds(wanted.age_max_s)}"
        return finding("fail", found, "synchronise the clocks; shorten the queue of its driver")
    if repeats := int((steps == 0).sum()):
        return finding("warn", f"{repeats} of {len(stamps)} stamps repeat", "its driver sends old samples again")
    return finding("ok", "simulated stamps" if wanted.is_lockstep else f"{_seconds(age_s)} old")


def check_content(wanted: WantedTopic, message: Any) -> Finding:
    """The last message holds what the contract says, and joints are where they can be."""
    topic = wanted.topic
    kind, remedy = _KINDS.get(topic.message_type, ("pose", "mend its publisher"))
    try:
        topic.read(message)
    except InvalidValue as error:
        return Finding(wanted.name, kind, "fail", str(error), remedy)
    if isinstance(message, JointState):
        return _check_range(wanted, message)
    frame_id = message.header.frame_id
    if not frame_id and kind == "image":
        return Finding(wanted.name, "frame", "warn", "frame_id is empty", "set it: it tells which camera this is")
    size = "x".join(str(n) for n in topic.arrays[0].shape[1::-1]) if kind == "image" else kind
    return Finding(wanted.name, kind, "ok", f"{size} in {frame_id}" if frame_id else size)


def _check_range(wanted: WantedTopic, message: JointState) -> Finding:
    positions = dict(zip(message.name, message.position, strict=True))
    outside = [text for array in wanted.topic.arrays for text in _outside(array, positions)]
    if outside:
        remedy = "check unit and zero position; move the arm by hand into its range"
        return Finding(wanted.name, "positions", "fail", "; ".join(outside), remedy)
    labels = {label for array in wanted.topic.arrays for label in array.labels}
    return Finding(wanted.name, "joints", "ok", f"{len(labels)} joints in range")


def _outside(array: ArraySpec, positions: dict[str, float]) -> list[str]:
    """Word every joint that lies outside the bounds of the contract."""
    if array.low is None or array.high is None:
        return []
    found: list[str] = []
    for label, low, high in zip(array.labels, array.low, array.high, strict=True):
        slack = OUTSIDE_SHARE * (high - low)
        if not low - slack <= positions[label] <= high + slack:
            found.append(f"{label} is at {positions[label]:.4g} {array.unit}, range {low:g}..{high:g}")
    return found


def _tidy(reason: str) -> str:
    """Make one line of what the middleware says, such as 'ERROR: Best effort publisher and reliable subscription;'."""
    return reason.replace("ERROR:", "").strip(" ;").replace("; ", ", ").lower()


def _seconds(value_s: float) -> str:
    return f"{1e3 * value_s:.0f} ms" if value_s < 1 else f"{value_s:.4g} s"
