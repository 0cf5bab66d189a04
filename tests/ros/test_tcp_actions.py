"""A policy that displaces the tool drives an arm that takes joint positions: chunks are converted as they arrive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from control_lab import LIMITS, SPEC, START, Lab, judge
from numpy.typing import NDArray
from trajectory_msgs.msg import JointTrajectory

from armature.errors import ConfigError, InvalidValue
from armature.spec import GRIPPER_OPENING, JOINT_POSITION, TCP_DELTA, ActionSpec
from armature.types import ActionChunk
from armature_ros.config_files import config_folder
from armature_ros.control_config import ControlNodeConfig
from armature_ros.conversions import chunk_to_msg
from armature_ros.doctor_deployment import read_deployment
from armature_ros.flight_dump import dump_folders
from armature_ros.flight_reading import read_flight
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import reliable_qos
from armature_ros.robot import RobotConfig, load_robot_spec
from armature_ros.tcp_actions import OutOfReach, TcpActions
from armature_ros.tcp_config import TcpConfig, make_tcp_actions
from sim.arms import ARMS
from sim.kinematics import ArmKinematics, rotation_vector
from sim.tasks import SimConfig, robot_spec, tcp_delta_of

TICK_NS, STEP_NS = 10_000_000, SPEC.period_ns
BEGIN_NS = 10**18
ASKED = tcp_delta_of(SPEC)
KINEMATICS = ArmKinematics(ARMS["panda"])
STEP = np.array([0.003, -0.002, 0.002, 0.0, 0.0, 0.01, 0.03])
"""One action: a displacement [m], a turn [rad], and the gripper's opening [m]."""


@pytest.fixture(scope="module")
def live() -> TcpActions:
    return make_tcp_actions(None, SPEC, LIMITS, TICK_NS)


def chunk_of(actions: NDArray[np.float64], period_ns: int = STEP_NS) -> ActionChunk:
    return ActionChunk(BEGIN_NS, BEGIN_NS, period_ns, actions, "policy")


def displacement(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    (position, rotation), (moved, turned) = KINEMATICS.forward(before[:7]), KINEMATICS.forward(after[:7])
    return np.concatenate((moved - position, rotation_vector(turned @ rotation.T)))


def test_the_contract_of_the_policy_has_displacements_in_place_of_joints_and_the_same_gripper() -> None:
    assert ASKED.kind == "tcp_delta"
    assert [array.name for array in ASKED.arrays] == [TCP_DELTA, GRIPPER_OPENING]
    assert ASKED[GRIPPER_OPENING] == SPEC[GRIPPER_OPENING]
    file = str(config_folder() / "robots" / "fer.json")
    spec = load_robot_spec(RobotConfig(spec_file=file, action="tcp_delta"))
    assert spec.action == ASKED
    assert spec.observation == load_robot_spec(RobotConfig(spec_file=file)).observation
    assert robot_spec(SimConfig(action="tcp_delta")).action == ASKED


def test_every_action_of_a_chunk_displaces_the_tool_from_where_the_one_before_has_brought_it(live: TcpActions) -> None:
    begin = np.append(ARMS["panda"].home_rad, 0.02)
    joints = live.convert(chunk_of(np.tile(STEP, (16, 1))), begin)
    assert joints.actions.shape == (17, 8)
    np.testing.assert_array_equal(joints.actions[0], begin)
    for before, after in zip(joints.actions, joints.actions[1:], strict=False):
        np.testing.assert_allclose(displacement(before, after), STEP[:6], atol=1e-4)
    assert joints.actions[1:, 7].tolist() == [0.03] * 16
    np.testing.assert_allclose(displacement(begin, joints.actions[-1]), 16 * STEP[:6], atol=1e-3)


def test_a_command_is_reached_a_period_after_it_is_sent_so_the_chunk_begins_as_much_earlier(live: TcpActions) -> None:
    chunk = chunk_of(np.tile(STEP, (4, 1)))
    joints = live.convert(chunk, START)
    assert live.begin_ns(chunk) == joints.start_ns == BEGIN_NS - TICK_NS
    assert (joints.stamp_ns, joints.period_ns, joints.policy_id) == (BEGIN_NS, STEP_NS, "policy")
    in_lockstep = make_tcp_actions(None, SPEC, LIMITS, STEP_NS)
    stepped = in_lockstep.convert(chunk, START)
    assert (in_lockstep.begin_ns(chunk), stepped.start_ns) == (BEGIN_NS - STEP_NS, BEGIN_NS)
    np.testing.assert_array_equal(stepped.actions, joints.actions[1:])


def test_what_comes_too_late_to_be_executed_is_not_converted(live: TcpActions) -> None:
    """A thousand steps would keep the thread that reads joint states for half a second."""
    joints = live.convert(chunk_of(np.tile(STEP * 0.1, (1000, 1))), START)
    age_s = (joints.start_ns + (len(joints.actions) - 1) * STEP_NS - BEGIN_NS) / 1e9
    assert LIMITS.request.chunk_age_max_s <= age_s < LIMITS.request.chunk_age_max_s + 0.1


@pytest.mark.parametrize(
    "action",
    [[0.05, 0, 0, 0, 0, 0, 0.03], [0, 0, 0.05, 0, 0, 0, 0.03], [9.0, 0, 0, 0, 0, 0, 0.03], [0, 0, 0, 0, 0, 2, 0.03]],
    ids=["out of the workspace", "over its head", "nine metres", "a third of a turn"],
)
def test_a_chunk_that_the_joints_cannot_follow_is_refused_whole(live: TcpActions, action: list[float]) -> None:
    with pytest.raises(OutOfReach, match=r"displacement \d+ of 16 is missed by"):
        live.convert(chunk_of(np.tile(action, (16, 1))), START)


def test_positions_stay_in_the_ranges_of_the_gate_and_near_enough_for_it(live: TcpActions) -> None:
    rng, reached = np.random.default_rng(3), 0
    low, high = np.array(LIMITS.position_low)[:7], np.array(LIMITS.position_high)[:7]
    step_max = np.array(LIMITS.velocity_max)[:7] * LIMITS.request.first_command_s
    for _ in range(60):
        begin = np.append(rng.uniform(low, high), 0.02)
        delta = np.append(rng.uniform(-0.02, 0.02, 3), rng.uniform(-0.1, 0.1, 3))
        try:
            joints = live.convert(chunk_of(np.tile(np.append(delta, 0.03), (8, 1))), begin).actions[:, :7]
        except OutOfReach:
            continue
        reached += 1
        assert (joints >= low).all()
        assert (joints <= high).all()
        assert (np.abs(np.diff(joints, axis=0)) <= step_max + 1e-12).all()
    assert reached > 20


def test_displacements_of_another_duration_and_of_an_arm_nobody_has_seen_are_refused(live: TcpActions) -> None:
    with pytest.raises(InvalidValue, match="a displacement every 20 ms, the contract 50 ms"):
        live.convert(chunk_of(np.tile(STEP, (4, 1)), period_ns=20_000_000), START)
    with pytest.raises(InvalidValue, match="a tool whose place was never known"):
        live.convert(chunk_of(np.tile(STEP, (4, 1))), None)


def test_mistakes_of_the_configuration_are_named_at_the_start() -> None:
    config = ControlNodeConfig({}, "run", "", chunk_action="tcp_delta")
    with pytest.raises(
        ConfigError, match="real_time_chunking: with chunk_action tcp_delta the policy cannot be guided"
    ):
        replace(config, mode="real_time_chunking")
    planar = robot_spec(SimConfig(task="pusht")).action
    with pytest.raises(ConfigError, match="for arms that take joint_position, this robot takes planar_position"):
        make_tcp_actions(None, planar, LIMITS, TICK_NS)
    own = TcpConfig((0.0,) * 3, (1.0,) * 3, 0.5, 17.0, 30.0, model_file="arm.urdf", tcp="tool")
    with pytest.raises(ConfigError, match=r"tcp\.home_rad: with a model_file"):
        make_tcp_actions(own, SPEC, LIMITS, TICK_NS)


def test_the_graph_of_a_robot_tells_policy_and_control_node_alone() -> None:
    nodes = make_graph("robot", GraphConfig(action="tcp_delta", cameras=False, dataset="d", mock_arm=True))
    told = {node.name: node.overrides for node in nodes}
    assert told["policy_node"]["robot.action"] == "tcp_delta"
    assert told["control_node"]["chunk_action"] == "tcp_delta"
    for name in ("recorder_node", "mock_arm_node", "control_node"):
        assert "robot.action" not in told[name]
    (plain,) = [node for node in make_graph("robot", GraphConfig(cameras=False)) if node.name == "control_node"]
    assert "chunk_action" not in plain.overrides


def test_the_doctor_looks_at_what_the_arm_takes_and_at_what_the_policy_says() -> None:
    config = GraphConfig(action="tcp_delta", cameras=False, mock_arm=True, policy=str(config_folder()))
    deployment = read_deployment("robot", config)
    assert deployment.problems == {}
    assert deployment.spec.action == SPEC
    assert load_robot_spec(deployment.configs["policy_node"].robot).action == ASKED


class Displacer(Lab):
    """Plays a policy that displaces the tool."""

    def __init__(self, flights: Path) -> None:
        overrides = (f"control_node.flight_folder={flights}",)
        graph = make_graph("robot", GraphConfig(action="tcp_delta", cameras=False, mock_arm=True, overrides=overrides))
        super().__init__([node for node in graph if node.name in ("control_node", "mock_arm_node")])
        self.flights = flights
        self._displacements = self.node.create_publisher(JointTrajectory, "chunk", reliable_qos())

    def displace(self, stamp_ns: int, actions: NDArray[np.float64], asked: ActionSpec = ASKED) -> None:
        chunk = ActionChunk(stamp_ns, stamp_ns, asked.period_ns, actions, "displacer")
        self._displacements.publish(chunk_to_msg(chunk, asked.labels))

    def sleep_until(self, stamp_ns: int) -> None:
        time.sleep(max(0.0, (stamp_ns - self.now_ns()) / 1e9))

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds


@pytest.fixture(scope="module")
def displacer(module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Displacer]:
    lab = Displacer(tmp_path_factory.mktemp("flights"))
    yield lab
    lab.close()


@pytest.mark.ros
def test_displacements_add_up_over_chunks_that_come_late_and_the_dump_shows_the_joints(displacer: Displacer) -> None:
    displacer.arm()
    displacer.commands.clear()
    begin, begin_ns = displacer.position, displacer.now_ns()
    # Of three chunks eight, eight and sixteen actions are executed; each comes 60 ms after what it answers.
    for number in range(3):
        stamp_ns = begin_ns + 8 * number * STEP_NS
        displacer.sleep_until(stamp_ns + 60_000_000)
        displacer.displace(stamp_ns, np.tile(STEP, (16, 1)))
    displacer.await_state("armed")
    displacer.await_state("hold")
    displacer.wait(lambda: displacer.commands[-1][1].tolist() == displacer.position.tolist(), "rest")
    moved = displacement(begin, displacer.position)
    np.testing.assert_allclose(moved[:3], 32 * STEP[:3], atol=0.003)
    np.testing.assert_allclose(moved[3:], 32 * STEP[3:6], atol=0.01)
    assert displacer.position[7] == pytest.approx(0.03)
    assert "refused: chunk" not in displacer.status["counts"]
    judge(displacer.commands)
    assert displacer.call("stop").success
    displacer.wait(lambda: dump_folders(displacer.flights), "dump")
    flight = read_flight(dump_folders(displacer.flights)[-1])
    assert flight.about.labels == SPEC.labels
    assert flight.chunks.length.tolist() == [17, 17, 17]
    assert flight.chunks.was_taken.all()
    first = flight.chunks.actions[0]
    np.testing.assert_allclose(first[SPEC.slice_of(JOINT_POSITION)], begin[:7], atol=1e-9)


@pytest.mark.ros
def test_a_chunk_out_of_reach_is_counted_and_the_arm_stays(displacer: Displacer) -> None:
    displacer.arm()
    before = displacer.position
    displacer.displace(displacer.now_ns(), np.tile([0.05, 0, 0, 0, 0, 0, 0.03], (16, 1)))
    displacer.wait(lambda: displacer.count("refused: chunk out of reach") == 1, "refusal")
    assert displacer.status["state"] == "hold"
    displacer.displace(displacer.now_ns(), np.tile(START, (16, 1)), SPEC)
    displacer.wait(lambda: displacer.count("refused: chunk") == 1, "refusal of joint positions")
    np.testing.assert_allclose(displacer.position, before, atol=1e-6)
