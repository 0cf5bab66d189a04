"""What a residual sees at the moment of a base action: observations, the measured state and the command before it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from armature.control.observation_buffer import ObservationBuffer
from armature.errors import InvalidValue
from armature_ros.conversions import action_from_msg, measured_from_joint_state, ns_from_time
from armature_ros.diagnostics import StreamMonitor
from armature_ros.qos import find_mismatch, latched_qos, newest_stream_qos, reliable_qos
from armature_ros.residual_config import ResidualNodeConfig
from armature_ros.streams import TopicArrays, live_checks, subscribe, topics_of
from policies.residual_view import ResidualView

EXECUTED = "control/executed"
KEPT = 100
REPORT_S = 2.0


@dataclass(frozen=True)
class Seen:
    """What there is to see at one stamp."""

    values: dict[str, NDArray[Any]]
    measured: NDArray[np.float64]
    commanded: NDArray[np.float64]
    """The command before (D,); at the beginning of an episode, where the arm is."""


class _Recent:
    """The newest values of a stream, stamps ascending."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=KEPT)

    def add(self, stamp_ns: int, value: NDArray[np.float64]) -> None:
        if not self._samples or stamp_ns > self._samples[-1][0]:
            self._samples.append((stamp_ns, value))

    def newest(self, until_ns: int, age_max_ns: int) -> NDArray[np.float64] | None:
        """Return the newest value not after a time, None where that is too old."""
        found = next(((s, v) for s, v in reversed(self._samples) if s <= until_ns), None)
        return None if found is None or until_ns - found[0] > age_max_ns else found[1]

    def clear(self) -> None:
        self._samples.clear()


class ResidualInputs:
    """Listens to the robot and to what it is told; `on_input()` is called when something has come."""

    def __init__(
        self, node: Node, view: ResidualView, config: ResidualNodeConfig, on_input: Callable[[], object]
    ) -> None:
        self.refused: Counter[str] = Counter()
        self._node, self._view, self._config, self._on_input = node, view, config, on_input
        self._buffer = self._make_buffer()
        self._measured, self._commanded = _Recent(), _Recent()
        self._begin_ns = 0
        lockstep = config.lockstep
        topics = topics_of(view.spec.observation.arrays, config.streams)
        self._monitors = {t.topic: StreamMonitor(0.0 if lockstep else t.rate_hz) for t in topics}
        self._subscriptions = subscribe(node, topics, newest_stream_qos(lockstep=lockstep), self._on_stream)
        node.create_subscription(
            JointState, config.joint_state_topic, self._on_joint_state, newest_stream_qos(lockstep=lockstep)
        )
        executed_qos = latched_qos(KEPT) if lockstep else reliable_qos()
        node.create_subscription(JointTrajectory, EXECUTED, self._on_executed, executed_qos)

    def begin(self, begin_ns: int) -> None:
        """Forget what came before an episode."""
        self._begin_ns = begin_ns
        self._buffer.reset(begin_ns)
        self._measured.clear()
        self._commanded.clear()

    def at(self, stamp_ns: int) -> Seen | None:
        """Return what is seen at a stamp; None while something of it is missing, or too old."""
        age_max_ns = 0 if self._config.lockstep else round(self._config.max_age_s * 1e9)
        measured = self._measured.newest(stamp_ns, age_max_ns)
        observation = None if measured is None else self._buffer.latest(stamp_ns)
        commanded = None if measured is None else self._command_before(stamp_ns, age_max_ns, measured)
        if measured is None or observation is None or commanded is None:
            return None
        return Seen(observation.latest(), measured, commanded)

    def diagnose(self) -> dict[str, dict[str, str]]:
        """Return the figures of every stream."""
        return {
            topic: {
                **monitor.report(),
                "malformed": str(self.refused[topic]),
                "error": find_mismatch(self._node, self._subscriptions[topic]),
            }
            for topic, monitor in self._monitors.items()
        }

    def missing(self, stamp_ns: int) -> list[str]:
        """Name the streams that nothing is known of at a stamp, and why."""
        return self._buffer.missing(stamp_ns)

    def _command_before(
        self, stamp_ns: int, age_max_ns: int, measured: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        if not self._config.lockstep:
            found = self._commanded.newest(stamp_ns - 1, age_max_ns)
            return measured if found is None else found
        if stamp_ns == self._begin_ns:
            return measured
        return self._commanded.newest(stamp_ns - self._view.spec.action.period_ns, 0)

    def _make_buffer(self) -> ObservationBuffer:
        config, spec = self._config, self._view.spec.observation
        if config.lockstep:
            return ObservationBuffer(spec, 1, max_age_ns=0)
        times = {"future_max_s": config.future_max_s, "skew_max_s": config.skew_max_s}
        live = live_checks(spec, config.streams, lambda: self._node.get_clock().now().nanoseconds, **times)
        return ObservationBuffer(spec, 1, round(config.max_age_s * 1e9), live=live)

    def _on_stream(self, topic: TopicArrays, message: Any) -> None:
        received_ns, stamp_ns = time.monotonic_ns(), ns_from_time(message.header.stamp)
        self._monitors[topic.topic].on_sample(stamp_ns, received_ns)
        try:
            values = topic.read(message)
        except InvalidValue as error:
            self.refuse(topic.topic, error)
            return
        for name, value in values.items():
            self._buffer.push(name, stamp_ns, received_ns, value)
        self._on_input()

    def _on_joint_state(self, message: JointState) -> None:
        try:
            measured = measured_from_joint_state(message, self._view.spec.action)
        except InvalidValue as error:
            self.refuse(self._config.joint_state_topic, error)
            return
        self._measured.add(ns_from_time(message.header.stamp), measured)
        self._on_input()

    def _on_executed(self, message: JointTrajectory) -> None:
        try:
            command = action_from_msg(message, self._view.spec.action.labels)
        except InvalidValue as error:
            self.refuse(EXECUTED, error)
            return
        self._commanded.add(ns_from_time(message.header.stamp), command)
        self._on_input()

    def refuse(self, topic: str, error: Exception) -> None:
        """Count and report a message that cannot be used."""
        self.refused[topic] += 1
        self._node.get_logger().error(f"{topic}: {error}; refused", throttle_duration_sec=REPORT_S)
