"""When the measured state says that the arm is not to be trusted; of its three elements the first two are limited."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_arm import WATCH

from armature.control.arm_watch import ArmWatch
from armature.types import Reason, Sample

MS = 1_000_000
HOUR_NS = 3_600_000_000_000
NOON_NS = 1_785_000_000_000_000_000
# Overspeed begins at 1.5 times these.
SPEEDS = (1.0, 2.0)


class Watched:
    """An arm whose states are sampled by hand; times in ms, stamps from noon on."""

    def __init__(self, **limits: float) -> None:
        self.watch = ArmWatch(3, (0, 1), SPEEDS, replace(WATCH, **limits))
        self.command = [0.0, 0.0, 0.0]
        self.watch.begin(self.sample(0, [0.0, 0.0, 0.0]))

    def sample(self, at_ms: float, state, stamp_ms: float | None = None) -> Sample:
        stamp_ms = at_ms if stamp_ms is None else stamp_ms
        return Sample(NOON_NS + round(stamp_ms * MS), round(at_ms * MS), np.array(state))

    def sees(self, at_ms: float, state, stamp_ms: float | None = None) -> Reason | None:
        self.watch.take(self.sample(at_ms, state, stamp_ms), self.command)
        return self.judges(at_ms)

    def judges(self, at_ms: float) -> Reason | None:
        return self.watch.judge(round(at_ms * MS), self.command)


def test_an_arm_that_is_where_it_was_commanded_to_be_is_trusted():
    arm = Watched()
    assert arm.sees(100, [0.0, 0.0, 0.5]) is None
    assert arm.watch.state == [0.0, 0.0, 0.5]


@pytest.mark.parametrize(
    "value",
    [np.zeros(2), np.zeros(4), np.zeros((1, 3)), np.zeros(3, complex), np.array(["0"] * 3), np.zeros(3, bool)]
    + [np.array([0.0, bad, 0.0]) for bad in (np.nan, np.inf, -np.inf)],
)
@pytest.mark.fault(row=22)
def test_what_is_no_state_of_this_arm_changes_nothing(value):
    arm = Watched()
    sample = Sample(NOON_NS + 200 * MS, 200 * MS, value)
    assert not arm.watch.is_valid(sample)
    arm.watch.take(sample, arm.command)
    assert arm.watch.state == [0.0, 0.0, 0.0]
    assert arm.judges(251) is Reason.STALE_STATE


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8])
def test_all_real_numbers_are_states(dtype):
    arm = Watched()
    assert arm.watch.is_valid(Sample(0, 0, np.zeros(3, dtype)))


def test_before_the_first_state_the_arm_is_lost_and_the_first_one_is_taken_however_it_comes():
    watch = ArmWatch(3, (0, 1), SPEEDS, WATCH)
    assert watch.state is None
    assert watch.judge(0, []) is Reason.STATE_LOST
    watch.take(None, [])
    watch.take(Sample(0, 0, np.array([0.1, 0.2, 0.3])), [])
    assert watch.state == [0.1, 0.2, 0.3]
    assert watch.judge(250 * MS, [0.1, 0.2, 0.3]) is None


@pytest.mark.fault(row=21)
@pytest.mark.parametrize(
    ("age_ms", "fault"),
    [
        (0, None),
        (250, None),
        (250.000001, Reason.STALE_STATE),
        (550, Reason.STALE_STATE),
        (550.000001, Reason.STATE_LOST),
        (-250, None),
        (-250.000001, Reason.STALE_STATE),
        (-551, Reason.STATE_LOST),
    ],
)
def test_a_state_is_stale_and_then_lost_by_its_age_on_the_steady_clock(age_ms, fault):
    arm = Watched()
    assert arm.sees(100, [0.0, 0.0, 0.0]) is None
    assert arm.judges(100 + age_ms) is fault
    assert arm.watch.is_fresh(round((100 + age_ms) * MS)) == (fault is None)


@pytest.mark.fault(row=54)
@given(step_ns=st.integers(-HOUR_NS, HOUR_NS).filter(lambda step_ns: step_ns != -100 * MS))
def test_a_step_of_the_systems_clock_makes_no_state_stale_and_no_arm_too_fast(step_ns):
    arm = Watched()
    for k in range(1, 6):
        moved = Sample(NOON_NS + (step_ns if k > 2 else 0) + k * 100 * MS, k * 100 * MS, np.array([0.05 * k, 0.0, 0.0]))
        arm.watch.take(moved, arm.command)
        arm.command = [0.05 * k, 0.0, 0.0]
        assert arm.judges(k * 100) is None
    assert arm.watch.state == [0.25, 0.0, 0.0]


def test_what_was_received_before_or_stamped_alike_is_not_taken_again():
    arm = Watched()
    arm.sees(100, [0.01, 0.0, 0.0])
    assert arm.sees(100, [0.02, 0.0, 0.0], stamp_ms=150) is None
    assert arm.sees(90, [0.02, 0.0, 0.0], stamp_ms=150) is None
    assert arm.sees(200, [0.02, 0.0, 0.0], stamp_ms=100) is None
    assert arm.watch.state == [0.01, 0.0, 0.0]
    # A driver that sends the same message for ever is silent.
    assert arm.sees(351, [0.02, 0.0, 0.0], stamp_ms=100) is Reason.STALE_STATE


@pytest.mark.fault(row=23)
@pytest.mark.parametrize(
    ("at_ms", "moved_rad", "fault"),
    [(201, 0.051, Reason.STATE_FROZEN), (200, 0.051, None), (201, 0.05, None), (201, -0.051, Reason.STATE_FROZEN)],
)
@pytest.mark.parametrize("element", [0, 1])
def test_a_state_that_does_not_change_while_the_command_does_is_frozen(at_ms, moved_rad, fault, element):
    arm = Watched()
    assert arm.sees(50, [0.0, 0.0, 0.1]) is None
    arm.command[element] = moved_rad
    # The gripper, which may be blocked, does not count.
    assert arm.sees(at_ms, [0.0, 0.0, 0.2]) is fault


@pytest.mark.fault(row=23)
def test_a_state_is_frozen_from_its_last_change_on_and_by_what_was_commanded_since():
    arm = Watched(tracking_hold=9.0, tracking_latch=9.0)
    for k in range(1, 11):
        assert arm.sees(100 * k, [0.001 * k, 0.0, 0.0]) is None
        arm.command = [0.06 * k, 0.0, 0.0]
    # The last change was at 1000, when 0.54 was commanded; now it is 0.60.
    assert arm.sees(1200, [0.01, 0.0, 0.0]) is None
    assert arm.sees(1201, [0.01, 0.0, 0.0]) is Reason.STATE_FROZEN


def test_an_arm_at_rest_may_stand_still_for_hours():
    arm = Watched()
    assert all(arm.sees(100 * k, [0.0, 0.0, 0.0]) is None for k in range(1, 100))
    arm.command = [0.05, 0.0, 0.0]
    assert arm.sees(10_000, [0.0, 0.0, 0.0]) is None


@pytest.mark.parametrize("element", [0, 1])
@pytest.mark.parametrize("side", [1, -1])
def test_an_arm_that_is_off_the_command_is_held_after_a_while_and_far_off_a_fault(element, side):
    arm = Watched()
    state = [0.0, 0.0, 0.0]

    def off(by_rad: float, at_ms: int) -> Reason | None:
        state[element] = side * by_rad + at_ms * 1e-9
        arm.command[element] = at_ms * 1e-9
        return arm.sees(at_ms, state)

    arm.watch.begin(arm.sample(0, [side * 0.1 * (i == element) for i in range(3)]))
    assert off(0.1, 10) is None
    assert off(0.11, 100) is None
    assert off(0.11, 299) is None
    assert off(0.11, 300) is Reason.TRACKING_ERROR
    assert off(0.1, 310) is None
    # From the beginning again.
    assert off(0.11, 320) is None
    assert off(0.29, 519) is None
    assert off(0.29, 520) is Reason.TRACKING_ERROR
    assert off(0.301, 600) is Reason.TRACKING_LOST


def test_times_and_distances_are_exact():
    arm = Watched(state_hold_s=10.0, state_latch_s=20.0, frozen_s=10.0, tracking_latch=0.25, tracking_hold=0.125)
    ten_s_ns = 10_000_000_000
    assert [arm.watch.is_fresh(ten_s_ns + late_ns) for late_ns in (0, 1)] == [True, False]
    assert arm.watch.judge(2 * ten_s_ns, arm.command) is Reason.STALE_STATE
    assert arm.watch.judge(2 * ten_s_ns + 1, arm.command) is Reason.STATE_LOST
    assert arm.sees(1, [0.0, 0.0, 0.0]) is None
    arm.command = [0.125, 0.0, 0.0]
    # Counted from when it was armed, since nothing has changed in the meantime.
    assert arm.watch.judge(ten_s_ns, arm.command) is None
    assert arm.watch.judge(ten_s_ns + 1, arm.command) is Reason.STATE_FROZEN
    for command, fault in ((0.125, None), (0.25, None), (0.25 + 1e-16, Reason.TRACKING_LOST)):
        still = Watched(tracking_latch=0.25, tracking_hold=0.125)
        still.command = [0.0, command, 0.0]
        assert still.judges(100) is fault


def test_the_gripper_may_be_off_the_command():
    arm = Watched()
    arm.command = [0.0, 0.0, 0.5]
    assert [arm.sees(100 * k, [0.0, 0.0, 0.0]) for k in range(1, 5)] == [None] * 4


@pytest.mark.parametrize(("element", "limit"), [(0, 0.15), (1, 0.3)])
@pytest.mark.parametrize("side", [1, -1])
def test_an_arm_that_is_too_fast_twice_in_a_row_is_a_fault(element, limit, side):
    arm = Watched(tracking_hold=9.0, tracking_latch=9.0)
    moves = [1.02, 1.0, 1.02, 0.9, 1.02, 1.02]
    state, found = [0.0, 0.0, 0.0], []
    for k, share in enumerate(moves):
        state[element] += side * share * limit
        arm.command = list(state)
        found.append(arm.sees(100 * (k + 1), state))
    assert found == [None] * 5 + [Reason.OVERSPEED]


@pytest.mark.parametrize("side", [1, -1])
def test_an_arm_exactly_as_fast_as_it_may_be_is_not_too_fast(side):
    arm = Watched(tracking_hold=9.0, tracking_latch=9.0)
    # 1.5 times 1 rad/s for an eighth of a second; all of these are exact in binary.
    assert [arm.sees(125 * k, [side * 0.1875 * k, 0.0, 0.0]) for k in range(1, 5)] == [None] * 4


def test_speed_is_measured_by_the_stamps_and_the_gripper_may_be_as_fast_as_it_can():
    arm = Watched(tracking_hold=9.0, tracking_latch=9.0)
    # Received 10 ms apart, stamped 100 ms apart: two messages that waited in a queue.
    for k in range(1, 5):
        assert arm.sees(10 * k, [0.1 * k, 0.0, 1.0 * k], stamp_ms=100 * k) is None


def test_beginning_anew_forgets_what_was_seen():
    arm = Watched(tracking_latch=9.0)
    arm.sees(10, [0.2, 0.0, 0.0])
    arm.sees(20, [0.4, 0.0, 0.0])
    assert arm.judges(20) is Reason.OVERSPEED
    arm.command = [0.3, 0.0, 0.0]
    arm.watch.begin(arm.sample(1000, [0.4, 0.0, 0.0], stamp_ms=0))
    assert arm.watch.state == [0.4, 0.0, 0.0]
    assert arm.judges(1000) is None
    # What was commanded before does not count as motion, nor the time as one without change.
    arm.command = [0.34, 0.0, 0.0]
    assert arm.judges(1201) is None
    arm.command = [0.36, 0.0, 0.0]
    assert arm.judges(1200) is None
    assert arm.judges(1201) is Reason.STATE_FROZEN


def test_arming_forgets_since_when_the_arm_was_off_its_command():
    arm = Watched()
    arm.watch.begin(arm.sample(0, [0.2, 0.0, 0.0]))
    assert arm.judges(0) is None
    arm.watch.begin(arm.sample(200, [0.2, 0.0, 0.0]))
    assert arm.judges(200) is None
    assert arm.judges(399) is None
    assert arm.judges(400) is Reason.TRACKING_ERROR
