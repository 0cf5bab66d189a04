"""Watches the control path of a running graph from outside, and arms it."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from armature_ros.conversions import ns_from_time
from armature_ros.qos import newest_stream_qos, reliable_qos

KEPT = 20_000
STOPPED = ("hold", "latched")
ANSWER_S = 0.5
ARMING = ("control_node/reset", "control_node/arm")


class Track:
    """Positions with the time at which they were seen to differ from the ones before."""

    def __init__(self) -> None:
        self.changes_s: deque[float] = deque(maxlen=KEPT)
        self._position: list[float] = []

    def add(self, position: Sequence[float]) -> None:
        """Take note of a position."""
        if list(position) != self._position:
            self.changes_s.append(time.monotonic())
            self._position = list(position)

    def last_change_s(self, since_s: float) -> float:
        """Return when it changed last, `since_s` where it has not changed since."""
        return max(self.changes_s[-1], since_s) if self.changes_s else since_s

    def longest_pause_s(self, begin_s: float, end_s: float) -> float:
        """Return the longest time without a change between two times."""
        changes_s = [begin_s, *(at_s for at_s in list(self.changes_s) if begin_s < at_s < end_s), end_s]
        return max(after - before for before, after in pairwise(changes_s))


class GraphProbe:
    """A node of its own, spinning on a thread of its own."""

    def __init__(self, *services: str) -> None:
        """`services` without arguments can be called, beside those that arm."""
        self.commands, self.states = Track(), Track()
        self._statuses: deque[tuple[float, str]] = deque(maxlen=KEPT)
        self._newest_status = ""
        self._chunk_length_ns = 0
        self._chunk_end_ns = 0
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node("graph_probe", context=self._context)
        self._node.create_subscription(
            JointTrajectory, "arm_controller/joint_trajectory", self._on_command, reliable_qos(100)
        )
        self._node.create_subscription(JointState, "joint_states", self._on_state, newest_stream_qos(lockstep=False))
        self._node.create_subscription(JointTrajectory, "chunk", self._on_chunk, reliable_qos())
        self._node.create_subscription(String, "control_node/timing", self._on_timing, reliable_qos(100))
        self._node.create_subscription(String, "control_node/status", self._on_status, reliable_qos(100))
        self._services = {name: self._node.create_client(Trigger, name) for name in (*ARMING, *services)}
        self._executor = EventsExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ends.set()
        self._thread.join()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def listen(self, message_type: type, topic: str, qos: QoSProfile, on_message: Callable[[Any], None]) -> None:
        """Subscribe to one more topic."""
        self._node.create_subscription(message_type, topic, on_message, qos)

    def drive(self, timeout_s: float, moves: bool = True) -> None:
        """Arm, again if need be, until the arm is driven and `moves`; raise TimeoutError when it will not."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self.is_driven() and (self._moves() or not moves):
                return
            # Holding, it waits for a chunk, which a reset would put off.
            if self._state() in ("disarmed", "latched"):
                for name in ARMING:
                    self.call(name)
            time.sleep(0.05)
        raise TimeoutError(
            f"the arm does not move: state {self._state()}, {len(self.commands.changes_s)} commands seen; the control "
            f"node's last status: {self._newest_status}"
        )

    def is_driven(self) -> bool:
        """Tell whether requests pass."""
        return self._state() == "armed"

    def call(self, name: str) -> None:
        """Call a service, and wait for its answer half a second at most: who is to give it may have been killed."""
        client = self._services[name]
        if client.wait_for_service(timeout_sec=ANSWER_S):
            future = client.call_async(Trigger.Request())
            deadline_s = time.monotonic() + ANSWER_S
            while not future.done() and time.monotonic() < deadline_s:
                time.sleep(0.01)

    def chunk_ends_s(self) -> float:
        """Return when the newest chunk ends, on this process' steady clock."""
        # Stamps are of the system's clock; only the distance to now matters.
        return time.monotonic() + (self._chunk_end_ns - self._node.get_clock().now().nanoseconds) / 1e9

    def held_since_s(self, since_s: float) -> float:
        """Return when the control node said first that it holds, infinite where it has not."""
        statuses = list(self._statuses)  # another thread adds to them meanwhile
        return min((at for at, state in statuses if at >= since_s and state in STOPPED), default=float("inf"))

    def _state(self) -> str:
        return self._statuses[-1][1] if self._statuses and time.monotonic() - self._statuses[-1][0] < 0.5 else "silent"

    def _moves(self) -> bool:
        now_s = time.monotonic()
        return all(track.changes_s and now_s - track.changes_s[-1] < 0.05 for track in (self.commands, self.states))

    def _spin(self) -> None:
        try:
            while not self._ends.is_set():
                self._executor.spin_once(timeout_sec=0.1)
        except ExternalShutdownException:
            pass

    def _on_command(self, message: JointTrajectory) -> None:
        self.commands.add(message.points[0].positions)

    def _on_state(self, message: JointState) -> None:
        self.states.add(message.position)

    def _on_chunk(self, message: JointTrajectory) -> None:
        period_ns = ns_from_time(message.points[1].time_from_start) - ns_from_time(message.points[0].time_from_start)
        self._chunk_length_ns = ns_from_time(message.points[-1].time_from_start) + period_ns
        self._take_chunk(ns_from_time(message.header.stamp))

    def _on_timing(self, message: String) -> None:
        # A policy that is killed while it sends may have reached the control node alone.
        self._take_chunk(json.loads(message.data)["stamp_ns"])

    def _take_chunk(self, stamp_ns: int) -> None:
        self._chunk_end_ns = max(self._chunk_end_ns, stamp_ns + self._chunk_length_ns)

    def _on_status(self, message: String) -> None:
        self._newest_status = message.data
        self._statuses.append((time.monotonic(), json.loads(message.data)["state"]))
