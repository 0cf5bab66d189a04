"""A running control node to play with: the policy's chunks come from the test, every command is kept and judged."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import rclpy
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from armature.spec import RobotSpec
from armature.types import ActionChunk
from armature_ros.config_files import config_folder
from armature_ros.conversions import chunk_to_msg, ns_from_time
from armature_ros.graph import NodeSpec
from armature_ros.qos import newest_stream_qos, reliable_qos
from sim.defaults import robot_limits

SPEC = RobotSpec.from_json(json.loads((config_folder() / "robots" / "fer.json").read_text())).action
LIMITS = robot_limits("fer").safety("run")
START = np.array([0.0, -0.7854, 0.0, -2.3562, 0.0, 1.5708, 0.7854, 0.04])
PERIOD_S = 0.01
PATIENCE_S = 60.0


class Lab:
    """Nodes, each a process, and a node of the test that watches them and can play the policy."""

    def __init__(self, nodes: Sequence[NodeSpec], command: Callable[[NodeSpec], list[str]] = NodeSpec.command) -> None:
        """Start the nodes, each by its `command`."""
        self._nodes = {node.name: node for node in nodes}
        self._command = command
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.commands: list[tuple[int, np.ndarray]] = []
        self.status: dict[str, Any] = {}
        self.position = START
        self._side = 1
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node("lab", context=self._context)
        self._chunks = self.node.create_publisher(JointTrajectory, "chunk", reliable_qos())
        self.node.create_subscription(
            JointTrajectory, "arm_controller/joint_trajectory", self._on_command, reliable_qos(1000)
        )
        self.node.create_subscription(String, "control_node/status", self._on_status, reliable_qos(100))
        self.node.create_subscription(JointState, "joint_states", self._on_state, newest_stream_qos(lockstep=False))
        self._services = {n: self.node.create_client(Trigger, f"control_node/{n}") for n in ("reset", "arm", "stop")}
        self._executor = EventsExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        for name in self._nodes:
            self.start(name)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._ends.set()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def start(self, name: str) -> None:
        node = self._nodes[name]
        self.processes[name] = subprocess.Popen(self._command(node), env={**os.environ, **node.environment})

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def wait(self, is_done: Callable[[], Any], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_done():
            assert time.monotonic() < deadline_s, f"{what}: not within {PATIENCE_S} s; {self.status}"
            time.sleep(0.005)

    def await_state(self, *states: str) -> None:
        self.wait(lambda: self.status.get("state") in states, f"state {states}")

    def call(self, name: str) -> Trigger.Response:
        client = self._services[name]
        self.wait(client.service_is_ready, f"service {name}")
        # A request to a server that has just come back may be lost on the way.
        for _ in range(10):
            future, asked_s = client.call_async(Trigger.Request()), time.monotonic()
            while not future.done() and time.monotonic() < asked_s + 5.0:
                time.sleep(0.005)
            if future.done():
                return future.result()
        raise AssertionError(f"no answer of {name}")

    def arm(self) -> None:
        """Arm where the arm is; the control node may not know its listeners yet."""
        self.wait(lambda: self.call("reset").success, "reset")
        self.status = {}
        self.wait(lambda: self.call("arm").success, "arming")
        self.await_state("hold", "armed")

    def plan(self, offset_rad: float = 0.0, steps: int = 16, age_ns: int = 0, actions: Any = None) -> None:
        """Publish a chunk to a place beside the start."""
        stamp_ns = self.node.get_clock().now().nanoseconds - age_ns
        target = START + np.append(np.full(7, offset_rad), 0.0)
        self.answer(stamp_ns, np.tile(target, (steps, 1)) if actions is None else actions)

    def answer(self, stamp_ns: int, actions: np.ndarray) -> None:
        """Publish a chunk that answers an observation of `stamp_ns`."""
        chunk = ActionChunk(stamp_ns, stamp_ns, SPEC.period_ns, actions, "lab")
        self._chunks.publish(chunk_to_msg(chunk, SPEC.labels))
        self.planned_s = time.monotonic()

    def drive(self) -> None:
        """Plan until requests pass: to one side of the start and to the other."""

        def is_armed() -> bool:
            self._side = -self._side
            self.plan(offset_rad=0.05 * self._side)
            time.sleep(0.1)
            return self.status.get("state") == "armed"

        self.wait(is_armed, "state armed")

    def be_driven(self) -> None:
        """Arm, and again should it latch meanwhile, until the requests of a policy that runs beside it pass."""
        self.arm()
        self.go_on()

    def go_on(self) -> None:
        """Wait until requests pass; arm anew where it has latched."""

        def is_armed() -> bool:
            if self.status.get("state") == "latched":
                self.arm()
            return self.status.get("state") == "armed"

        self.wait(is_armed, "state armed")

    def count(self, name: str) -> int:
        return self.status.get("counts", {}).get(name, 0)

    def _spin(self) -> None:
        while not self._ends.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def _on_command(self, message: JointTrajectory) -> None:
        self.commands.append((ns_from_time(message.header.stamp), np.array(message.points[0].positions)))

    def _on_status(self, message: String) -> None:
        self.status = json.loads(message.data)

    def _on_state(self, message: JointState) -> None:
        self.position = np.array(message.position)


def judge(commands: list[tuple[int, np.ndarray]]) -> None:
    """Raise AssertionError where a command is not finite, out of range, or too far from the one before."""
    commands = list(commands)  # more may come meanwhile
    positions = np.stack([command for _, command in commands])
    assert np.isfinite(positions).all()
    assert (positions >= np.array(LIMITS.position_low)).all()
    assert (positions <= np.array(LIMITS.position_high)).all()
    steps = np.diff(positions, axis=0)[:, :7]
    assert (np.abs(steps) <= np.array(LIMITS.velocity_max)[:7] * PERIOD_S + 1e-9).all()
    changes = np.abs(np.diff(steps, axis=0))
    # A command has the stamp of its deadline. Ticks that were missed have braked by as much each.
    ticks = np.round(np.diff([stamp for stamp, _ in commands]) / (PERIOD_S * 1e9)).clip(1)
    allowed = np.array(LIMITS.acceleration_max)[:7] * PERIOD_S**2 * np.maximum(ticks[:-1], ticks[1:])[:, None]
    worst = np.unravel_index(np.argmax(changes - allowed), changes.shape)
    assert (changes <= allowed + 1e-9).all(), f"{positions[worst[0] : worst[0] + 3, worst[1]]} of joint {worst[1]}"
