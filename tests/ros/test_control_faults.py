"""Faults around a running control node: the arm beside it is the stand-in, the policy's chunks come from the test.

Every command of every test is looked at: finite, in range, and within speed and acceleration of the one before.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from control_lab import PATIENCE_S, SPEC, START, Lab, judge
from trajectory_msgs.msg import JointTrajectory

from armature_ros.conversions import ns_from_time
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import reliable_qos

pytestmark = pytest.mark.ros


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
        lab.answer(stamp_ns - age_ns, np.tile(lab.position, (16, 1)))
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


SLOPE_RAD = 0.005
"""From one action of a chunk to the next: what is requested tells when it was due."""
PLANNED_NS, LAST_NS = 10 * SPEC.period_ns, 9 * SPEC.period_ns
ROUNDING_NS = 1_000_000


def answer_late(lab: Lab, delays_s: list[float]) -> list[tuple[int, int]]:
    """Answer with chunks of 0.5 s, one after the other, each so much later; return when each was asked and answered."""
    answers = []
    for delay_s in delays_s:
        asked_ns = lab.node.get_clock().now().nanoseconds
        time.sleep(delay_s)
        lab.answer(asked_ns, START + np.outer(np.arange(10) * SLOPE_RAD, [*np.ones(7), 0.0]))
        answers.append((asked_ns, lab.node.get_clock().now().nanoseconds))
    return answers


def is_due(stamp_ns: int, offset_rad: float, asked: list[int]) -> bool:
    """Tell whether a request is what one of the chunks plans for its very moment; the last action is held."""
    ages_ns = [stamp_ns - asked_ns for asked_ns in asked if 0 <= stamp_ns - asked_ns < PLANNED_NS]
    due_ns = offset_rad / SLOPE_RAD * SPEC.period_ns
    return any(abs(min(age_ns, LAST_NS) - due_ns) < ROUNDING_NS for age_ns in ages_ns)


@pytest.mark.alone
@pytest.mark.fault(row=34)
def test_slow_and_jittered_answers_delay_no_tick_and_what_is_late_of_them_is_never_requested(
    lab: Lab, record_property: Callable[[str, str], None]
) -> None:
    """An answer is wanted every 0.2 s; this policy takes twice as long, and sometimes longer than its chunk lasts."""
    requests: list[tuple[int, float]] = []

    def on_request(message: JointTrajectory) -> None:
        requests.append((ns_from_time(message.header.stamp), message.points[0].positions[0] - START[0]))

    lab.node.create_subscription(JointTrajectory, "control/requested", on_request, reliable_qos(1000))
    lab.wait(lambda: requests and np.isnan(requests[-1][1]), "the end of the chunk before")
    rng = np.random.default_rng(34)
    delays_s = rng.permutation([*rng.uniform(0.25, 0.42, 12), *rng.uniform(0.58, 0.65, 4)]).tolist()
    overruns, dropped, begin = lab.status["overruns"], lab.count("chunk dropped: late"), len(requests)
    answers = answer_late(lab, delays_s)
    usable = [asked_ns for asked_ns, answered_ns in answers if answered_ns - asked_ns < PLANNED_NS]
    late = len(answers) - len(usable)
    assert 4 <= late <= 8
    lab.wait(lambda: lab.count("chunk dropped: late") == dropped + late, f"{late} late chunks")
    lab.wait(lambda: np.isnan(requests[-1][1]), "the end of the last chunk")
    ticks, overruns = requests[begin:], lab.status["overruns"] - overruns
    made = [(stamp_ns, offset_rad) for stamp_ns, offset_rad in ticks if not np.isnan(offset_rad)]
    assert len(made) > 50
    assert [request for request in made if not is_due(*request, usable)] == []
    assert overruns < len(ticks) / 4  # of a loop that waits for answers nearly all would be missing
    record_property("figure", f"{overruns} overruns in {len(ticks)} ticks; {late} of {len(answers)} answers late")


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
