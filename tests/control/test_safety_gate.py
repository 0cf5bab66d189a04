from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.control.safety_gate import SafetyGate, SafetyLimits
from armature.errors import ConfigError, InvalidValue
from armature.spec import ActionSpec
from armature.types import Reason, Sample

TICK_NS = 100_000_000
ORIGIN = np.array([0.0, 0.0, 0.04])


def measured_at(stamp_ns: int, value: np.ndarray = ORIGIN) -> Sample:
    return Sample(stamp_ns, stamp_ns, value)


@pytest.fixture
def gate(joint_spec: ActionSpec, limits: SafetyLimits) -> SafetyGate:
    gate = SafetyGate(joint_spec, limits)
    gate.arm(0, ORIGIN)
    return gate


def ask(gate: SafetyGate, tick: int, requested: list[float] | None):
    request = None if requested is None else np.array(requested)
    return gate.check(tick * TICK_NS, request, measured_at(tick * TICK_NS), 7)


def test_a_request_within_the_limits_passes_to_the_last_bit(gate):
    command = ask(gate, 0, [0.1, -0.2, 0.08])
    assert command.action.tolist() == [0.1, -0.2, 0.08]
    assert (command.stamp_ns, command.reasons, command.chunk_stamp_ns) == (0, (), 7)
    assert command.requested is not None
    assert command.requested.tolist() == [0.1, -0.2, 0.08]


def test_velocity_limit_shortens_all_limited_elements_by_one_factor_and_leaves_the_gripper_free(gate):
    # a asks for 0.2 rad where 0.1 is allowed: factor 1/2, so b moves 0.05 of the 0.1 it asked for.
    command = ask(gate, 0, [0.2, 0.1, 0.0])
    assert command.action.tolist() == pytest.approx([0.1, 0.05, 0.0], abs=1e-15)
    assert command.reasons == (Reason.VELOCITY_LIMIT,)


def test_step_limit_acts_where_it_is_the_tighter_one(gate):
    command = ask(gate, 0, [0.1, 0.3, 0.04])
    assert command.action.tolist() == pytest.approx([0.1 * 2 / 3, 0.2, 0.04], abs=1e-15)
    assert command.reasons == (Reason.STEP_LIMIT,)


def test_limits_count_from_the_last_command_not_from_the_measured_state(gate):
    ask(gate, 0, [0.1, 0.0, 0.04])
    assert ask(gate, 1, [0.3, 0.0, 0.04]).action.tolist() == pytest.approx([0.2, 0.0, 0.04])


def test_position_limit_clips_each_element(gate):
    gate.arm(0, np.array([0.95, 0.0, 0.04]))
    command = ask(gate, 0, [1.02, 0.1, 0.2])
    assert command.action.tolist() == [1.0, 0.1, 0.08]
    assert command.reasons == (Reason.POSITION_LIMIT,)


@pytest.mark.parametrize(("asked", "sent"), [(1.5, 1.2), (1.25, 1.2), (1.15, 1.15), (0.0, 1.1)])
def test_an_arm_outside_its_range_may_only_move_inward(gate, asked, sent):
    gate.arm(0, np.array([1.2, 0.0, 0.04]))
    assert ask(gate, 0, [asked, 0.0, 0.04]).action[0] == pytest.approx(sent)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_element_refuses_the_whole_request_and_holds_the_last_command(gate, bad):
    ask(gate, 0, [0.05, 0.0, 0.02])
    command = ask(gate, 1, [0.1, bad, 0.04])
    assert command.action.tolist() == [0.05, 0.0, 0.02]
    assert command.reasons == (Reason.NOT_FINITE,)


@pytest.mark.parametrize("malformed", [np.zeros(2), np.zeros((1, 3)), np.zeros(3, dtype=complex), np.array(["0"] * 3)])
def test_a_malformed_request_holds(gate, malformed):
    command = gate.check(0, malformed, measured_at(0), 7)
    assert command.action.tolist() == ORIGIN.tolist()
    assert command.reasons == (Reason.MALFORMED,)


def test_without_a_request_the_last_command_is_held(gate):
    ask(gate, 0, [0.1, 0.0, 0.0])
    command = ask(gate, 1, None)
    assert command.action.tolist() == [0.1, 0.0, 0.0]
    assert command.reasons == (Reason.NO_CHUNK,)


@pytest.mark.parametrize(
    "measured",
    [
        None,
        measured_at(-150_000_001),
        measured_at(350_000_001),
        measured_at(100_000_000, np.array([0.0, np.nan, 0.0])),
        measured_at(100_000_000, np.zeros(2)),
    ],
    ids=["missing", "too old", "from the future", "not finite", "wrong size"],
)
def test_without_a_fresh_measured_state_the_last_command_is_held(gate, measured):
    ask(gate, 0, [0.1, 0.0, 0.04])
    command = gate.check(TICK_NS, np.array([0.2, 0.0, 0.04]), measured, 7)
    assert command.action.tolist() == [0.1, 0.0, 0.04]
    assert command.reasons == (Reason.STALE_STATE,)


def test_a_state_exactly_as_old_as_allowed_is_fresh(gate):
    assert gate.check(TICK_NS, ORIGIN, measured_at(-150_000_000), 7).reasons == ()


def test_unarmed_the_measured_state_is_followed_and_requests_are_refused(joint_spec, limits):
    gate = SafetyGate(joint_spec, limits)
    first = gate.check(0, np.array([0.1, 0.0, 0.0]), measured_at(0, np.array([0.7, 0.1, 0.03], dtype=np.float32)), 7)
    assert first.action.tolist() == pytest.approx([0.7, 0.1, 0.03], abs=1e-7)
    assert first.reasons == (Reason.NOT_ARMED,)
    silent = gate.check(TICK_NS, None, None, None)
    assert silent.action.tolist() == first.action.tolist()


def test_unarmed_without_any_state_no_command_is_safe(joint_spec, limits):
    with pytest.raises(InvalidValue, match="not known yet"):
        SafetyGate(joint_spec, limits).check(0, ORIGIN, None, None)


def test_disarming_refuses_the_next_request_and_arming_starts_from_the_measured_state(gate):
    gate.disarm()
    assert not gate.is_armed
    assert ask(gate, 0, [0.1, 0.0, 0.04]).reasons == (Reason.NOT_ARMED,)
    gate.arm(TICK_NS, np.array([0.5, 0.5, 0.0]))
    assert gate.is_armed
    assert ask(gate, 1, [0.9, 0.5, 0.0]).action.tolist() == pytest.approx([0.6, 0.5, 0.0])


def test_arming_at_a_state_that_is_not_finite_is_an_error(gate):
    with pytest.raises(InvalidValue, match="cannot arm"):
        gate.arm(0, np.array([0.0, np.nan, 0.0]))


def test_a_late_tick_does_not_catch_up_and_a_repeated_or_backward_tick_does_not_move(gate):
    assert ask(gate, 9, [0.9, 0.0, 0.04]).action[0] == pytest.approx(0.1)
    assert ask(gate, 9, [0.9, 0.0, 0.04]).action[0] == pytest.approx(0.1, abs=1e-8)
    assert ask(gate, 8, [0.9, 0.0, 0.04]).action[0] == pytest.approx(0.1, abs=1e-8)


def test_ticks_faster_than_the_action_rate_share_the_velocity_limit(gate):
    ask(gate, 0, [0.0, 0.0, 0.04])
    half = TICK_NS // 2
    assert gate.check(half, np.array([0.9, 0.0, 0.04]), measured_at(half), 7).action[0] == pytest.approx(0.05)


def test_a_tcp_delta_is_limited_from_zero_and_held_as_zero_with_the_gripper_kept(delta_spec, limits):
    low, high = (-0.05, -0.05, 0.0), (0.05, 0.05, 0.08)
    narrow = replace(limits, position_low=low, position_high=high, velocity_max=(0.2, 0.2, float("inf")))
    gate = SafetyGate(delta_spec, narrow)
    gate.arm(0, np.array([0.0, 0.0, 0.04]))
    for tick in range(2):  # the same displacement twice: no creeping from the command before
        command = ask(gate, tick, [0.04, 0.01, 0.01])
        assert command.action.tolist() == pytest.approx([0.02, 0.005, 0.01])
    assert ask(gate, 2, None).action.tolist() == [0.0, 0.0, 0.01]


def test_every_reason_is_counted(gate):
    ask(gate, 0, [5.0, 0.0, 0.04])
    ask(gate, 1, None)
    ask(gate, 2, None)
    expected = {Reason.POSITION_LIMIT: 1, Reason.VELOCITY_LIMIT: 1, Reason.STEP_LIMIT: 1, Reason.NO_CHUNK: 2}
    assert gate.counts == Counter(expected)


def test_a_command_is_not_changed_by_what_its_receiver_does_with_it(gate):
    ask(gate, 0, [0.1, 0.0, 0.04]).action[:] = np.nan
    assert ask(gate, 1, None).action.tolist() == [0.1, 0.0, 0.04]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_low": (-1.0, -2.0)}, "position_low has 2 values, the action 3"),
        ({"position_low": (-1.1, -2.0, 0.0)}, r"a: position limits -1.1..1.0 must lie in -1.0..1.0"),
        ({"position_high": (1.0, float("nan"), 0.08)}, "b: position limits"),
        ({"position_low": (0.5, -2.0, 0.0), "position_high": (0.4, 2.0, 0.08)}, "a: position limits 0.5..0.4"),
        ({"velocity_max": (1.0, 0.0, 1.0)}, "b: velocity_max is 0.0, must be positive"),
        ({"step_max": (1.0, 1.0, float("nan"))}, "gripper: step_max is nan, must be positive"),
        ({"max_state_age_s": float("nan")}, "max_state_age_s is nan"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(joint_spec, limits, change, message):
    with pytest.raises(ConfigError, match=message):
        SafetyGate(joint_spec, replace(limits, **change))


in_range = st.tuples(st.floats(-1, 1), st.floats(-2, 2), st.floats(0, 0.08)).map(np.array)
anything = st.lists(st.floats(width=64), min_size=3, max_size=3).map(np.array)
requests = st.lists(st.one_of(anything, in_range, st.none()), min_size=1, max_size=8)
gaps_ns = st.integers(-TICK_NS, 3 * TICK_NS)


@given(start=in_range, requests=requests, gaps=st.lists(gaps_ns, min_size=8, max_size=8))
def test_whatever_is_asked_the_command_is_finite_in_range_and_near_the_last_one(
    joint_spec, limits, start, requests, gaps
):
    gate = SafetyGate(joint_spec, limits)
    gate.arm(0, start)
    now_ns, last = 0, start
    for request, gap in zip(requests, gaps, strict=False):
        action = gate.check(now_ns, request, measured_at(now_ns), 0).action
        assert np.isfinite(action).all()
        assert (action >= limits.position_low).all()
        assert (action <= limits.position_high).all()
        assert (np.abs(action - last)[:2] <= np.array([0.1, 0.2]) * (1 + 1e-9) + 1e-15).all()
        now_ns, last = now_ns + gap, action


@given(start=in_range, request=in_range)
def test_the_common_factor_keeps_the_direction(joint_spec, limits, start, request):
    gate = SafetyGate(joint_spec, limits)
    gate.arm(0, start)
    command = gate.check(0, request, measured_at(0), 0)
    asked, moved = (request - start)[:2], (command.action - start)[:2]
    assert asked[0] * moved[1] - asked[1] * moved[0] == pytest.approx(0, abs=1e-12)
    assert asked @ moved >= 0
    assert command.action[2] == request[2]


@given(start=st.lists(st.floats(-1e300, 1e300), min_size=3, max_size=3).map(np.array), request=in_range)
def test_from_outside_the_range_no_element_moves_further_out(joint_spec, limits, start, request):
    gate = SafetyGate(joint_spec, limits)
    gate.arm(0, start)
    action = gate.check(0, request, measured_at(0), 0).action
    assert (action >= np.minimum(start, limits.position_low)).all()
    assert (action <= np.maximum(start, limits.position_high)).all()
