"""What the safety gate does in its states, and on the way from one to the other; with the small arm."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from small_arm import DELTA_LIMITS, DELTA_SPEC, LIMITS, ORIGIN, SPEC, TICK_NS, Driver

from armature.control.safety_gate import SafetyGate
from armature.errors import InvalidValue
from armature.types import GateState, Reason, Sample, Tick

ARMED, HOLD, LATCHED, DISARMED = GateState.ARMED, GateState.HOLD, GateState.LATCHED, GateState.DISARMED


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_a_request_within_the_limits_passes_to_the_last_bit(driver):
    command = driver.ask([0.0123456789, -0.0987654321, 0.0765])
    assert command.action.tolist() == [0.0123456789, -0.0987654321, 0.0765]
    assert (command.reasons, command.state) == ((), ARMED)
    assert (command.stamp_ns, command.chunk_stamp_ns) == (driver.epoch_ns, driver.epoch_ns)
    assert command.requested is not None
    assert command.requested.tolist() == command.action.tolist()


def test_requests_of_single_precision_and_of_integers_are_numbers_too(driver):
    assert driver.ask(np.array([0.015625, 0.0625, 0.03125], dtype=np.float32)).action.tolist() == [
        0.015625,
        0.0625,
        0.03125,
    ]
    assert Driver().ask(np.zeros(3, dtype=np.int64)).action.tolist() == [0.0, 0.0, 0.0]


def test_from_rest_acceleration_shortens_all_joints_by_one_factor_and_leaves_the_gripper_free(driver):
    # a asks for 0.08 rad and gets 0.02: factor 1/4, so b gets 0.01 of 0.04.
    command = driver.ask([0.08, 0.04, 0.0])
    assert command.action.tolist() == pytest.approx([0.02, 0.01, 0.0], abs=1e-15)
    assert command.reasons == (Reason.ACCELERATION_LIMIT,)


def test_a_request_beyond_the_speed_limit_says_so_and_the_joint_reaches_that_speed(driver):
    commands = [driver.ask([0.9, 0.0, 0.04]) for _ in range(7)]
    steps = np.diff([0.0, *(command.action[0] for command in commands)])
    assert steps == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1])
    assert {command.reasons for command in commands} == {(Reason.VELOCITY_LIMIT,)}


def test_a_request_that_moves_on_at_exactly_the_speed_limit_is_not_too_fast():
    driver = Driver([-0.9, 0.0, 0.04])
    ramp = np.cumsum([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1, 0.1])
    assert [driver.ask([-0.9 + moved, 0.0, 0.04]).reasons for moved in ramp] == [()] * 8


def test_limits_count_from_the_last_command_not_from_the_measured_state(driver):
    driver.ask([0.02, 0.0, 0.04])
    command = driver.ask([0.2, 0.0, 0.04], measured=driver.measured([-0.05, 0.0, 0.04]))
    assert command.action.tolist() == pytest.approx([0.06, 0.0, 0.04])


def test_a_request_out_of_range_is_cut_joint_by_joint(driver):
    driver.reach([0.95, 0.0, 0.04])
    command = driver.ask([1.2, 0.02, 0.09])
    assert command.reasons == (Reason.POSITION_LIMIT,)
    # As far as the cut request (1.0, 0.02, 0.08): 0.02 of 0.05, and the same share of 0.02.
    assert command.action.tolist() == pytest.approx([0.97, 0.008, 0.08])
    commands = [driver.ask([1.2, 0.02, 0.09]) for _ in range(5)]
    assert commands[-1].action.tolist() == [1.0, 0.02, 0.08]


def test_what_lies_exactly_on_the_bounds_is_in_range(driver):
    for corner in ([1.0, 2.0, 0.08], [-1.0, -2.0, 0.0]):
        assert driver.reach(corner).action.tolist() == corner


@pytest.mark.fault(row=4)
@pytest.mark.parametrize(("asked", "ends_at"), [(1.45, 1.2), (1.2, 1.2), (1.15, 1.15), (0.9, 0.9)])
def test_an_arm_outside_its_range_stays_or_moves_inward(asked, ends_at):
    driver = Driver([1.2, 0.0, 0.04])
    places = [driver.ask([asked, 0.0, 0.04]).action[0] for _ in range(20)]
    assert (np.diff([1.2, *places]) <= 0).all()
    assert places[-1] == ends_at


def test_without_a_request_the_arm_stops_along_its_path_and_goes_on_when_there_is_one_again(driver):
    for _ in range(3):
        driver.ask([0.6, 0.3, 0.04])
    assert driver.gate.state is ARMED
    commands = [driver.ask(None) for _ in range(4)]
    # From (0.6, 0.3) rad/s, a brakes by 0.2 rad/s a tick; b by as much of its speed.
    steps = np.diff([[0.12, 0.06, 0.04], *(command.action for command in commands)], axis=0)
    assert steps.tolist() == pytest.approx(
        np.array([[0.04, 0.02, 0], [0.02, 0.01, 0], [0, 0, 0], [0, 0, 0]]), abs=1e-12
    )
    assert {(command.reasons, command.state) for command in commands} == {((Reason.NO_CHUNK,), HOLD)}
    assert driver.ask([0.6, 0.3, 0.04]).state is ARMED
    assert driver.reach([0.6, 0.3, 0.04]).action.tolist() == [0.6, 0.3, 0.04]


def test_a_stop_holds_the_gripper_where_it_was_commanded_to_be(driver):
    driver.ask([0.0, 0.0, 0.01])
    assert driver.ask(None, measured=driver.measured([0.0, 0.0, 0.03])).action.tolist() == [0.0, 0.0, 0.01]


@pytest.mark.fault(row=21)
@pytest.mark.parametrize(("age_ms", "reason"), [(250, None), (251, Reason.STALE_STATE), (550, Reason.STALE_STATE)])
def test_without_a_fresh_measured_state_the_arm_holds_until_one_comes(driver, age_ms, reason):
    driver.now_ns = 1_000_000_000
    driver.arm(ORIGIN)
    driver.now_ns += age_ms * 1_000_000
    command = driver.ask([0.01, 0.0, 0.04], measured=None)
    assert command.reasons == (() if reason is None else (reason,))
    assert command.state is (ARMED if reason is None else HOLD)
    assert command.action.tolist() == [0.01 if reason is None else 0.0, 0.0, 0.04]
    assert driver.ask([0.01, 0.0, 0.04]).state is ARMED


@pytest.mark.fault(row=21)
def test_a_state_that_is_missing_for_too_long_latches(driver):
    states = [driver.ask(ORIGIN, measured=None).state for _ in range(8)]
    # Ages 0 to 0.7 s: hold above 0.25, latch above 0.55.
    assert states == [ARMED] * 3 + [HOLD] * 3 + [LATCHED] * 2
    assert driver.gate.fault is Reason.STATE_LOST
    assert driver.ask(ORIGIN).reasons == (Reason.LATCHED, Reason.STATE_LOST)


@pytest.mark.fault(row=22)
def test_a_state_that_is_not_finite_is_no_state(driver):
    driver.ask([0.01, 0.0, 0.04])
    commands = [driver.ask([0.01, 0.0, 0.04], measured=driver.measured([0.0, np.nan, 0.0])) for _ in range(5)]
    assert [command.state for command in commands] == [ARMED] * 2 + [HOLD] * 3
    assert commands[-1].reasons == (Reason.STALE_STATE,)


def test_a_latched_gate_brakes_and_holds_whatever_is_asked_until_it_is_armed(driver):
    driver.ask([0.3, 0.0, 0.04])
    driver.ask([0.3, 0.0, 0.04])
    driver.gate.latch(Reason.OPERATOR)
    commands = [driver.ask([0.3, 0.0, 0.0]) for _ in range(4)]
    assert [command.action[0] for command in commands] == pytest.approx([0.08, 0.08, 0.08, 0.08])
    assert {(command.reasons, command.state) for command in commands} == {((Reason.LATCHED, Reason.OPERATOR), LATCHED)}
    assert (driver.gate.is_armed, driver.gate.fault) == (False, Reason.OPERATOR)
    driver.arm([0.08, 0.0, 0.04])
    assert (driver.gate.is_armed, driver.gate.fault) == (True, None)
    assert driver.ask([0.09, 0.0, 0.04]).action.tolist() == [0.09, 0.0, 0.04]


def test_a_latched_gate_holds_an_arm_that_was_moved_where_it_is_found_and_stays_latched(driver):
    driver.reach([0.5, 0.1, 0.04])
    driver.gate.latch(Reason.OPERATOR)
    assert driver.ask(ORIGIN).action.tolist() == [0.5, 0.1, 0.04]
    # Its driver is stopped, and a person leads the arm aside.
    for _ in range(10):
        assert driver.ask(ORIGIN, measured=None).action.tolist() == [0.5, 0.1, 0.04]
    driver.arm_is_at = np.array([-0.3, 0.1, 0.06])
    command = driver.ask(ORIGIN)
    assert command.action.tolist() == [-0.3, 0.1, 0.06]
    assert (command.state, command.reasons) == (LATCHED, (Reason.LATCHED, Reason.OPERATOR))


def test_a_latched_gate_gives_way_to_half_a_second_of_states_elsewhere_and_not_to_a_wrong_one(driver):
    driver.gate.latch(Reason.OPERATOR)

    def held_while_at(place: float) -> float:
        driver.arm_is_at = np.array([place, 0.0, 0.04])
        return driver.ask(ORIGIN).action[0]

    assert [held_while_at(place) for place in (0.0, 0.9, 0.0)] == [0.0, 0.0, 0.0]
    assert [held_while_at(0.9) for _ in range(6)] == [0.0] * 5 + [0.9]


def test_a_gate_that_latches_after_a_stall_does_not_give_way_at_once(driver):
    driver.ask(ORIGIN, ticks=6)
    driver.arm_is_at = np.array([0.9, 0.0, 0.04])
    command = driver.ask(ORIGIN)
    assert (command.state, driver.gate.fault) == (LATCHED, Reason.TRACKING_LOST)
    assert command.action.tolist() != [0.9, 0.0, 0.04]


def test_a_gate_that_goes_back_to_where_the_arm_was_does_so_within_the_limits_before_it_gives_way(driver):
    driver.reach([0.5, 0.1, 0.04])
    places = [0.5]
    for _ in range(20):
        driver.arm_is_at = np.array([-0.1, 0.1, 0.04])
        places.append(driver.ask([0.5, 0.1, 0.04]).action[0])
    assert driver.gate.fault is Reason.TRACKING_LOST
    assert np.abs(np.diff(places)).max() <= 0.1 + 1e-12
    assert places[-1] == pytest.approx(-0.1)


def test_the_first_fault_is_kept_and_disarming_does_not_end_it(driver):
    driver.gate.latch(Reason.SECOND_WRITER)
    driver.gate.latch(Reason.OPERATOR)
    driver.gate.disarm()
    assert (driver.gate.state, driver.gate.fault) == (LATCHED, Reason.SECOND_WRITER)
    assert driver.ask([0.01, 0.0, 0.04]).reasons == (Reason.LATCHED, Reason.SECOND_WRITER)


def test_a_disarmed_gate_has_nothing_to_latch():
    gate = Driver(start=None).gate
    gate.latch(Reason.OPERATOR)
    assert (gate.state, gate.fault) == (DISARMED, None)


@pytest.mark.parametrize("fault", [Reason.TRACKING_LOST, Reason.STATE_FROZEN])
def test_an_arm_that_did_not_follow_is_not_pressed_on_but_gone_back_to_within_the_limits(driver, fault):
    driver.reach([0.5, 0.1, 0.04])
    # The arm is 0.04 rad behind; the gripper holds something.
    driver.arm_is_at = np.array([0.46, 0.1, 0.05])
    driver.ask([0.5, 0.1, 0.04])
    driver.ask([0.5, 0.1, 0.04], measured=driver.measured([0.46, 0.1, 0.05]))
    driver.gate.latch(fault)
    commands = [driver.ask([0.5, 0.1, 0.04], measured=driver.measured([0.46, 0.1, 0.05])) for _ in range(4)]
    assert [command.action[0] for command in commands] == pytest.approx([0.48, 0.46, 0.46, 0.46])
    assert commands[0].action[2] == 0.05


def test_for_any_other_fault_the_last_command_is_held(driver):
    driver.reach([0.5, 0.1, 0.04])
    behind = driver.measured([0.46, 0.1, 0.05])
    driver.ask([0.5, 0.1, 0.04], measured=behind)
    driver.gate.latch(Reason.SECOND_WRITER)
    assert driver.ask([0.5, 0.1, 0.04], measured=behind).action.tolist() == [0.5, 0.1, 0.04]


def test_disarmed_an_arm_that_was_moved_is_followed_and_requests_are_refused():
    driver = Driver(start=None)
    seen = Sample(0, 0, np.array([0.5, 0.25, 0.03125], dtype=np.float32))
    command = driver.ask([0.1, 0.0, 0.0], measured=seen)
    assert command.action.tolist() == [0.5, 0.25, 0.03125]
    assert (command.reasons, command.state) == ((Reason.NOT_ARMED,), DISARMED)
    # Silent for a while, the arm may have been moved: what is commanded stays what it was when it was last seen.
    assert driver.ask([0.1, 0.0, 0.0], measured=None, ticks=3).action.tolist() == [0.5, 0.25, 0.03125]
    old = driver.measured([0.9, 0.0, 0.0], age_ns=300_000_000)
    assert driver.ask(None, measured=old).action.tolist() == [0.5, 0.25, 0.03125]
    assert driver.ask(None, measured=driver.measured([0.9, 0.0, 0.0])).action.tolist() == [0.9, 0.0, 0.0]


def test_disarmed_in_motion_the_arm_comes_to_rest_first():
    driver = Driver()
    for _ in range(3):
        driver.ask([0.6, 0.0, 0.04])
    driver.gate.disarm()
    assert not driver.gate.is_armed
    behind = [0.1, 0.0, 0.04]
    commands = [driver.ask([0.6, 0.0, 0.04], measured=driver.measured(behind)) for _ in range(5)]
    assert [command.action[0] for command in commands] == pytest.approx([0.16, 0.18, 0.18, 0.18, 0.18])
    assert {(command.reasons, command.state) for command in commands} == {((Reason.NOT_ARMED,), DISARMED)}


def test_disarmed_an_arm_that_hangs_below_its_command_does_not_sink_and_its_gripper_stays_closed():
    driver = Driver(start=None)
    driver.ask(None, measured=driver.measured([0.5, 0.25, 0.04]))
    commands = [driver.ask(None, measured=driver.measured([0.5, 0.25 - 0.09, 0.03])) for _ in range(50)]
    assert {tuple(command.action.tolist()) for command in commands} == {(0.5, 0.25, 0.04)}
    # Armed, it goes on from there: else each arming would let it down, and open the gripper.
    driver.gate.arm(driver.tick, driver.measured([0.5, 0.16, 0.03]))
    assert driver.ask(None, measured=driver.measured([0.5, 0.16, 0.03])).action.tolist() == [0.5, 0.25, 0.04]
    driver.gate.disarm()
    # Beyond what an arm may be off its command, somebody has moved it.
    assert driver.ask(None, measured=driver.measured([0.5, 0.14, 0.03])).action.tolist() == [0.5, 0.14, 0.03]


def test_disarmed_what_has_no_limit_of_speed_is_followed_at_once():
    driver = Driver(start=None, limits=DELTA_LIMITS, spec=DELTA_SPEC)
    for opening in (0.03, 0.05):
        seen = driver.measured([0.5, 0.25, opening])
        assert driver.ask(None, measured=seen).action.tolist() == [0.0, 0.0, opening]


def test_disarmed_without_any_state_no_command_is_safe():
    driver = Driver(start=None)
    with pytest.raises(InvalidValue, match=r"^the state of the arm is not known yet: no command is safe$"):
        driver.ask(ORIGIN, measured=None)
    driver.now_ns = 10 * TICK_NS
    with pytest.raises(InvalidValue, match=r"^the state of the arm is not known yet: no command is safe$"):
        driver.ask(ORIGIN, measured=Sample(0, 0, np.zeros(3)))


@pytest.mark.parametrize(
    ("state", "age_ms", "message"),
    [
        ([0.0, np.nan, 0.0], 0, "cannot arm at .*needs 3 finite values"),
        ([0.0, 0.0], 0, "cannot arm at .*needs 3 finite values"),
        ([0.0, 0.0, 0.0], 251, r"cannot arm: the measured state is 0\.251 s old"),
        ([0.0, 0.0, 0.0], 5_000_000_000, r"cannot arm: the measured state is 5000000\.000 s old"),
        ([0.0, 0.0, 0.0], -251, r"cannot arm: the measured state is -0\.251 s old"),
    ],
)
def test_arming_without_a_valid_fresh_state_is_an_error_and_changes_nothing(state, age_ms, message):
    driver = Driver(start=None)
    driver.now_ns = 10 * TICK_NS
    with pytest.raises(InvalidValue, match=message):
        driver.gate.arm(driver.tick, driver.measured(state, age_ms * 1_000_000))
    assert driver.gate.state is DISARMED


def test_arming_while_the_arm_still_moves_is_an_error(driver):
    driver.ask([0.3, 0.0, 0.04])
    driver.gate.latch(Reason.OPERATOR)
    assert not driver.gate.is_at_rest
    with pytest.raises(InvalidValue, match=r"^cannot arm: the arm is still coming to rest$"):
        driver.arm([0.0, 0.0, 0.04])
    assert driver.gate.state is LATCHED
    driver.ask(None)
    assert driver.gate.is_at_rest
    driver.arm([0.02, 0.0, 0.04])
    assert driver.gate.state is ARMED


def test_arming_counts_requests_of_the_time_before_no_more():
    driver = Driver([-0.5, 0.0, 0.04])
    assert driver.ask([-0.5, 0.0, 0.04]).reasons == ()
    driver.arm([-0.5, 0.0, 0.04])
    # The first request again: 1.1 rad are too far for it, though not for a later one.
    assert driver.ask([0.6, 0.0, 0.04]).reasons == (Reason.LATCHED, Reason.FIRST_COMMAND)


def test_a_tick_that_comes_late_does_not_catch_up_and_finds_the_arm_slower(driver):
    for _ in range(2):
        driver.ask([0.9, 0.0, 0.04])
    driver.ask([0.9, 0.0, 0.04], ticks=3)
    # It went at 0.6 rad/s; two ticks without a command took 0.4 of that, and this one may add 0.2 again.
    assert driver.ask([0.9, 0.0, 0.04]).action[0] == pytest.approx(0.12 + 0.04)
    driver.ask([0.9, 0.0, 0.04], ticks=50)
    before = float(driver.arm_is_at[0])
    assert driver.ask([0.9, 0.0, 0.04]).action[0] == pytest.approx(before + 0.02)


def test_a_target_that_was_followed_over_a_late_tick_moves_no_faster_than_it_did(driver):
    driver.ask([0.01, 0.0, 0.04], ticks=2)
    # 0.02 rad in 0.2 s: at this speed it would be met again in the next tick.
    assert driver.ask([0.03, 0.0, 0.04]).reasons == ()


@pytest.mark.parametrize("early_ns", [0, 1, TICK_NS, 5 * TICK_NS])
def test_a_tick_that_is_repeated_or_goes_back_repeats_the_command(driver, early_ns):
    first = driver.ask([0.02, 0.0, 0.04])
    driver.now_ns -= TICK_NS + early_ns
    again = driver.ask([0.04, 0.0, 0.04], measured=None)
    assert again.action.tolist() == first.action.tolist()
    assert (again.stamp_ns, again.reasons, driver.gate.counts) == (first.stamp_ns, (), Counter())


@pytest.mark.parametrize(("share", "is_repeated"), [(0.49, True), (0.51, False), (1.49, False)])
def test_ticks_may_come_half_a_period_early_or_late(driver, share, is_repeated):
    driver.ask([0.02, 0.0, 0.04], ticks=share)
    command = driver.ask([0.06, 0.0, 0.04])
    assert command.action[0] == pytest.approx(0.02 if is_repeated else 0.06)


def test_the_first_tick_after_arming_moves_even_where_its_time_lies_before():
    driver = Driver()
    driver.now_ns -= TICK_NS
    assert driver.ask([0.01, 0.0, 0.04], measured=None).action[0] == 0.01


def test_a_command_is_not_changed_by_what_its_receiver_does_with_it(driver):
    first = driver.ask([0.01, 0.0, 0.04])
    first.action[:] = np.nan
    driver.now_ns -= TICK_NS
    repeated = driver.ask([0.01, 0.0, 0.04], measured=None)
    assert repeated.action.tolist() == [0.01, 0.0, 0.04]
    repeated.action[:] = np.nan
    driver.arm_is_at = np.array([0.01, 0.0, 0.04])
    assert driver.ask(None).action.tolist() == [0.01, 0.0, 0.04]


def test_a_request_that_answers_no_observation_is_as_young_as_its_tick():
    driver = Driver(limits=replace(LIMITS, request=replace(LIMITS.request, chunk_age_max_s=0.5)))
    command = driver.gate.check(driver.tick, np.array([0.01, 0.0, 0.04]), driver.measured(), None)
    assert (command.reasons, command.chunk_stamp_ns) == ((), None)


def test_every_reason_is_counted(driver):
    driver.ask([1.5, 0.0, 0.04], measured=driver.measured())
    assert driver.gate.fault is Reason.FIRST_COMMAND
    driver.ask([1.5, 0.0, 0.04])
    driver.arm(ORIGIN)
    driver.ask([0.4, 0.0, 0.09])
    driver.ask(None)
    assert driver.gate.counts == Counter(
        {
            Reason.LATCHED: 2,
            Reason.FIRST_COMMAND: 2,
            Reason.POSITION_LIMIT: 1,
            Reason.VELOCITY_LIMIT: 1,
            Reason.NO_CHUNK: 1,
        }
    )


def test_a_gate_may_be_ticked_faster_than_actions_come():
    driver = Driver(period_ns=10_000_000)
    steps = [driver.ask([0.3, 0.0, 0.04]).action[0] for _ in range(60)]
    # 2 rad/s2 at 100 Hz: 0.0002 rad in the first tick, and as much more in each.
    assert steps[:3] == pytest.approx([0.0002, 0.0006, 0.0012])
    assert np.diff(steps).max() <= 0.01


def test_without_a_period_the_gate_ticks_at_the_rate_of_its_actions():
    gate = SafetyGate(SPEC, LIMITS)
    gate.arm(Tick(0, 0), Sample(0, 0, np.array(ORIGIN)))
    assert gate.check(Tick(0, 0), np.array([0.5, 0.0, 0.04]), None, 0).action[0] == pytest.approx(0.02)


def test_a_motion_of_the_tool_is_held_as_zero_with_the_gripper_kept():
    driver = Driver([0.03, 0.0, 0.04], DELTA_LIMITS, DELTA_SPEC)
    for _ in range(2):  # the same displacement twice, at once: it is no place to go to
        assert driver.ask([0.04, 0.01, 0.01]).action.tolist() == [0.04, 0.01, 0.01]
    command = driver.ask(None)
    assert command.action.tolist() == [0.0, 0.0, 0.01]
    driver.gate.latch(Reason.TRACKING_LOST)
    assert driver.ask([0.04, 0.01, 0.01], measured=driver.measured([0.04, 0.01, 0.02])).action[:2].tolist() == [
        0.0,
        0.0,
    ]


def test_disarmed_a_motion_of_the_tool_is_zero_whatever_is_measured():
    driver = Driver(None, DELTA_LIMITS, DELTA_SPEC)
    assert driver.ask(None, measured=driver.measured([0.03, 0.02, 0.05])).action.tolist() == [0.0, 0.0, 0.05]


class Wall:
    """Slows the arm where joint a is about to go beyond an angle."""

    def __init__(self, angle_rad: float, share: float) -> None:
        self.angle_rad, self.share = angle_rad, share
        self.seen: list[tuple[list[float], list[float], float]] = []

    def scale(self, joints, velocity, period_s):
        self.seen.append((joints.tolist(), velocity.tolist(), period_s))
        is_free = joints[0] + velocity[0] * period_s <= self.angle_rad
        return (1.0, ()) if is_free else (self.share, (Reason.TCP_BOX,))


def test_a_guard_sees_the_joints_and_slows_them_by_one_factor():
    wall = Wall(angle_rad=0.015, share=0.5)
    driver = Driver(guard=wall)
    command = driver.ask([0.02, 0.01, 0.0])
    assert wall.seen == [([0.0, 0.0], pytest.approx([0.2, 0.1]), 0.1)]
    assert command.action.tolist() == pytest.approx([0.01, 0.005, 0.0])
    assert command.reasons == (Reason.TCP_BOX,)
    assert driver.gate.counts == {Reason.TCP_BOX: 1}
    # What it lets pass is not touched, and it is asked about stops too.
    away = Driver(guard=wall)
    assert away.ask([-0.02, 0.0, 0.04]).action.tolist() == [-0.02, 0.0, 0.04]
    away.ask(None)
    assert wall.seen[-1][1] == [0.0, 0.0]


@pytest.mark.parametrize(("speed_rad_s", "rests"), [(1e-15, True), (1e-6, True), (1.01e-6, False), (-1.01e-6, False)])
def test_an_arm_that_a_guard_leaves_all_but_no_motion_stands_still_and_can_be_armed_anew(speed_rad_s, rests):
    wall = Wall(angle_rad=10.0, share=1.0)
    driver = Driver(guard=wall)
    there = [math.copysign(0.05, speed_rad_s), 0.0, 0.04]
    driver.ask(ORIGIN)
    driver.ask(ORIGIN, measured=driver.measured(there))
    # Latched, it is to go to where the arm is, 0.05 rad off; the guard sees a wall before that.
    driver.gate.latch(Reason.TRACKING_LOST)
    wall.angle_rad, wall.share = -10.0, abs(speed_rad_s) / (0.05 / 0.1)
    before = driver.arm_is_at[0]
    command = driver.ask(None, measured=driver.measured(there))
    assert command.action[0] - before == pytest.approx(speed_rad_s * 0.1)
    assert driver.gate.is_at_rest is rests
    if rests:
        driver.arm(there)
        assert driver.gate.state is ARMED


def test_a_guard_comes_on_top_of_the_other_reasons_and_cannot_make_the_arm_brake_harder_than_it_may():
    wall = Wall(angle_rad=10.0, share=0.0)
    driver = Driver(guard=wall)
    for _ in range(4):
        driver.ask([0.9, 0.0, 0.04])
    wall.angle_rad = -10.0
    before = float(driver.arm_is_at[0])
    command = driver.ask([0.9, 0.0, 0.04])
    # It went at 0.8 rad/s; the guard asks for none of that, acceleration allows no less than 0.6.
    assert command.action[0] - before == pytest.approx(0.06)
    assert command.reasons == (Reason.VELOCITY_LIMIT, Reason.TCP_BOX)
