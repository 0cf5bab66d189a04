"""A running graph to break: nodes can be stopped, messages put in, the arm replaced by one that says other things."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from graph_probe import GraphProbe
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty, String
from swinging import START, fer_spec
from trajectory_msgs.msg import JointTrajectory

from armature.types import ActionChunk
from armature_ros.conversions import chunk_to_msg, joint_state_to_msg, ns_from_time
from armature_ros.graph import NodeSpec
from armature_ros.qos import reliable_qos
from armature_ros.up import RunningGraph
from sim.defaults import robot_limits

SPEC = fer_spec().action
LIMITS = robot_limits("fer").safety("run")
PERIOD_S = 0.01
GIVE_UP_S = 120.0
COMMAND_TOPIC = "arm_controller/joint_trajectory"

Status = dict[str, Any]
Commands = list[tuple[float, int, NDArray[np.float64]]]
"""When each was received [s, steady clock], its stamp, and the positions."""


class FaultLab:
    """The nodes, what is heard of them, and what can be said to them. All times are of the steady clock [s]."""

    def __init__(self, nodes: Sequence[NodeSpec], environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self.commands: Commands = []
        self.statuses: list[tuple[float, Status]] = []
        self.last_state_s = self.last_beat_s = 0.0
        self._graph = RunningGraph(nodes, environment, log=lambda *_: None)
        self._probe = GraphProbe()
        self._probe.listen(JointTrajectory, COMMAND_TOPIC, reliable_qos(1000), self._on_command)
        self._probe.listen(String, "control_node/status", reliable_qos(1000), self._on_status)
        self._probe.listen(JointState, "joint_states", reliable_qos(100), self._on_state)
        self._probe.listen(Empty, "policy_node/heartbeat", reliable_qos(1), self._on_beat)
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node("fault_injector", context=self._context)
        self._chunks = self._node.create_publisher(JointTrajectory, "chunk", reliable_qos())
        self._states = self._node.create_publisher(JointState, "joint_states", reliable_qos())

    def __enter__(self) -> FaultLab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._probe.close()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)
        self._graph.stop()

    def drive(self) -> None:
        """Have the policy drive the arm, and begin to keep commands and statuses."""
        self._graph.check()
        self._probe.drive(GIVE_UP_S)
        self.commands.clear()
        self.statuses.clear()
        while len(self.commands) < 20 or not self.statuses:
            time.sleep(PERIOD_S)

    def counts(self) -> Counter[str]:
        """Return the control node's counters as of its last status."""
        return Counter(self.statuses[-1][1]["counts"])

    @property
    def inward(self) -> float:
        """Return to which side, 1 or -1, the first joint comes nearer to where the arm began, far from all walls."""
        return 1.0 if self.commands[-1][2][0] < START[0] else -1.0

    def chunk_ends_s(self) -> float:
        """Return when the newest chunk ends."""
        return self._probe.chunk_ends_s()

    def stop(self, name: str) -> Callable[[], None]:
        """Stop a process; return what lets it go on."""
        pid = self._graph.pids()[name]
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)

    def say_chunk(
        self,
        age_s: float = 0.0,
        steps: int = 16,
        labels: Sequence[str] = SPEC.labels,
        bad: float = 0.0,
        drift_rad: float = 0.0,
    ) -> None:
        """Publish a chunk that begins at the last command and moves the first joint by `drift_rad` in the end.

        `bad` is added to one element, what is not in `labels` is left out.
        """
        stamp_ns = self._node.get_clock().now().nanoseconds - round(age_s * 1e9)
        actions = np.tile(self.commands[-1][2], (steps, 1))
        actions[:, 0] += np.linspace(0.0, drift_rad, steps)
        actions[steps // 2, 2] += bad
        chunk = ActionChunk(stamp_ns, stamp_ns, SPEC.period_ns, actions[:, : len(labels)], "injected")
        self._chunks.publish(chunk_to_msg(chunk, tuple(labels)))

    def say_state(self, position: NDArray[np.float64], ahead_s: float = 0.0) -> None:
        """Publish a state of the arm."""
        stamp_ns = self._node.get_clock().now().nanoseconds + round(ahead_s * 1e9)
        self._states.publish(joint_state_to_msg(SPEC.labels, position, stamp_ns))

    def replace_arm(self, state: Callable[[float], NDArray[np.float64]], drift_rad: float = 0.0) -> Callable[[], None]:
        """Stop the arm and publish in its place `state(seconds since then)` at its rate; return what ends that.

        The policy, which would follow what it sees, is stopped as well: a last chunk leads `drift_rad` away.
        """
        go_on, ends = [self.stop("policy_node"), self.stop("mock_arm_node")], threading.Event()
        begin_s = time.monotonic()
        self.say_chunk(drift_rad=drift_rad)

        def publish() -> None:
            while not ends.wait(PERIOD_S):
                self.say_state(state(time.monotonic() - begin_s))

        thread = threading.Thread(target=publish, daemon=True)
        thread.start()

        def undo() -> None:
            ends.set()
            thread.join()
            for each in go_on:
                each()

        return undo

    def write_too(self) -> tuple[Callable[[], None], float]:
        """Become a second writer to the arm; return what ends that, and since when the arm would hear it."""
        publisher: Publisher = self._node.create_publisher(JointTrajectory, COMMAND_TOPIC, reliable_qos())
        while not publisher.get_subscription_count():
            time.sleep(0.001)
        return lambda: self._node.destroy_publisher(publisher), time.monotonic()

    def _on_command(self, message: JointTrajectory) -> None:
        positions = np.array(message.points[0].positions)
        self.commands.append((time.monotonic(), ns_from_time(message.header.stamp), positions))

    def _on_status(self, message: String) -> None:
        self.statuses.append((time.monotonic(), json.loads(message.data)))

    def _on_state(self, _: JointState) -> None:
        self.last_state_s = time.monotonic()

    def _on_beat(self, _: Empty) -> None:
        self.last_beat_s = time.monotonic()


def violations(commands: Commands) -> list[str]:
    """Name every command that is not finite, out of range, or beyond speed or acceleration from the one before.

    Where ticks are left out, either the loop missed them, and has braked by as much, or commands were lost on the way
    here, and the next one lies so many ticks further; what fits neither is a violation.
    """
    positions = np.stack([position for _, _, position in commands])
    joints = np.isfinite(LIMITS.velocity_max)
    steps = np.diff(positions, axis=0)[:, joints]
    ticks = _ticks_between(np.array([stamp_ns for _, stamp_ns, _ in commands]))[:, None]
    too_fast, too_hard = (
        missed & lost for missed, lost in zip(_beyond(steps, ticks), _beyond(steps / ticks, ticks), strict=True)
    )
    checks = {
        "not finite": ~np.isfinite(positions),
        "out of range": (positions < LIMITS.position_low) | (positions > LIMITS.position_high),
        "too fast": too_fast,
        "too hard": too_hard,
    }
    found = [(what, row) for what, bad in checks.items() for row in np.flatnonzero(bad.any(axis=1))]
    return [f"command {row} of {len(commands)}: {what}" for what, row in found]


def _ticks_between(stamps_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how many ticks lie between commands (n,), (n - 1,): their stamps are those of their deadlines."""
    return np.rint(np.diff(stamps_ns) / (PERIOD_S * 1e9)).clip(1)


def _beyond(steps: NDArray[np.float64], ticks: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which steps (n, joints) of a tick each are beyond the speed, and which changes (n - 1, joints) too great."""
    joints = np.isfinite(LIMITS.velocity_max)
    speeds = np.array(LIMITS.velocity_max)[joints] * PERIOD_S
    allowed = np.array(LIMITS.acceleration_max)[joints] * PERIOD_S**2 * np.maximum(ticks[:-1], ticks[1:])
    return ~(np.abs(steps) <= speeds + 1e-9), ~(np.abs(np.diff(steps, axis=0)) <= allowed + 1e-9)
