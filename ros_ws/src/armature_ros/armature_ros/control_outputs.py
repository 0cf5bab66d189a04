"""Everything that the control node publishes about its commands."""

from __future__ import annotations

import json
import time

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Float64, String
from trajectory_msgs.msg import JointTrajectory

from armature.spec import ActionSpec
from armature.types import Command, CommittedActions
from armature_ros.conversions import action_to_msg, committed_to_msg
from armature_ros.qos import latched_qos, reliable_qos

RECORDED_DEPTH = 100


class ControlOutputs:
    """Commands for the arm, the same for the recorder, and how long they took."""

    def __init__(self, node: Node, spec: ActionSpec, command_topic: str, period_ns: int) -> None:
        self.last_ns: int | None = None
        """When the last command went out [ns, steady clock]."""
        self._node, self._labels, self._period_ns = node, spec.labels, period_ns
        self._nothing_asked = np.full(spec.dim, np.nan)
        self._answered_ns = self._sent_ns = -1
        # Latched, so that a recorder that is matched after the first ticks misses none.
        recorded = latched_qos(RECORDED_DEPTH)
        self._command = node.create_publisher(JointTrajectory, command_topic, reliable_qos())
        self._executed = node.create_publisher(JointTrajectory, "control/executed", recorded)
        self._requested = node.create_publisher(JointTrajectory, "control/requested", recorded)
        self._committed = node.create_publisher(JointTrajectory, "control/committed", reliable_qos())
        self._delay = node.create_publisher(Float64, "control/delay", reliable_qos())
        self._period = node.create_publisher(Float64, "~/period", reliable_qos(1000))
        self._latency = node.create_publisher(Float64, "~/latency", reliable_qos(1000))
        self._timing = node.create_publisher(String, "~/timing", reliable_qos(1000))

    def begin(self) -> None:
        """Forget when the last command went out, and which observation it answered."""
        self.last_ns, self._answered_ns = None, -1

    def send(self, command: Command) -> None:
        """Send a command to the arm, then tell the others."""
        message = action_to_msg(command.action, self._labels, command.stamp_ns, self._period_ns)
        self._command.publish(message)
        now_ns = time.monotonic_ns()
        self._sent_ns = self._node.get_clock().now().nanoseconds
        self._executed.publish(message)
        asked = self._nothing_asked if command.requested is None else command.requested
        self._requested.publish(action_to_msg(asked, self._labels, command.stamp_ns, self._period_ns))
        if self.last_ns is not None:
            self._period.publish(Float64(data=(now_ns - self.last_ns) / 1e9))
        self.last_ns = now_ns

    def tell_latency(self, command: Command) -> None:
        """Publish when a chunk's first command went out, and the age then of the observation that it answers."""
        answered_ns = command.chunk_stamp_ns
        if answered_ns is not None and answered_ns > self._answered_ns:
            self._answered_ns = answered_ns
            self._latency.publish(Float64(data=(self._sent_ns - answered_ns) / 1e9))
            self._timing.publish(String(data=json.dumps({"stamp_ns": answered_ns, "command_ns": self._sent_ns})))

    def tell_committed(self, committed: CommittedActions) -> None:
        """Tell a policy that can be guided what its next chunk has to go on from, and how long it has."""
        self._committed.publish(committed_to_msg(committed, self._labels))
        self._delay.publish(Float64(data=committed.delay_ns / 1e9))

    def count_writers(self) -> int:
        """Count who publishes commands for the arm, this node included."""
        return self._node.count_publishers(self._command.topic_name)

    def has_listener(self) -> bool:
        """Tell whether the arm listens."""
        return self._command.get_subscription_count() > 0
