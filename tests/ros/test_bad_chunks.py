"""Row 35: an answer of a policy that is no chunk for this robot is refused whole, counted, and the arm holds."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from armature.control.chunk_scheduler import ChunkScheduler, SchedulerConfig
from armature.control.control_path import ControlPath
from armature.control.residual import NoResidual
from armature.errors import InvalidValue
from armature.types import ActionChunk, Command, GateState, Reason, Sample, Tick
from armature_ros.conversions import STEPS_MAX, chunk_from_msg, chunk_to_msg
from sim.defaults import panda_limits
from sim.tasks import SimConfig, robot_spec

SPEC = robot_spec(SimConfig()).action
PERIOD_NS, STEP_NS = 10_000_000, 50_000_000
POSTURE = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.8, 0.06])
JOINTS_ONLY = np.array([1.0] * 7 + [0.0])

numbers = st.floats(width=64) | st.sampled_from([np.nan, np.inf, -np.inf, 1e308, -0.0])
names = st.lists(st.sampled_from([*SPEC.labels, "stranger", ""]), max_size=10)
points = st.lists(st.lists(numbers, max_size=10), max_size=6)


def chunk_at(stamp_ns: int, steps: int = 16, moved: float = 0.0) -> ActionChunk:
    return ActionChunk(stamp_ns, stamp_ns, STEP_NS, np.tile(POSTURE + moved * JOINTS_ONLY, (steps, 1)))


def message_of(joint_names: list[str], rows: list[list[float]], step_ns: int = STEP_NS) -> JointTrajectory:
    message = chunk_to_msg(chunk_at(0, steps=len(rows)), SPEC.labels)
    message.joint_names = joint_names
    for i, (point, row) in enumerate(zip(message.points, rows, strict=True)):
        point.positions = row
        point.time_from_start.nanosec = i * step_ns
    return message


@pytest.mark.fault(row=35)
@given(names, points, st.sampled_from([0, 1, STEP_NS]))
def test_whatever_comes_is_a_finite_chunk_of_this_robot_or_refused(
    joint_names: list[str], rows: list[list[float]], step_ns: int
) -> None:
    try:
        chunk = chunk_from_msg(message_of(joint_names, rows, step_ns), SPEC)
    except InvalidValue:
        return
    assert sorted(joint_names) == sorted(SPEC.labels)
    assert chunk.actions.shape == (len(rows), SPEC.dim)
    assert len(rows) > 0
    assert np.isfinite(chunk.actions).all()
    assert chunk.period_ns > 0


@pytest.mark.fault(row=35)
@given(st.permutations(SPEC.labels), st.lists(st.lists(st.floats(-3, 3), min_size=8, max_size=8), min_size=1))
def test_a_chunk_that_is_one_is_taken_by_the_names_of_its_joints(labels: list[str], rows: list[list[float]]) -> None:
    chunk = chunk_from_msg(message_of(labels, rows), SPEC)
    order = [labels.index(label) for label in SPEC.labels]
    np.testing.assert_array_equal(chunk.actions, np.array(rows)[:, order])


@pytest.mark.fault(row=35)
@given(st.integers(0, 15), st.integers(0, 7), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_number_that_is_not_finite_spoils_the_chunk_and_is_found(step: int, k: int, value: float) -> None:
    rows = np.tile(POSTURE, (16, 1)).tolist()
    rows[step][k] = value
    with pytest.raises(InvalidValue, match=re.escape(f"not finite at steps [{step}]")):
        chunk_from_msg(message_of(list(SPEC.labels), rows), SPEC)


@pytest.mark.fault(row=35)
def test_a_chunk_of_too_many_steps_is_refused_before_it_is_unpacked() -> None:
    message = chunk_to_msg(chunk_at(0, steps=1), SPEC.labels)
    # Not even a point of it is looked at.
    message.points = [JointTrajectoryPoint()] * (STEPS_MAX + 1)
    with pytest.raises(InvalidValue, match="chunk has 1001 steps, at most 1000 are taken"):
        chunk_from_msg(message, SPEC)


BAD_ACTIONS = {
    "a row": np.zeros(8),
    "a cube": np.zeros((2, 8, 1)),
    "nothing": np.zeros((0, 8)),
    "no columns": np.zeros((4, 0)),
    "six joints": np.zeros((16, 6)),
    "texts": np.full((16, 8), "0.0"),
    "objects": np.full((16, 8), None),
    "complex numbers": np.zeros((16, 8), np.complex128),
    "NaN": np.full((16, 8), np.nan),
    "infinity": np.full((16, 8), np.inf),
}


@pytest.mark.fault(row=35)
@pytest.mark.parametrize("name", BAD_ACTIONS)
def test_the_scheduler_refuses_what_no_message_could_carry_and_goes_on_with_the_chunk_before(name: str) -> None:
    scheduler = ChunkScheduler(SchedulerConfig("receding_horizon", 8))
    assert scheduler.push(chunk_at(0), 0)
    bad = ActionChunk(STEP_NS, STEP_NS, STEP_NS, BAD_ACTIONS[name])
    assert not scheduler.push(bad, STEP_NS)
    assert scheduler.dropped.total() == 1
    action = scheduler.action_at(2 * STEP_NS)
    assert action is not None
    np.testing.assert_array_equal(action.action, POSTURE)
    assert action.chunk_stamp_ns == 0


class Drive:
    """The control path of an arm that follows at once, ticked along a clock."""

    def __init__(self) -> None:
        self.path = ControlPath(SPEC, panda_limits(), SchedulerConfig("receding_horizon", 8), NoResidual(), PERIOD_NS)
        self.now_ns = 10**12
        self.sent: list[Command] = []
        self._arm = POSTURE
        self._tick()
        self.path.arm()

    def run(self, duration_s: float) -> list[Command]:
        """Tick for a while and return the commands."""
        before = len(self.sent)
        for _ in range(round(duration_s * 1e9 / PERIOD_NS)):
            self._tick()
        return self.sent[before:]

    def _tick(self) -> None:
        self.now_ns += PERIOD_NS
        assert self.path.take_state(Sample(self.now_ns, self.now_ns, self._arm))
        command = self.path.tick(Tick(self.now_ns, self.now_ns))
        assert command is not None
        self._arm = command.action
        self.sent.append(command)


def require_at_rest(commands: list[Command]) -> None:
    actions: list[NDArray[np.float64]] = [command.action for command in commands]
    assert np.isfinite(actions).all()
    assert (np.array(actions) == actions[0]).all()


@pytest.mark.fault(row=35)
@pytest.mark.parametrize("name", BAD_ACTIONS)
def test_after_a_bad_answer_the_arm_finishes_its_chunk_then_holds_until_a_good_one_comes(name: str) -> None:
    drive = Drive()
    assert drive.path.take_chunk(chunk_at(drive.now_ns, moved=0.05), drive.now_ns)
    assert drive.run(0.3)[-1].state is GateState.ARMED
    bad = ActionChunk(drive.now_ns, drive.now_ns, STEP_NS, BAD_ACTIONS[name])
    for _ in range(3):
        assert not drive.path.take_chunk(bad, drive.now_ns)
    assert {command.state for command in drive.run(0.4)} == {GateState.ARMED}
    held = drive.run(1.0)
    assert (held[-1].state, held[-1].reasons) == (GateState.HOLD, (Reason.NO_CHUNK,))
    require_at_rest(held[-50:])
    assert sum(n for what, n in drive.path.counts().items() if what.startswith("chunk dropped")) == 3
    assert drive.path.take_chunk(chunk_at(drive.now_ns), drive.now_ns)
    assert drive.run(0.3)[-1].state is GateState.ARMED


@pytest.mark.fault(row=35)
def test_a_chunk_that_never_ends_is_followed_for_a_second_at_most() -> None:
    drive = Drive()
    assert drive.path.take_chunk(chunk_at(drive.now_ns, steps=STEPS_MAX, moved=0.05), drive.now_ns)
    driven = drive.run(3.0)
    last = max(i for i, command in enumerate(driven) if command.state is GateState.ARMED)
    assert 90 <= last <= 110
    assert driven[-1].reasons == (Reason.STALE_CHUNK,)
    require_at_rest(driven[-100:])
