"""The part of the control path that threads share: what comes in at any time, and what a tick makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from small_arm import LIMITS, ORIGIN, SPEC, TICK_NS

from armature.control.chunk_scheduler import SchedulerConfig
from armature.control.control_path import ControlPath
from armature.control.residual import NoResidual
from armature.control.takeover import Driven, Takeover
from armature.types import ActionChunk, GateState, Reason, Sample, Tick

EPOCH_NS = 1_700_000_000_000_000_000
HOUR_NS = 3_600_000_000_000


class Bench:
    """A path with an arm that stays at the origin, and the two clocks that it lives by."""

    def __init__(self, mode: str = "receding_horizon") -> None:
        takeover = Takeover(TICK_NS, handover_s=0.2)
        self.path = ControlPath(SPEC, LIMITS, SchedulerConfig(mode, 8), NoResidual(), TICK_NS, takeover=takeover)
        self.steady_ns, self.offset_ns = 0, EPOCH_NS

    @property
    def stamp_ns(self) -> int:
        return self.steady_ns + self.offset_ns

    def measure(self) -> bool:
        return self.path.take_state(Sample(self.stamp_ns, self.steady_ns, np.array(ORIGIN)))

    def plan(self, steps: int = 8) -> bool:
        actions = np.tile(ORIGIN, (steps, 1))
        return self.path.take_chunk(ActionChunk(self.stamp_ns, self.stamp_ns, TICK_NS, actions), self.stamp_ns)

    def tick(self):
        command = self.path.tick(Tick(self.stamp_ns, self.steady_ns))
        self.steady_ns += TICK_NS
        return command


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.path.arm()
    bench.measure()
    bench.plan()
    assert bench.tick().state is GateState.ARMED
    return bench


def drive(bench: Bench, engaged: bool = True) -> bool:
    return bench.path.take_person(Driven(bench.stamp_ns, bench.steady_ns, engaged, np.array([0.01, 0.0, 0.04])))


def test_ticks_that_a_person_drove_are_counted_and_what_is_not_newer_is_refused_and_counted(bench):
    assert (bench.path.human, drive(bench), drive(bench)) == (0.0, True, False)
    assert bench.path.counts()["refused: takeover not newer"] == 1
    weights = []
    for k in range(4):
        drive(bench, engaged=k < 2)
        bench.measure()
        bench.tick()
        weights.append(bench.path.human)
    assert weights == [0.5, 1.0, 0.5, 0.0]
    assert bench.path.counts()["takeover: ticks"] == 3


def test_a_reset_and_a_clock_that_was_set_back_give_the_arm_back_and_hear_the_person_again(bench):
    drive(bench)
    bench.measure()
    bench.tick()
    bench.offset_ns -= HOUR_NS
    bench.tick()
    assert bench.path.human == 0.0
    assert drive(bench)
    bench.tick()
    assert bench.path.human > 0.0
    bench.path.reset(bench.stamp_ns)
    assert bench.path.human == 0.0


def test_where_nobody_may_take_over_what_a_person_says_is_refused():
    path = ControlPath(SPEC, LIMITS, SchedulerConfig("receding_horizon", 8), NoResidual(), TICK_NS)
    assert not path.take_person(Driven(0, 0, True, np.array(ORIGIN)))
    assert path.human == 0.0


def test_without_a_known_state_there_is_no_command_and_that_is_counted():
    bench = Bench()
    assert bench.tick() is None
    assert bench.path.counts() == {"refused: tick without a known state": 1}


def test_it_arms_at_the_first_state_after_it_was_asked_to_and_not_at_one_that_is_too_old():
    bench = Bench()
    bench.path.arm()
    assert bench.path.is_driving
    assert bench.tick() is None
    bench.measure()
    bench.steady_ns += 3 * TICK_NS
    assert bench.tick() is None
    assert bench.path.counts()["refused: arming without a fresh state"] == 1
    bench.measure()
    assert bench.tick().state is GateState.HOLD  # armed, and nothing to do
    assert bench.path.measured.received_ns == bench.steady_ns - TICK_NS


def test_states_that_are_not_newer_are_refused(bench):
    assert not bench.path.take_state(Sample(EPOCH_NS, 1, np.array(ORIGIN)))
    assert bench.path.counts()["refused: state not newer"] == 1


def test_reset_forgets_states_chunks_and_faults_and_refuses_what_is_older(bench):
    bench.path.latch(Reason.OPERATOR)
    assert bench.path.fault is Reason.OPERATOR
    bench.path.reset(bench.stamp_ns)
    assert (bench.path.state, bench.path.fault, bench.path.measured) == (GateState.DISARMED, None, None)
    assert bench.path.needs_chunk(bench.stamp_ns)
    assert not bench.path.take_state(Sample(bench.stamp_ns - 1, 1, np.array(ORIGIN)))
    assert not bench.path.take_chunk(ActionChunk(bench.stamp_ns - 1, 0, TICK_NS, np.zeros((2, 3))), bench.stamp_ns)
    assert bench.measure()


def test_latched_it_does_not_arm_for_a_request_from_before(bench):
    bench.path.arm()
    bench.path.latch(Reason.SECOND_WRITER)
    assert not bench.path.is_driving
    bench.measure()
    command = bench.tick()
    assert (command.state, command.reasons) == (GateState.LATCHED, (Reason.LATCHED, Reason.SECOND_WRITER))
    bench.path.disarm()
    bench.measure()
    assert bench.tick().state is GateState.LATCHED
    bench.path.arm()
    bench.measure()
    assert bench.tick().state is GateState.ARMED
    assert bench.path.is_at_rest


def test_armed_it_is_not_armed_again_by_a_request_that_outlives_a_fault(bench):
    away = np.add(ORIGIN, (0.5, 0.0, 0.0))
    bench.path.take_chunk(ActionChunk(bench.stamp_ns, bench.stamp_ns, TICK_NS, np.tile(away, (8, 1))), bench.stamp_ns)
    bench.measure()
    bench.tick()
    bench.path.arm()
    assert bench.path.is_armed
    # The arm is knocked far off its command.
    bench.path.take_state(Sample(bench.stamp_ns, bench.steady_ns, np.add(ORIGIN, (-0.9, 0.0, 0.0))))
    assert bench.tick().state is GateState.LATCHED
    for _ in range(15):
        bench.measure()
        assert bench.tick().state is GateState.LATCHED
    assert bench.path.fault is Reason.TRACKING_LOST


def test_a_request_to_arm_is_good_for_a_second_in_which_a_fresh_state_has_to_come():
    bench = Bench()
    bench.path.arm()
    for _ in range(11):
        bench.tick()
    assert bench.path.is_driving
    bench.tick()
    assert not bench.path.is_driving
    assert bench.path.counts()["refused: arming expired"] == 1
    bench.measure()
    assert bench.tick().state is GateState.DISARMED
    bench.path.arm()
    bench.measure()
    assert bench.tick().state is GateState.HOLD


def test_while_the_arm_comes_to_rest_it_does_not_arm_and_says_that_it_is_in_motion(bench):
    away = np.add(ORIGIN, (0.5, 0.0, 0.0))
    bench.path.take_chunk(ActionChunk(bench.stamp_ns, bench.stamp_ns, TICK_NS, np.tile(away, (8, 1))), bench.stamp_ns)
    bench.measure()
    bench.tick()
    bench.path.latch(Reason.OPERATOR)
    bench.path.arm()
    states = []
    for _ in range(2):
        bench.measure()
        states.append(bench.tick().state)
    # It goes at 0.2 rad/s, by which it may slow down in one tick.
    assert states == [GateState.LATCHED, GateState.ARMED]
    assert bench.path.counts()["refused: arming in motion"] == 1


def test_what_is_committed_is_known_in_the_mode_that_needs_it_alone(bench):
    assert bench.path.committed(bench.stamp_ns) is None
    guided = Bench("real_time_chunking")
    guided.plan(steps=4)
    committed = guided.path.committed(guided.stamp_ns + TICK_NS)
    assert committed.actions.tolist() == [list(ORIGIN)] * 3


@pytest.mark.fault(row=54)
@pytest.mark.parametrize("step_ns", [HOUR_NS, -HOUR_NS], ids=["an hour ahead", "an hour back"])
def test_when_the_clock_is_set_old_plans_are_dropped_the_arm_holds_and_goes_on_with_new_ones(bench, step_ns):
    bench.offset_ns += step_ns
    bench.measure()
    held = bench.tick()
    assert (held.state, held.reasons) == (GateState.HOLD, (Reason.NO_CHUNK,))
    assert bench.path.counts()["refused: plans of a clock that was set"] == 1
    assert bench.measure()
    assert bench.plan()
    assert bench.tick().state is GateState.ARMED
    for _ in range(10):  # no watchdog is misled, however long it goes on
        bench.measure()
        assert bench.tick().state in (GateState.ARMED, GateState.HOLD)


def test_a_clock_that_drifts_drops_nothing(bench):
    bench.offset_ns += 100_000_000
    bench.measure()
    assert bench.tick().state is GateState.ARMED
    bench.offset_ns += 100_000_001
    bench.tick()
    assert bench.path.counts()["refused: plans of a clock that was set"] == 1


def test_where_the_arm_was_told_to_be_is_known_and_before_that_where_it_is():
    bench = Bench()
    assert bench.path.commanded(bench.stamp_ns) is None
    bench.measure()
    assert bench.path.commanded(bench.stamp_ns).tolist() == list(ORIGIN)
    bench.path.arm()
    moved = np.tile(ORIGIN, (8, 1)) + 0.01 * np.arange(8)[:, None]
    bench.path.take_chunk(ActionChunk(bench.stamp_ns, bench.stamp_ns, TICK_NS, moved), bench.stamp_ns)
    sent = [bench.tick() for _ in range(4)]
    assert len({tuple(command.action) for command in sent}) > 2
    for command in sent:
        assert bench.path.commanded(command.stamp_ns).tolist() == command.action.tolist()


def test_after_a_reset_and_after_a_clock_was_set_the_commands_before_count_no_more(bench: Bench):
    begin_ns = bench.stamp_ns
    bench.tick()
    bench.offset_ns += HOUR_NS
    after = bench.tick()
    assert bench.path.commanded(begin_ns).tolist() == after.action.tolist()
    bench.path.reset(bench.stamp_ns)
    assert bench.path.commanded(bench.stamp_ns) is None
