"""The limiter in literal numbers; that they are right for all numbers is in `test_limiter_proof.py`."""

from __future__ import annotations

import pytest

from armature.control.limiter import JointLimits, reach, stopping_speed, velocity_range

PERIOD_S = 0.1
LIMITS = JointLimits(low=-1.0, high=1.0, velocity_max=1.0, acceleration_max=2.0)


@pytest.mark.parametrize(
    ("gap", "speed"),
    [
        (0.0, 0.0),
        (0.01, 0.1),  # reached in one tick
        (0.02, 0.2),  # in one tick, and by as much as acceleration takes off again
        (0.0225, 0.2),  # more would take two ticks, and 0.03 rad
        (0.0625, 0.4),  # sqrt(2 * 2 * 0.0625) - 2 * 0.1 / 2
        (0.25, 0.9),
    ],
)
def test_the_speed_at_which_a_joint_can_still_stop(gap, speed):
    assert stopping_speed(gap, 2.0, PERIOD_S) == pytest.approx(speed, abs=1e-15)


@pytest.mark.parametrize(
    ("position", "velocity", "lowest", "highest"),
    [
        (0.0, 0.0, -0.2, 0.2),
        (0.0, 0.5, 0.3, 0.7),
        (0.0, 0.9, 0.7, 1.0),
        (0.0, -0.9, -1.0, -0.7),
        (0.9375, 0.3, 0.1, 0.4),
        (-0.9375, -0.3, -0.4, -0.1),
        (0.99, 0.2, 0.0, 0.1),
        (-0.99, -0.2, -0.1, 0.0),
        (1.0, 0.0, -0.2, 0.0),
        (-1.0, 0.0, 0.0, 0.2),
        (1.5, 0.0, -0.2, 0.0),
        (-1.5, 0.0, 0.0, 0.2),
        (1.5, -0.9, -1.0, -0.7),
    ],
)
def test_the_range_of_velocities_of_the_next_tick(position, velocity, lowest, highest):
    assert velocity_range(position, velocity, LIMITS, PERIOD_S) == pytest.approx((lowest, highest), abs=1e-12)


def test_each_end_of_the_range_counts_for_itself():
    # At 0.9 the upper end allows sqrt(0.4) - 0.1 = 0.532 only; the lower end is far away.
    assert velocity_range(0.9, 0.4, LIMITS, PERIOD_S) == pytest.approx((0.2, 0.5324555), abs=1e-7)
    assert velocity_range(-0.9, -0.4, LIMITS, PERIOD_S) == pytest.approx((-0.5324555, -0.2), abs=1e-7)


def test_the_root_is_left_out_only_where_it_cuts_nothing():
    # Just so much slower than the 0.4 that acceleration allows: sqrt(2 * 2 * 0.06) - 0.1.
    assert velocity_range(0.94, 0.2, LIMITS, PERIOD_S) == pytest.approx((0.0, 0.3898979), abs=1e-7)
    assert velocity_range(-0.94, -0.2, LIMITS, PERIOD_S) == pytest.approx((-0.3898979, 0.0), abs=1e-7)
    weak = LIMITS._replace(acceleration_max=0.5)
    assert velocity_range(0.99, 0.1, weak, PERIOD_S) == pytest.approx((0.05, 0.075))
    assert velocity_range(-0.99, -0.1, weak, PERIOD_S) == pytest.approx((-0.075, -0.05))


def test_near_the_end_of_the_range_acceleration_still_counts():
    assert velocity_range(-0.9975, 0.19, LIMITS, PERIOD_S) == pytest.approx((-0.01, 0.39))
    assert velocity_range(0.9975, -0.19, LIMITS, PERIOD_S) == pytest.approx((-0.39, 0.01))


def test_a_range_narrower_than_one_tick_of_acceleration_is_kept():
    narrow = JointLimits(low=0.0, high=0.01, velocity_max=1.0, acceleration_max=20.0)
    assert velocity_range(0.004, 0.0, narrow, PERIOD_S) == pytest.approx((-0.04, 0.06))


@pytest.mark.parametrize(
    ("gap", "pace", "position", "velocity"),
    [
        (0.02, 0.0, 0.0, 0.0),  # 0.2 rad/s, from rest, and at rest again a tick later
        (0.1, 1.0, 0.0, 0.8),
        (-0.1, -1.0, 0.0, -0.8),
        (0.05, 0.3, 0.0, 0.7),  # slower by 0.2, and 0.2 faster than the target
        (-0.05, -0.7, 0.0, -0.3),
        (0.05, 0.5, 0.91, 0.5),  # (0.5 + 0.1)^2 = 2 * 2 * 0.09
        (-0.05, -0.5, -0.91, -0.5),
        (0.0, 0.0, 0.99749, 0.0),  # at rest 0.0025 before the end: (0 + 0.1)^2 = 2 * 2 * 0.0025
        (0.0, 0.0, -0.99749, 0.0),
    ],
)
def test_a_gap_is_closed_at_once_where_nothing_is_in_the_way(gap, pace, position, velocity):
    roomy = JointLimits(low=-9.0, high=9.0, velocity_max=5.0, acceleration_max=20.0)
    limits = (LIMITS._replace(velocity_max=1.0 + 1e-12, acceleration_max=2.0 + 1e-9), roomy)
    assert reach([gap, 0.1], [pace, 0.4], [position, 3.0], [velocity, -0.5], limits, PERIOD_S) == pytest.approx(
        [gap / 0.1, 1.0], abs=1e-12
    )


@pytest.mark.parametrize(
    ("gap", "pace", "position", "velocity"),
    [
        (0.021, 0.0, 0.0, 0.1),  # 0.21 rad/s faster than its target: more than one tick of braking
        (-0.021, 0.0, 0.0, -0.1),
        (0.05, 0.5, 0.0, 0.29),
        (0.05, 0.5, 0.0, 0.71),
        (0.101, 1.0, 0.0, 1.0),
        (-0.101, -1.0, 0.0, -1.0),
        (0.1, 1.01, 0.0, 1.0),
        (-0.1, -1.01, 0.0, -1.0),
        (0.05, 0.5, 0.911, 0.5),
        (-0.05, -0.5, -0.911, -0.5),
        (0.0, 0.0, 0.998, 0.0),
        (0.0, 0.0, -0.998, 0.0),
        (0.01, 0.1, 1.1, 0.1),
        (-0.01, -0.1, -1.1, -0.1),
        (float("nan"), 0.0, 0.0, 0.0),
        (0.0, float("nan"), 0.0, 0.0),
    ],
)
def test_one_joint_with_something_in_its_way_is_enough(gap, pace, position, velocity):
    free, blocked = (0.0, 0.0, 0.0, 0.0), (gap, pace, position, velocity)
    for joints in ((free, blocked), (blocked, free)):
        gaps, paces, positions, velocities = zip(*joints, strict=True)
        assert reach(gaps, paces, positions, velocities, (LIMITS, LIMITS), PERIOD_S) is None


@pytest.mark.parametrize("longer", range(4))
def test_what_is_not_said_of_every_joint_is_no_motion(longer: int):
    given = [[0.0] * (2 if i == longer else 1) for i in range(4)]
    with pytest.raises(ValueError, match="zip"):
        reach(*given, (LIMITS,), PERIOD_S)
