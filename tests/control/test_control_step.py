from __future__ import annotations

import numpy as np
import pytest

from armature.control.chunk_scheduler import ChunkScheduler, SchedulerConfig
from armature.control.control_step import control_step
from armature.control.residual import NoResidual
from armature.control.safety_gate import SafetyGate
from armature.types import ActionChunk, Reason, Sample

TICK_NS = 100_000_000


class TowardsMeasured:
    """Moves the base action by a tenth of the way to the measured state."""

    def correct(self, now_ns, base, measured):
        return base + 0.1 * (measured - base)


@pytest.fixture
def scheduler() -> ChunkScheduler:
    scheduler = ChunkScheduler(SchedulerConfig("receding_horizon", 8))
    actions = np.array([[0.05, 0.1, 0.04], [0.1, 0.2, 0.04], [0.4, 0.2, 0.04]])
    scheduler.push(ActionChunk(0, 0, TICK_NS, actions))
    return scheduler


@pytest.fixture
def gate(joint_spec, limits) -> SafetyGate:
    gate = SafetyGate(joint_spec, limits)
    gate.arm(0, np.array([0.0, 0.0, 0.04]))
    return gate


def measured_at(tick: int) -> Sample:
    return Sample(tick * TICK_NS, 0, np.array([0.0, 0.0, 0.04]))


def test_a_chunk_is_executed_step_by_step_and_held_at_its_end(scheduler, gate):
    commands = [control_step(k * TICK_NS, measured_at(k), scheduler, NoResidual(), gate) for k in range(4)]
    np.testing.assert_allclose(
        [c.action for c in commands], [[0.05, 0.1, 0.04], [0.1, 0.2, 0.04], [0.2, 0.2, 0.04], [0.2, 0.2, 0.04]]
    )
    assert [c.reasons for c in commands] == [(), (), (Reason.VELOCITY_LIMIT,), (Reason.NO_CHUNK,)]
    assert [c.chunk_stamp_ns for c in commands] == [0, 0, 0, None]
    assert commands[2].requested.tolist() == [0.4, 0.2, 0.04]
    assert commands[3].requested is None


def test_the_residual_corrects_what_is_asked_and_the_gate_still_limits_it(scheduler, gate):
    command = control_step(0, measured_at(0), scheduler, TowardsMeasured(), gate)
    assert command.requested.tolist() == pytest.approx([0.045, 0.09, 0.04])
    assert command.action.tolist() == pytest.approx([0.045, 0.09, 0.04])


def test_without_a_measured_state_the_residual_is_not_asked_and_the_arm_holds(scheduler, gate):
    command = control_step(0, None, scheduler, TowardsMeasured(), gate)
    assert command.requested.tolist() == [0.05, 0.1, 0.04]
    assert command.action.tolist() == [0.0, 0.0, 0.04]
    assert command.reasons == (Reason.STALE_STATE,)
