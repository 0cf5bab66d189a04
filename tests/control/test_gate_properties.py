"""What holds of the safety gate whatever happens to it: 1000 examples each, 100 000 with HYPOTHESIS_PROFILE=nightly.

Of every command, compared with the one before: it is finite; in the range of positions, or between that range and where
the arm was outside of it; no faster than the velocity limit; its velocity no further from the one before than
acceleration allows in the time between. That is what `Watchdog` checks in all of these tests.

The only commands that are exempt are those that follow the measured state, while disarmed and at rest.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from ordeal import HOUR_NS, MS, NO_NUMBERS, Ordeal, Watchdog, anything, events, in_range, near, offsets, starts
from small_arm import DELTA_LIMITS, DELTA_SPEC, LIMITS, ORIGIN, REQUEST, WATCH, Driver

from armature.control.limiter import JointLimits, velocity_range
from armature.control.limits import ROBOTS, RobotLimits, SafetyLimits
from armature.spec import GRIPPER_OPENING, JOINT_POSITION, ActionSpec, ArraySpec
from armature.types import Command, GateState, Reason

thorough = settings(max_examples=10 * settings.default.max_examples)

# Braking before the ends of the range is no concern here, nor is catching up at nearly full speed.
far_from_the_ends = st.tuples(near(-0.6, 0.6), near(-1.0, 1.0), near(0, 0.08))
FER = RobotLimits.from_mapping(yaml.safe_load((ROBOTS / "fer.yaml").read_text()))


def spec_of(limits: SafetyLimits, joints: int) -> ActionSpec:
    """Return a contract of `joints`, and a gripper where there are limits for one, with just these bounds."""
    parts = [(JOINT_POSITION, "rad", slice(joints)), (GRIPPER_OPENING, "m", slice(joints, None))]
    arrays = []
    for name, unit, part in parts:
        low, high = limits.position_low[part], limits.position_high[part]
        labels = tuple(f"{name}_{i}" for i in range(len(low)))
        if low:
            arrays.append(ArraySpec(name, (len(low),), "float32", unit, low=low, high=high, labels=labels))
    return ActionSpec("joint_position", tuple(arrays), 20.0)


def driven(driver: Driver, watchdog: Watchdog, *args, **kwargs) -> Command:
    """Ask for the next command, and check it."""
    command = driver.ask(*args, **kwargs)
    watchdog.see(command, ticks=1)
    return command


def covers(*rows: int):
    """Mark a test with the rows of the fault matrix that it covers."""

    def mark(test):
        for row in rows:
            test = pytest.mark.fault(row=row)(test)
        return test

    return mark


@covers(1, 2, 3, 4, 6, 11, 12, 18, 21, 22, 23)
@thorough
@given(start=starts, happenings=st.lists(events, min_size=1, max_size=25))
def test_whatever_happens_every_command_is_within_the_limits_and_every_change_of_state_has_its_cause(start, happenings):
    ordeal = Ordeal(start)
    for event in happenings:
        ordeal.happens(event)


@covers(1, 18)
@thorough
@given(request_=in_range, element=st.integers(0, 2), bad=st.sampled_from(NO_NUMBERS), times=st.integers(1, 6))
def test_an_element_that_is_no_number_refuses_the_frame_and_the_third_in_a_row_stops_the_arm(
    request_, element, bad, times
):
    driver, watchdog = Driver(), Watchdog(LIMITS, 0.1, ORIGIN)
    driven(driver, watchdog, ORIGIN)
    driven(driver, watchdog, request_)
    frame = np.array(request_)
    frame[element] = bad
    undisturbed = Driver()
    undisturbed.ask(ORIGIN)
    undisturbed.ask(request_)
    for k in range(times):
        command = driven(driver, watchdog, frame)
        assert command.reasons[0] is Reason.NOT_FINITE
        assert command.state is (GateState.ARMED if k < 2 else GateState.HOLD)
        if k < 2:  # the request before stays in force
            assert command.action.tolist() == undisturbed.ask(request_).action.tolist()
    assert driven(driver, watchdog, request_).state is GateState.ARMED


@covers(2)
@thorough
@given(start=in_range, request_=anything)
def test_any_number_at_all_is_refused_or_limited(start, request_):
    driver, watchdog = Driver(start), Watchdog(LIMITS, 0.1, start)
    for _ in range(5):
        command = driven(driver, watchdog, request_)
    if not command.reasons:
        assert command.action.tolist() == [*request_[:2], command.action[2]]


@covers(3)
@thorough
@given(start=in_range, goal=in_range)
def test_from_rest_to_a_request_in_range_the_joints_go_straight_there(start, goal):
    """Direction is kept, to a cosine of 1 - 1e-9, all the way; in range no bound is active."""
    assume(max(abs(goal[i] - start[i]) for i in range(2)) > 1e-4)
    assume(abs(goal[0] - start[0]) <= 0.99)  # else it is no first request
    driver, watchdog = Driver(start), Watchdog(LIMITS, 0.1, start)
    asked = np.array(goal[:2]) - start[:2]
    for _ in range(45):
        moved = driven(driver, watchdog, goal).action[:2] - start[:2]
        assert np.hypot(*moved) <= np.hypot(*asked) + 1e-9
        assert asked @ moved >= (1 - 1e-9) * np.hypot(*asked) * np.hypot(*moved) - 1e-12
    assert driver.arm_is_at.tolist() == list(goal)


@covers(3)
@thorough
@given(start=in_range, first=in_range, then=in_range)
def test_a_jump_of_the_request_turns_the_path_only_where_acceleration_allows_no_straight_one(start, first, then):
    """The direction of what is wanted is kept wherever one factor brings all joints into what they may do."""
    driver = Driver(start, replace(LIMITS, request=replace(REQUEST, first_command_s=9.0, jump_s=9.0)))
    driver.reach(first)
    watchdog = Watchdog(LIMITS, 0.1, first)
    before = np.array(first[:2])
    asked = np.array(then[:2]) - before
    assume(np.hypot(*asked) > 1e-4)
    # At rest every factor is possible: so also in the tick of the jump, in which the request moves faster than it may.
    moved = driven(driver, watchdog, then).action[:2] - before
    assert asked @ moved >= (1 - 1e-9) * np.hypot(*asked) * np.hypot(*moved)
    assert np.hypot(*moved) > 0


@covers(4)
@thorough
@given(
    start=st.tuples(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300), st.floats(-1, 1)),
    goals=st.lists(in_range | offsets, min_size=1, max_size=10),
    is_relative=st.booleans(),
)
def test_from_outside_the_range_no_element_moves_further_out(start, goals, is_relative):
    driver, watchdog = Driver(start), Watchdog(LIMITS, 0.1, start)
    for goal in goals:
        before = driver.arm_is_at
        command = driven(driver, watchdog, np.array(goal) + before if is_relative else goal)
        outside = (before < LIMITS.position_low) | (before > LIMITS.position_high)
        inward = np.clip(before, LIMITS.position_low, LIMITS.position_high) - before
        assert ((command.action - before) * np.sign(inward) >= 0)[outside].all()


@covers(5)
@thorough
@given(
    half_range=near(0.05, 3.0),
    velocity_max=near(0.05, 4.0),
    acceleration_max=near(0.5, 40.0),
    period_ms=st.sampled_from([1, 2, 10, 20, 50]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_thousand_ticks_of_full_speed_towards_the_ends_of_the_range_never_overshoot(
    half_range, velocity_max, acceleration_max, period_ms, seed
):
    """The limiter alone, asked for all it allows towards one end, then the other, and turned around at any moment."""
    limits, period_s = JointLimits(-half_range, half_range, velocity_max, acceleration_max), period_ms / 1000
    turns = np.random.default_rng(seed).random(1000) < 0.01
    position, velocity, side = 0.0, 0.0, 1
    places, speeds = [], []
    for turn in turns:
        side = -side if turn else side
        lowest, highest = velocity_range(position, velocity, limits, period_s)
        velocity = highest if side > 0 else lowest
        position += velocity * period_s
        places.append(position)
        speeds.append(velocity)
    assert np.max(np.abs(places)) <= half_range * (1 + 1e-12)
    assert np.max(np.abs(speeds)) <= velocity_max
    # Braking for the end of the range costs no more than acceleration either.
    assert np.max(np.abs(np.diff([0.0, *speeds]))) <= acceleration_max * period_s * (1 + 1e-9) + 1e-9


@covers(5)
@pytest.mark.parametrize("profile", ["learn", "run"])
def test_an_arm_driven_to_the_ends_of_all_its_ranges_stops_there_in_time(profile):
    limits = FER.safety(profile)
    limits = replace(limits, request=replace(limits.request, jump_s=99.0, first_command_s=99.0, chunk_age_max_s=1.0))
    low, high = np.array(limits.position_low), np.array(limits.position_high)
    driver = Driver((low + high) / 2, limits, spec_of(limits, 7), period_ns=10 * MS)
    watchdog = Watchdog(limits, 0.01, (low + high) / 2)
    for goal in (high, low, high):
        for _ in range(1000 if profile == "run" else 2000):
            driven(driver, watchdog, goal)
        assert driver.arm_is_at.tolist() == goal.tolist()


@covers(6, 8)
@thorough
@given(request_=in_range, size=st.integers(0, 700).filter(lambda size: size != 3))
def test_a_frame_of_another_size_is_refused_whole(request_, size):
    driver, watchdog = Driver(), Watchdog(LIMITS, 0.1, ORIGIN)
    driven(driver, watchdog, ORIGIN)
    command = driven(driver, watchdog, np.resize(request_, size))
    assert (command.action.tolist(), command.reasons) == (list(ORIGIN), (Reason.MALFORMED,))


fer_run = FER.safety("run")
postures = st.tuples(*(near(low, high) for low, high in zip(fer_run.position_low, fer_run.position_high, strict=True)))


@covers(7)
@thorough
@given(
    start=postures,
    goals=st.lists(postures, min_size=1, max_size=3),
    order=st.permutations(range(7)).map(lambda joints: [*joints, 7]),
)
def test_the_order_of_the_joints_makes_no_difference(start, goals, order):
    def permuted(values):
        return tuple(values[i] for i in order)

    lenient = replace(fer_run, request=replace(fer_run.request, jump_s=99.0, first_command_s=99.0))
    names = ("position_low", "position_high", "velocity_max", "acceleration_max")
    other = replace(lenient, **{name: permuted(getattr(lenient, name)) for name in names})
    one = Driver(start, lenient, spec_of(lenient, 7), period_ns=10 * MS)
    two = Driver(permuted(start), other, spec_of(other, 7), period_ns=10 * MS)
    for goal in goals:
        for _ in range(4):
            command, again = one.ask(goal), two.ask(permuted(goal))
            assert permuted(command.action.tolist()) == tuple(again.action.tolist())
            assert command.reasons == again.reasons


@covers(9)
@thorough
@given(posture=postures)
def test_a_first_request_in_degrees_latches_and_moves_nothing(posture):
    # Nearer to zero than this a joint is where it was asked to be in both units, as far as a first request may go.
    assume(any(abs(q) * 56.2958 > 0.25 * v for q, v in zip(posture[:7], fer_run.velocity_max, strict=False)))
    driver = Driver(posture, fer_run, spec_of(fer_run, 7), period_ns=10 * MS)
    for scaled in (np.array(posture) * 57.2958, [*(57.2958 * q for q in posture[:7]), posture[7]]):
        command = driver.ask(scaled)
        assert command.action.tolist() == list(posture)
        assert (command.state, driver.gate.fault) == (GateState.LATCHED, Reason.FIRST_COMMAND)
        driver.arm(posture)


@covers(11, 12)
@thorough
@given(age_ns=st.integers(-HOUR_NS, HOUR_NS), request_=in_range)
@example(age_ns=1_000 * MS, request_=ORIGIN)
@example(age_ns=1_000 * MS + 1, request_=ORIGIN)
@example(age_ns=-20 * MS, request_=ORIGIN)
@example(age_ns=-20 * MS - 1, request_=ORIGIN)
@example(age_ns=1_700_000_000_000_000_000, request_=ORIGIN)  # a stamp of 0
def test_a_chunk_is_executed_only_while_its_observation_is_young_and_not_of_the_future(age_ns, request_):
    assume(abs(request_[0]) <= 0.99)
    driver, watchdog = Driver(), Watchdog(LIMITS, 0.1, ORIGIN)
    command = driven(driver, watchdog, request_, chunk_age_ns=age_ns)
    if -20 * MS <= age_ns <= 1000 * MS:
        assert (command.state, Reason.STALE_CHUNK in command.reasons) == (GateState.ARMED, False)
    else:
        assert (command.state, command.reasons) == (GateState.HOLD, (Reason.STALE_CHUNK,))
        assert command.action.tolist() == list(ORIGIN)


@covers(16)
@thorough
@given(
    base=in_range,
    corrections=st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 3), min_size=1, max_size=12),
)
def test_a_correction_moves_the_target_by_its_share_at_most_and_by_nothing_after_too_many_cuts(base, corrections):
    assume(abs(base[0]) <= 0.9)
    driver, watchdog = Driver(), Watchdog(LIMITS, 0.1, ORIGIN)
    plain, cuts = Driver(), 0
    largest = np.array([0.05, 0.2, 0.02])
    for correction in corrections:
        wild = np.abs(correction) > largest
        was_given_up, cuts = cuts >= 4, cuts + 1 if cuts >= 4 or wild.any() else 0
        requested = np.array(base) + correction
        command = driven(driver, watchdog, requested, base=base)
        near_cut = (np.abs(np.abs(correction) - largest) < 1e-9).any()
        assume(not near_cut)
        assert (Reason.RESIDUAL_LIMIT in command.reasons) == (cuts > 0)
        bounded = base if was_given_up else np.clip(requested, base - largest, base + largest)
        same = plain.ask(bounded)
        assert command.action.tolist() == pytest.approx(same.action.tolist(), abs=1e-12)


@covers(21)
@thorough
@given(silent_ms=st.integers(0, 2000), request_=in_range)
def test_an_arm_that_falls_silent_is_held_and_then_latched(silent_ms, request_):
    assume(abs(request_[0]) <= 0.99)
    driver, watchdog = Driver(period_ns=10 * MS), Watchdog(LIMITS, 0.01, ORIGIN)
    driven(driver, watchdog, request_)
    last = driver.measured()
    driver.now_ns += silent_ms * MS
    command = driver.ask(request_, measured=last)
    watchdog.see(command, 1 + silent_ms // 10)
    if silent_ms <= 250:
        assert command.state is GateState.ARMED
    else:
        assert command.state is (GateState.HOLD if silent_ms <= 550 else GateState.LATCHED)


@covers(22)
@thorough
@given(
    element=st.integers(0, 2),
    bad=st.sampled_from(NO_NUMBERS),
    request_=st.tuples(near(-0.04, 0.04), near(-0.04, 0.04), near(0, 0.08)),
)
def test_a_measured_state_that_is_not_finite_never_reaches_a_command(element, bad, request_):
    driver, watchdog = Driver(), Watchdog(LIMITS, 0.1, ORIGIN)
    state = np.array(ORIGIN)
    state[element] = bad
    commands = [driven(driver, watchdog, request_, measured=driver.measured(state)) for _ in range(7)]
    assert [command.state for command in commands] == [GateState.ARMED] * 3 + [GateState.HOLD] * 3 + [GateState.LATCHED]
    assert driver.gate.fault is Reason.STATE_LOST


@covers(23)
@thorough
@given(goal=near(0.06, 1.0), side=st.sampled_from([1, -1]), joint=st.integers(0, 1))
def test_a_state_that_stays_the_same_with_newer_stamps_while_the_arm_is_commanded_latches(goal, side, joint):
    limits = replace(LIMITS, watch=replace(WATCH, tracking_hold=9.0, tracking_latch=9.0))
    driver, watchdog = Driver(limits=limits), Watchdog(limits, 0.1, ORIGIN)
    request = np.array(ORIGIN)
    request[joint] = side * goal
    commands = [driven(driver, watchdog, request, measured=driver.measured(ORIGIN)) for _ in range(12)]
    states = [command.state for command in commands]
    assert states.index(GateState.LATCHED) >= 3
    assert driver.gate.fault is Reason.STATE_FROZEN
    for _ in range(20):
        command = driven(driver, watchdog, request, measured=driver.measured(ORIGIN))
    assert command.action.tolist() == pytest.approx(ORIGIN)


@thorough
@given(start=far_from_the_ends, end=far_from_the_ends)
def test_a_target_that_moves_on_steadily_is_caught_up_with_and_then_met_to_the_last_bit(start, end):
    targets = np.linspace(start, end, 25).tolist()
    driver, watchdog = Driver(start), Watchdog(LIMITS, 0.1, start)
    commands = [driven(driver, watchdog, target) for target in targets]
    caught_up = [command.action.tolist() == target for command, target in zip(commands, targets, strict=True)]
    assert caught_up[-1]
    # Once it moves as the target does, it never falls behind again.
    moves_along = [one and other for one, other in pairwise(caught_up)]
    assert all(caught_up[moves_along.index(True) :])


@thorough
@given(start=in_range, shares=st.lists(st.tuples(near(0, 1), near(0, 1), near(0, 0.08)), min_size=1, max_size=25))
def test_a_path_that_keeps_within_the_limits_passes_to_the_last_bit(start, shares):
    driver, watchdog = Driver(start), Watchdog(LIMITS, 0.1, start)
    joints = [JointLimits(*(getattr(LIMITS, f)[i] for f in ("position_low", "position_high", "velocity_max",
                                                            "acceleration_max"))) for i in range(2)]  # fmt: skip
    position, velocity = list(start[:2]), [0.0, 0.0]
    for *share, opening in shares:
        for i, joint in enumerate(joints):
            lowest, highest = velocity_range(position[i], velocity[i], joint, 0.1)
            # A hair's breadth within the limits, which rounding may cross.
            velocity[i] = lowest + (highest - lowest) * (1e-9 + (1 - 2e-9) * share[i])
            position[i] += velocity[i] * 0.1
        command = driven(driver, watchdog, [*position, opening])
        assert (command.action.tolist(), command.reasons) == ([*position, opening], ())


@thorough
@given(requests_=st.lists(st.tuples(*[st.floats(-0.07, 0.07)] * 2, near(0, 0.08)) | st.none(), min_size=1, max_size=10))
def test_motions_of_the_tool_are_kept_in_their_range_and_zero_without_a_request(requests_):
    driver = Driver((0.0, 0.0, 0.04), DELTA_LIMITS, DELTA_SPEC)
    opening = 0.04
    for request in requests_:
        action = driver.ask(request).action
        if request is None:
            assert action.tolist() == [0.0, 0.0, opening]
        else:
            opening = request[2]
            assert action.tolist() == [*np.clip(request[:2], -0.05, 0.05), opening]
