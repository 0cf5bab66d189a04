"""Faults around a running control node: the arm beside it is the stand-in, the policy's chunks come from the test.

Every command of every test is looked at: finite, in range, and within speed and acceleration of the one before.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
from armature_ros.conversions import chunk_to_msg, ns_from_time
from armature_ros.graph import GraphConfig, NodeSpec, config_folder, make_graph
from armature_ros.qos import newest_stream_qos, reliable_qos
from sim.defaults import robot_limits

pytestmark = pytest.mark.ros

SPEC = RobotSpec.from_json(json.loads((config_folder() / "robots" / "fer.json").read_text())).action
LIMITS = robot_limits("fer").safety("run")
START = np.array([0.0, -0.7854, 0.0, -2.3562, 0.0, 1.5708, 0.7854, 0.04])
PERIOD_S = 0.01
PATIENCE_S = 60.0


class Lab:
    """Control node and stand-in for the arm, each a process; a node of the test that plays the policy and watches."""

    def __init__(self, nodes: tuple[NodeSpec, ...]) -> None:
        self._nodes = {node.name: node for node in nodes}
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
        self.processes[name] = subprocess.Popen(node.command(), env={**os.environ, **node.environment})

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
        actions = np.tile(target, (steps, 1)) if actions is None else actions
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


@pytest.fixture(scope="module")
def running(module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    flights = tmp_path_factory.mktemp("flights")
    overrides = (f"control_node.flight_folder={flights}",)
    graph = make_graph("robot", GraphConfig(cameras=False, mock_arm=True, overrides=overrides))
    lab = Lab(tuple(node for node in graph if node.name in ("control_node", "mock_arm_node")))
    lab.flights = flights
    yield lab
    lab.close()


@pytest.fixture
def lab(running: Lab) -> Iterator[Lab]:
    """The running graph, driven; afterwards every command that it sent meanwhile is judged."""
    running.arm()
    running.commands.clear()
    running.drive()
    running.wait(lambda: len(running.commands) > 20, "commands")
    yield running
    judge(running.commands)


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
    # Ticks that were missed have braked by as much each; a command that was lost on the way here counts as one.
    ticks = np.round(np.diff([stamp for stamp, _ in commands]) / (PERIOD_S * 1e9)).clip(1)
    allowed = np.array(LIMITS.acceleration_max)[:7] * PERIOD_S**2 * np.maximum(ticks[:-1], ticks[1:])[:, None]
    worst = np.unravel_index(np.argmax(changes - allowed), changes.shape)
    assert (changes <= allowed + 1e-9).all(), f"{positions[worst[0] : worst[0] + 3, worst[1]]} of joint {worst[1]}"


@pytest.mark.fault(row=1)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_chunk_that_is_not_finite_is_refused_whole_and_the_one_before_goes_on(lab: Lab, bad: float) -> None:
    actions = np.tile(lab.position, (16, 1))
    actions[5, 2] = bad
    before = lab.count("refused: chunk")
    lab.plan(actions=actions)
    lab.wait(lambda: lab.count("refused: chunk") == before + 1, "refusal")
    assert lab.status["state"] in ("armed", "hold")


@pytest.mark.fault(row=9)
def test_degrees_as_the_first_request_latch(lab: Lab) -> None:
    lab.arm()
    lab.plan(actions=np.tile(np.append(np.degrees(lab.position[:7]), 0.04), (16, 1)))
    lab.await_state("latched")
    assert lab.status["fault"] == "first_command"
    lab.plan()
    time.sleep(0.3)
    assert lab.status["state"] == "latched"  # nothing but arming ends it
    lab.arm()
    lab.drive()


@pytest.mark.fault(row=11)
def test_a_chunk_that_answers_an_old_observation_is_not_executed(lab: Lab) -> None:
    lab.await_state("hold")
    lab.wait(lambda: time.monotonic() - lab.planned_s > 1.3, "time")
    lab.plan(steps=60, age_ns=1_200_000_000)
    lab.wait(lambda: lab.count("stale_chunk") > 0, "stale chunk")
    assert lab.status["state"] == "hold"


@pytest.mark.fault(row=12)
@pytest.mark.parametrize(("age_ns", "reason"), [(-1_000_000_000, "chunk dropped: from the future")])
def test_a_chunk_from_the_future_is_dropped(lab: Lab, age_ns: int, reason: str) -> None:
    before = lab.count(reason)
    lab.plan(age_ns=age_ns)
    lab.wait(lambda: lab.count(reason) == before + 1, reason)


@pytest.mark.fault(row=13)
def test_chunks_that_come_twice_or_out_of_order_are_dropped_and_counted(lab: Lab) -> None:
    stamp_ns = lab.node.get_clock().now().nanoseconds
    for age_ns, reason in ((0, ""), (0, "duplicate"), (50_000_000, "out of order")):
        chunk = ActionChunk(stamp_ns - age_ns, stamp_ns - age_ns, SPEC.period_ns, np.tile(lab.position, (16, 1)), "lab")
        lab._chunks.publish(chunk_to_msg(chunk, SPEC.labels))
        if reason:
            lab.wait(lambda r=reason: lab.count(f"chunk dropped: {r}") > 0, reason)


@pytest.mark.fault(row=14)
def test_in_a_flood_of_chunks_the_newest_wins_and_commands_go_on(lab: Lab) -> None:
    begin = len(lab.commands)
    for _ in range(2000):
        lab.plan(offset_rad=0.01)
    lab.drive()
    lab.wait(lambda: len(lab.commands) > begin + 50, "commands")


@pytest.mark.fault(row=15)
def test_a_second_writer_latches_and_nothing_arms_while_it_is_there(lab: Lab) -> None:
    intruder = lab.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", reliable_qos())
    lab.await_state("latched")
    assert lab.status["fault"] == "second_writer"
    answer = lab.call("arm")
    assert not answer.success
    assert "2 nodes publish arm_controller/joint_trajectory" in answer.message
    lab.node.destroy_publisher(intruder)
    lab.arm()
    lab.drive()


@pytest.mark.fault(row=20)
def test_the_control_node_is_the_only_one_that_writes_to_the_arm(lab: Lab) -> None:
    (writer,) = lab.node.get_publishers_info_by_topic("arm_controller/joint_trajectory")
    assert writer.node_name == "control_node"


@pytest.mark.fault(row=21)
def test_an_arm_that_is_stopped_holds_then_latches_and_needs_arming(lab: Lab) -> None:
    lab.processes["mock_arm_node"].send_signal(signal.SIGSTOP)
    try:
        lab.await_state("latched")
        assert lab.status["fault"] == "state_lost"
        assert lab.count("stale_state") > 0
    finally:
        lab.processes["mock_arm_node"].send_signal(signal.SIGCONT)
    lab.plan()
    time.sleep(0.3)
    assert lab.status["state"] == "latched"
    dump = next(iter(lab.flights.glob("*state_lost")))
    assert (dump / "flight.npz").is_file()
    lab.arm()
    lab.drive()


@pytest.mark.fault(row=30)
@pytest.mark.fault(row=31)
def test_without_further_chunks_the_last_one_is_executed_to_its_end_then_the_arm_holds(lab: Lab) -> None:
    lab.commands.clear()
    lab.plan(offset_rad=0.1)
    lab.await_state("hold")
    assert lab.count("no_chunk") > 0
    moving = [np.abs(b - a).max() for (_, a), (_, b) in zip(lab.commands, lab.commands[1:], strict=False)]
    assert max(moving) > 0
    assert lab.commands[-1][1].tolist() == lab.commands[-2][1].tolist()
    lab.drive()  # and goes on by itself


@pytest.mark.fault(row=32)
def test_a_chunk_that_comes_after_its_own_end_is_dropped(lab: Lab) -> None:
    lab.plan()
    lab.await_state("hold")
    lab.plan(steps=4, age_ns=300_000_000)
    lab.wait(lambda: lab.count("chunk dropped: late") > 0, "late chunk")


@pytest.mark.fault(row=55)
def test_when_the_control_node_dies_the_arm_stops_by_itself_and_the_new_one_is_disarmed(lab: Lab) -> None:
    lab.kill("control_node")
    before = lab.position
    time.sleep(0.5)
    after = lab.position
    time.sleep(0.3)
    assert lab.position.tolist() == after.tolist()
    assert np.abs(after - before).max() < 0.02
    judge(lab.commands)
    lab.status = {}
    lab.commands.clear()
    lab.start("control_node")
    lab.await_state("disarmed")
    lab.plan()
    time.sleep(0.3)
    assert lab.status["state"] == "disarmed"
    lab.arm()
    lab.drive()


def test_the_operators_stop_latches(lab: Lab) -> None:
    assert lab.call("stop").success
    lab.await_state("latched")
    assert lab.status["fault"] == "operator"
    lab.arm()
    lab.drive()


def test_asked_to_end_it_brings_the_arm_to_rest_first(lab: Lab, tmp_path: Path) -> None:
    lab.plan(offset_rad=0.2)
    lab.processes["control_node"].send_signal(signal.SIGTERM)
    assert lab.processes["control_node"].wait(timeout=PATIENCE_S) == 0
    time.sleep(0.2)
    # At rest and disarmed it follows what is measured, which lags behind by a little.
    assert lab.commands[-1][1] == pytest.approx(lab.commands[-2][1], abs=1e-3)
    lab.start("control_node")
    lab.arm()
    lab.drive()
