from __future__ import annotations

import numpy as np
import pytest
from small_arm import LIMITS, ORIGIN, SPEC, TICK_NS

from armature.control.chunk_scheduler import ChunkScheduler, SchedulerConfig
from armature.control.control_step import control_step
from armature.control.residual import NoResidual, Residual
from armature.control.safety_gate import SafetyGate
from armature.control.takeover import Driven, Takeover
from armature.types import ActionChunk, Command, GateState, Reason, Sample, Tick

SECOND_NS = 1_000_000_000
# Stamps and the steady clock have nothing to do with each other.
EPOCH_NS = 1_785_000_000 * SECOND_NS


class TowardsMeasured:
    """Moves the base action by a tenth of the way to the measured state."""

    def correct(self, now_ns, base, measured):
        return base.action + 0.1 * (measured - base.action)


class Diverged:
    """A learner whose corrections have grown without bound."""

    def correct(self, now_ns, base, measured):
        return base.action + 1e3


def tick_at(tick: int) -> Tick:
    return Tick(EPOCH_NS + tick * TICK_NS, tick * TICK_NS)


def measured_at(tick: int, value=ORIGIN) -> Sample:
    return Sample(EPOCH_NS + tick * TICK_NS, tick * TICK_NS, np.array(value))


def scheduler_of(actions: list[list[float]]) -> ChunkScheduler:
    scheduler = ChunkScheduler(SchedulerConfig("receding_horizon", 8))
    assert scheduler.push(ActionChunk(EPOCH_NS, EPOCH_NS, TICK_NS, np.array(actions)), EPOCH_NS)
    return scheduler


def run(gate: SafetyGate, scheduler: ChunkScheduler, residual: Residual, ticks: range) -> list[Command]:
    """Tick with an arm that is where it was commanded to be."""
    commands: list[Command] = []
    for k in ticks:
        measured = measured_at(k, commands[-1].action if commands else ORIGIN)
        commands.append(control_step(tick_at(k), measured, scheduler, residual, gate))
    return commands


@pytest.fixture
def gate() -> SafetyGate:
    gate = SafetyGate(SPEC, LIMITS)
    gate.arm(tick_at(0), measured_at(0))
    return gate


def test_a_chunk_is_executed_step_by_step_and_its_end_is_a_stop(gate):
    scheduler = scheduler_of([[0.01, 0.1, 0.04], [0.03, 0.2, 0.04], [0.4, 0.2, 0.04]])
    commands = run(gate, scheduler, NoResidual(), range(5))
    actions = [command.action.tolist() for command in commands]
    assert actions[:2] == [[0.01, 0.1, 0.04], [0.03, 0.2, 0.04]]
    # a may go 0.02 further than in the tick before, then has to slow down by as much.
    assert [action[0] for action in actions[2:]] == pytest.approx([0.07, 0.09, 0.09])
    assert [command.reasons for command in commands] == [
        (), (), (Reason.VELOCITY_LIMIT,), (Reason.NO_CHUNK,), (Reason.NO_CHUNK,)
    ]  # fmt: skip
    assert [command.chunk_stamp_ns for command in commands] == [EPOCH_NS] * 3 + [None] * 2
    assert [command.state for command in commands] == [GateState.ARMED] * 3 + [GateState.HOLD] * 2
    assert commands[2].requested is not None
    assert commands[2].requested.tolist() == [0.4, 0.2, 0.04]
    assert commands[3].requested is None


def test_between_two_actions_of_a_chunk_the_gate_is_asked_for_what_lies_between(gate):
    scheduler = scheduler_of([[0.0, 0.0, 0.04], [0.02, 0.1, 0.04]])
    fast = SafetyGate(SPEC, LIMITS, TICK_NS // 4)
    fast.arm(tick_at(0), measured_at(0))
    for k in range(4):
        now = Tick(EPOCH_NS + k * TICK_NS // 4, k * TICK_NS // 4)
        command = control_step(
            now, Sample(now.stamp_ns, now.steady_ns, np.array(ORIGIN)), scheduler, NoResidual(), fast
        )
        assert command.requested is not None
        assert command.requested.tolist() == pytest.approx([0.005 * k, 0.025 * k, 0.04])


def test_the_residual_corrects_what_is_asked_and_the_gate_still_limits_it(gate):
    scheduler = scheduler_of([[0.02, 0.1, 0.05]])
    command = control_step(tick_at(0), measured_at(0), scheduler, TowardsMeasured(), gate)
    assert command.requested is not None
    assert command.requested.tolist() == pytest.approx([0.018, 0.09, 0.049])
    assert command.action.tolist() == pytest.approx([0.018, 0.09, 0.049])
    assert command.reasons == ()


@pytest.mark.fault(row=16)
def test_a_residual_that_diverges_is_cut_to_its_share_and_then_left_out(gate):
    base = [0.02 * k for k in range(1, 11)]
    commands = run(gate, scheduler_of([[action, 0.0, 0.04] for action in base]), Diverged(), range(10))
    # Four times half of what the speed limit allows in a tick on top of the base action, here 0.05 rad.
    assert all(Reason.RESIDUAL_LIMIT in command.reasons for command in commands)
    ahead = [command.action[0] - action for command, action in zip(commands, base, strict=True)]
    assert 0.0 < max(ahead) <= 0.05
    assert ahead[-2:] == [0.0, 0.0]
    assert commands[-1].state is GateState.ARMED


def test_a_person_is_bounded_by_the_gate_and_not_by_the_share_of_a_residual_which_still_is(gate):
    scheduler, takeover = scheduler_of([[0.0, 0.0, 0.04]] * 8), Takeover(TICK_NS, handover_s=0.2)
    commands, hand = [], np.array([0.08, 0.3, 0.04])
    for k in range(6):
        takeover.take(Driven(tick_at(k).stamp_ns, tick_at(k).steady_ns, k < 4, hand))
        measured = measured_at(k, commands[-1].action if commands else ORIGIN)
        commands.append(control_step(tick_at(k), measured, scheduler, Diverged(), gate, takeover))
    cut = [Reason.RESIDUAL_LIMIT in command.reasons for command in commands]
    # Half of the diverged residual is left at half weight, nothing while the person drives alone.
    assert cut == [True, False, False, False, True, True]
    assert commands[3].requested is hand
    assert commands[3].action[:2].tolist() == pytest.approx([0.08, 0.3], abs=0.03)
    assert [command.chunk_stamp_ns - EPOCH_NS for command in commands] == [0, TICK_NS, 2 * TICK_NS, 3 * TICK_NS, 0, 0]
    steps = np.diff(np.stack([np.array(ORIGIN), *(command.action for command in commands)]), axis=0)
    assert (np.abs(steps[:, :2]) <= np.array([0.1, 0.4]) + 1e-12).all()
    assert (np.abs(np.diff(steps[:, :2], axis=0)) <= np.array([0.02, 0.1]) + 1e-12).all()


def test_without_a_measured_state_the_residual_is_not_asked_and_the_arm_holds_when_the_last_one_is_old(gate):
    scheduler = scheduler_of([[0.02, 0.1, 0.04]] * 8)
    command = control_step(tick_at(0), None, scheduler, TowardsMeasured(), gate)
    assert command.action.tolist() == [0.02, 0.1, 0.04]
    command = control_step(tick_at(4), None, scheduler, TowardsMeasured(), gate)
    assert command.requested is not None
    assert command.requested.tolist() == [0.02, 0.1, 0.04]
    assert (command.reasons, command.state) == ((Reason.STALE_STATE,), GateState.HOLD)


@pytest.mark.fault(row=11)
def test_a_chunk_whose_observation_has_become_too_old_is_not_executed_to_its_end(gate):
    scheduler = scheduler_of([[0.0, 0.0, 0.04]] * 20)
    states = [command.state for command in run(gate, scheduler, NoResidual(), range(13))]
    assert states == [GateState.ARMED] * 11 + [GateState.HOLD] * 2
    assert gate.counts == {Reason.STALE_CHUNK: 2}
