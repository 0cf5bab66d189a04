"""Row 57: two busy processes take the processor, and nodes stall beside them. The arm still stops, the cause is named.

The policy is a real one with random weights, which moves the arm around the place where it began. Every node can be
told to collect garbage that has piled up, or to block its callbacks: see `stalling_node.py`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from control_lab import PERIOD_S, START, Lab, judge
from diagnostic_msgs.msg import DiagnosticArray

from armature.spec import JOINT_POSITION, RobotSpec
from armature_ros.config_files import config_folder
from armature_ros.graph import NodeSpec, make_graph
from armature_ros.graph_config import GraphConfig

pytestmark = [pytest.mark.ros, pytest.mark.alone, pytest.mark.fault(row=57)]

STALLING = Path(__file__).with_name("stalling_node.py")
PAUSE, BLOCK = signal.SIGUSR1, signal.SIGUSR2
BUSY = 2


def stalling(node: NodeSpec) -> list[str]:
    """Return the command line of a node that can be made to stall."""
    interpreter, _, *rest = node.command()
    return [interpreter, str(STALLING), *rest]


@pytest.fixture(scope="module")
def running(
    module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory, write_checkpoint: Callable[..., Path]
) -> Iterator[Lab]:
    """The graph `robot`, and what takes its processor away once it is there."""
    spec = RobotSpec.from_json(json.loads((config_folder() / "robots" / "fer.json").read_text()))
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("p") / "policy", spec, (JOINT_POSITION,), around=START)
    config = GraphConfig(policy=str(checkpoint), cameras=False, mock_arm=True, execute_steps=4,
                         overrides=('control_node.flight_folder=""',))  # fmt: skip
    lab = Lab(make_graph("robot", config), stalling)
    lab.be_driven()
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    yield lab
    for hog in hogs:
        hog.kill()
        hog.wait()
    lab.close()


@pytest.fixture
def lab(running: Lab) -> Iterator[Lab]:
    """The starved graph, driven; afterwards every command that it sent meanwhile is judged."""
    running.be_driven()
    running.commands.clear()
    running.wait(lambda: len(running.commands) > 50, "commands")
    yield running
    judge(running.commands)
    stamps_ns = np.array([stamp for stamp, _ in running.commands])
    # However late a tick was: all are of deadlines, whole periods apart, of which some were missed.
    periods = np.diff(stamps_ns) / (PERIOD_S * 1e9)
    assert np.abs(periods - periods.round()).max() < 0.05
    assert periods.min() > 0.9


def await_rest(lab: Lab) -> None:
    """Wait until neither the commands nor the arm have moved for a fifth of a second."""

    def is_at_rest() -> bool:
        command, position = lab.commands[-1][1], lab.position
        time.sleep(0.2)
        return bool((lab.commands[-1][1] == command).all() and np.array_equal(lab.position, position))

    lab.wait(is_at_rest, "rest")


def await_named(lab: Lab, node: str, number: signal.Signals, is_named: Callable[[], bool], what: str) -> str:
    """Make a node stall; return, as a figure, how long it took until that was named."""
    begin_s = time.monotonic()
    lab.processes[node].send_signal(number)
    lab.wait(is_named, what)
    return f"{what} after {(time.monotonic() - begin_s) * 1e3:.0f} ms"


def test_the_operators_stop_brings_the_arm_to_rest(lab: Lab, record_property: Callable[[str, str], None]) -> None:
    overruns, ticks = lab.status["overruns"], len(lab.commands)
    assert lab.call("stop").success
    lab.await_state("latched")
    await_rest(lab)
    overruns, ticks = lab.status["overruns"] - overruns, len(lab.commands) - ticks
    record_property("figure", f"operator's stop beside {BUSY} busy processes: {overruns} overruns in {ticks} ticks")


def test_blocked_callbacks_of_the_control_node_stop_the_arm(
    lab: Lab, record_property: Callable[[str, str], None]
) -> None:
    """Its loop goes on without what the callbacks bring: it holds, then latches, and says so itself."""
    held = lab.count("stale_state")
    figure = await_named(lab, "control_node", BLOCK, lambda: lab.status["state"] == "latched", "state_lost")
    assert lab.status["fault"] == "state_lost"
    assert lab.count("stale_state") > held
    await_rest(lab)
    record_property("figure", f"callbacks of control_node blocked: {figure}")


def test_blocked_callbacks_of_the_arm_stop_it(lab: Lab, record_property: Callable[[str, str], None]) -> None:
    figure = await_named(lab, "mock_arm_node", BLOCK, lambda: lab.status["fault"] == "state_lost", "state_lost")
    await_rest(lab)
    record_property("figure", f"callbacks of the arm blocked: {figure}")


@pytest.mark.parametrize(("number", "how"), [(BLOCK, "blocked callbacks"), (PAUSE, "a pause for garbage")])
def test_a_policy_that_stalls_is_named_by_its_heartbeat(
    lab: Lab, number: signal.Signals, how: str, record_property: Callable[[str, str], None]
) -> None:
    named = "policy_node is silent"
    figure = await_named(lab, "policy_node", number, lambda: named in lab.status["faults"], named)
    lab.wait(lambda: named not in lab.status["faults"], "signs of life")
    lab.go_on()  # an arm that is starved may have latched for itself
    record_property("figure", f"{how} of the policy: {figure}")


def test_a_pause_of_the_control_node_makes_the_arm_stop_by_itself_and_is_counted(
    lab: Lab, record_property: Callable[[str, str], None]
) -> None:
    """No thread of it runs meanwhile, so the arm's own time-out has to do it; then commands go on from where it is."""
    stops: list[int] = []

    def on_diagnostics(message: DiagnosticArray) -> None:
        stops.extend(
            int(value.value)
            for status in message.status
            for value in status.values
            if (status.name, value.key) == ("mock_arm_node: arm", "stops")
        )

    lab.node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    lab.wait(lambda: stops, "diagnostics of the arm")
    stopped, overruns = stops[-1], lab.status["overruns"]
    figure = await_named(lab, "control_node", PAUSE, lambda: stops[-1] > stopped, "the arm's stop")
    lab.wait(lambda: lab.status["overruns"] >= overruns + 20, "overruns")
    lab.wait(lambda: lab.status["state"] in ("armed", "latched"), "the end of the pause")
    record_property("figure", f"pause of control_node: {lab.status['overruns'] - overruns} ticks missed; {figure}")
