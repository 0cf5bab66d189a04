"""Which velocities the gate wants, before the limits of each joint: in literal numbers, for ticks of 0.1 s."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from armature.control.limiter import JointLimits
from armature.control.pursuit import brake, fit, pursue, within

PERIOD_S = 0.1
SLOW = JointLimits(low=-9.0, high=9.0, velocity_max=1.0, acceleration_max=2.0)
QUICK = JointLimits(low=-9.0, high=9.0, velocity_max=4.0, acceleration_max=10.0)
BOTH = (SLOW, QUICK)


def test_what_a_tick_may_make_up_for_is_closed_at_once():
    assert pursue([0.02, -0.1], [0.0, 0.0], BOTH, PERIOD_S) == pytest.approx([0.2, -1.0])


def test_a_target_that_moves_on_is_met_where_it_will_be():
    assert pursue([0.05, -0.2], [0.5, -2.0], BOTH, PERIOD_S) == pytest.approx([0.5, -2.0])
    assert pursue([0.06, -0.2], [0.5, -2.0], BOTH, PERIOD_S) == pytest.approx([0.6, -2.0])


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_gap_is_closed_as_fast_as_braking_before_its_end_allows_by_one_factor(side):
    # SLOW: sqrt(2 * 2 * 0.25) - 0.1 = 0.9 rad/s, 0.36 of the 2.5 that would close the gap in a tick.
    assert pursue([side * 0.25, 0.02], [0.0, 0.0], BOTH, PERIOD_S) == pytest.approx([side * 0.9, 0.072])
    # QUICK would have to be the slower one: sqrt(2 * 10 * 5) - 0.5 = 9.5 of 50, against 0.4 of 0.625.
    assert pursue([0.0625, side * 5.0], [0.0, 0.0], BOTH, PERIOD_S) == pytest.approx([0.11875, side * 9.5])


def test_the_share_of_a_gap_is_of_what_the_targets_own_motion_leaves():
    # 0.05 of 0.3 the target covers itself; the 0.25 that is left is closed at 0.9 rad/s.
    assert pursue([0.3], [0.5], (SLOW,), PERIOD_S) == pytest.approx([1.4])


def test_arms_without_gaps_do_not_move():
    assert pursue([0.0, 0.0], [0.0, 0.0], BOTH, PERIOD_S) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("velocities", "slower"),
    [
        ([0.8, 0.4], [0.6, 0.3]),  # SLOW takes off 0.2, a quarter, QUICK as much of its own
        ([-0.8, 0.4], [-0.6, 0.3]),
        ([0.1, 3.0], [0.1 * 2 / 3, 2.0]),  # QUICK is the one that cannot brake faster: 1 of 3
        ([0.0, -3.0], [0.0, -2.0]),
        ([0.2, 1.0], [0.0, 0.0]),
        ([0.1, -0.5], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_a_stop_slows_all_joints_by_one_factor_as_fast_as_each_can_brake(velocities, slower):
    assert brake(velocities, BOTH, PERIOD_S) == pytest.approx(slower)


@pytest.mark.parametrize(
    ("velocities", "ranges", "fitted"),
    [
        ([0.5, 1.0], [(-1, 1), (-2, 2)], [0.5, 1.0]),
        ([2.0, 1.0], [(-1, 1), (-2, 2)], [1.0, 0.5]),
        ([-2.0, 1.0], [(-1, 1), (-2, 2)], [-1.0, 0.5]),
        ([2.0, -8.0], [(-1, 1), (-2, 2)], [0.5, -2.0]),
        ([0.0, 4.0], [(-1, 1), (-2, 2)], [0.0, 2.0]),
        ([0.5, 1.0], [(0.1, 1), (0.8, 2)], [0.5, 1.0]),
        ([2.0, 4.0], [(1, 1), (2, 2)], [1.0, 2.0]),  # exactly one factor fits
        ([1.0, 1.0], [(0.5, 0.6), (0.2, 0.5)], [0.5, 0.5]),
        ([1.0, 1.0], [(0.5, 1), (0.0, 0.5 - 1e-12)], [0.5, 0.5]),  # but for rounding
        # No factor fits: cut joint by joint.
        ([1.0, 1.0], [(0.6, 1), (0.0, 0.5)], [1.0, 0.5]),
        ([2.0, 1.0], [(-1, 1), (0.8, 2)], [1.0, 1.0]),
        ([2.0, -1.0], [(-1, 1), (-2, -0.8)], [1.0, -1.0]),
        ([0.5, 1.0], [(0.6, 1), (-2, 2)], [0.6, 1.0]),
        ([-0.5, 1.0], [(-1, -0.6), (-2, 2)], [-0.6, 1.0]),
        ([1.0, 1.0], [(-2, -1), (-2, 2)], [-1.0, 1.0]),
        ([0.0, 1.0], [(0.3, 1), (-2, 2)], [0.3, 1.0]),
        ([1.0, 0.0], [(-1, 1), (-1, -0.3)], [1.0, -0.3]),
        ([5e-324, 1.0], [(-1, 1), (-2, 2)], [5e-324, 1.0]),
        ([5e-324, 1.0], [(0.5, 1), (-2, 2)], [0.5, 1.0]),
        ([math.inf, 1.0], [(-1, 1), (-2, 2)], [-1.0, 0.0]),
        ([math.nan, 1.0], [(-1, 1), (-2, 2)], [-1.0, 1.0]),
    ],
)
def test_velocities_are_scaled_by_one_factor_where_one_fits_else_cut(velocities, ranges, fitted):
    assert fit(velocities, ranges) == pytest.approx(fitted)


def test_every_joint_has_its_gap_its_velocity_its_limits_and_its_range():
    for gaps, speeds in (([0.1], [0.0, 0.0]), ([0.1, 0.1], [0.0]), ([0.1, 0.1, 0.1], [0.0, 0.0])):
        with pytest.raises(ValueError, match="zip"):
            pursue(gaps, speeds, BOTH, PERIOD_S)
    with pytest.raises(ValueError, match="zip"):
        brake([0.1], BOTH, PERIOD_S)
    with pytest.raises(ValueError, match="zip"):
        fit([0.1], [(-1, 1), (-1, 1)])


speeds = st.floats(-5, 5, allow_subnormal=False)


@given(st.lists(st.tuples(speeds, speeds, speeds), min_size=1, max_size=7), st.floats(0, 1))
def test_wherever_one_factor_fits_the_direction_is_kept_and_the_greatest_one_is_taken(joints, factor):
    velocities = [velocity for velocity, *_ in joints]
    # Ranges around `factor` times the velocities: so it fits, and it may not be the greatest one.
    ranges = [(factor * v - abs(below), factor * v + abs(above)) for v, below, above in joints]
    assume(any(abs(v) > 1e-3 for v in velocities))
    fitted = fit(velocities, ranges)
    largest = max(range(len(joints)), key=lambda i: abs(velocities[i]))
    taken = fitted[largest] / velocities[largest]
    assert factor - 1e-9 <= taken <= 1 + 1e-9
    assert fitted == pytest.approx([taken * v for v in velocities], abs=1e-9)
    at_bound = any(abs(f - end) < 1e-9 for f, bounds in zip(fitted, ranges, strict=True) for end in bounds)
    assert taken == pytest.approx(1) or at_bound


@pytest.mark.parametrize(
    ("value", "found"), [(-1.5, -1.0), (-1.0, -1.0), (0.3, 0.3), (2.0, 2.0), (2.5, 2.0), (math.nan, -1.0)]
)
def test_a_value_beyond_a_range_becomes_its_end_and_what_is_no_number_the_low_one(value, found):
    assert within(value, -1.0, 2.0) == found
