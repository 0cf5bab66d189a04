"""The guard of the tool, with an arm of two links in the plane, whose kinematics are two lines."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from armature.control.tcp_guard import TcpGuard, TcpLimits
from armature.errors import ConfigError, InvalidValue
from armature.types import Reason

TICK_S = 0.01
WIDE = TcpLimits(
    box_low_m=(-2.0, -2.0, -2.0),
    box_high_m=(2.0, 2.0, 2.0),
    speed_max_m_s=0.25,
    turn_max_rad_s=0.8,
    wall_deceleration_m_s2=1.0,
    condition_slow=17.0,
    condition_stop=30.0,
)
ELBOW_BENT = np.array([0.0, math.pi / 2])  # the TCP is at (0.5, 0.4)


@dataclass(frozen=True)
class PlanarArm:
    """Two links in the plane z = 0, turning about z; a jaw that does not move the TCP may follow."""

    upper_m: float = 0.5
    lower_m: float = 0.4
    jaws: int = 0

    def tcp(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        first, both = joints_rad[0], joints_rad[0] + joints_rad[1]
        x = self.upper_m * math.cos(first) + self.lower_m * math.cos(both)
        y = self.upper_m * math.sin(first) + self.lower_m * math.sin(both)
        return np.array([x, y, 0.0])

    def jacobian(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y, _ = self.tcp(joints_rad)
        both = joints_rad[0] + joints_rad[1]
        jacobian = np.zeros((6, 2 + self.jaws))
        jacobian[:2, 0] = -y, x
        jacobian[:2, 1] = -self.lower_m * math.sin(both), self.lower_m * math.cos(both)
        jacobian[5, :2] = 1.0
        return jacobian


def guard(arm: PlanarArm | None = None, **changes) -> TcpGuard:
    return TcpGuard(replace(WIDE, **changes), arm or PlanarArm())


def test_a_slow_motion_in_the_open_passes_whole():
    assert guard().scale(ELBOW_BENT, np.array([0.2, -0.1]), TICK_S) == (1.0, ())


def test_an_arm_at_rest_is_left_alone_even_outside_the_box_and_in_a_singular_posture():
    tight = guard(box_high_m=(0.4, 0.3, 1.0), condition_slow=1.0, condition_stop=1.5)
    assert tight.scale(ELBOW_BENT, np.zeros(2), TICK_S) == (1.0, ())


def test_the_tool_is_slowed_to_its_speed_limit():
    # 0.4 rad/s at sqrt(0.5^2 + 0.4^2) m from the shoulder: 0.2561 m/s.
    factor, reasons = guard().scale(ELBOW_BENT, np.array([0.4, 0.0]), TICK_S)
    assert factor == pytest.approx(0.25 / (0.4 * math.sqrt(0.41)), rel=1e-12)
    assert reasons == (Reason.TCP_SPEED,)


def test_the_tool_is_slowed_to_its_turn_rate():
    factor, reasons = guard(speed_max_m_s=10.0).scale(ELBOW_BENT, np.array([1.5, 0.5]), TICK_S)
    assert factor == pytest.approx(0.4, rel=1e-12)
    assert reasons == (Reason.TCP_SPEED,)


def test_a_tool_that_gathers_speed_within_the_period_is_slowed_for_its_end():
    # Nearly folded and opening: the forearm turns at 1 rad/s, the upper arm at 2 rad/s.
    folded, velocity = np.array([0.0, 2.6]), np.array([2.0, -1.0])
    arm = PlanarArm()
    start = math.hypot(*(arm.jacobian(folded) @ velocity)[:2])
    end = math.hypot(*(arm.jacobian(folded + 0.1 * velocity) @ velocity)[:2])
    assert start < 0.99 * end
    factor, reasons = guard(arm, speed_max_m_s=start, turn_max_rad_s=10.0).scale(folded, velocity, 0.1)
    assert factor == pytest.approx(start / end, rel=1e-12)
    assert reasons == (Reason.TCP_SPEED,)


def test_towards_a_wall_the_tool_keeps_the_room_that_it_needs_to_brake():
    # Straight towards y = 0.41 at 0.2 m/s from 1 cm away: v^2 = 2 a (gap - v T) gives 0.1318 m/s.
    factor, reasons = guard(box_high_m=(2.0, 0.41, 2.0)).scale(ELBOW_BENT, np.array([0.4, -0.4]), TICK_S)
    assert factor == pytest.approx((math.sqrt(0.01**2 + 2 * 0.01) - 0.01) / 0.2, rel=1e-9)
    assert factor * 0.2 == pytest.approx(0.1317744, abs=1e-7)
    assert reasons == (Reason.TCP_BOX,)


def test_the_lower_walls_count_like_the_upper_ones():
    factor, reasons = guard(box_low_m=(-2.0, 0.39, -2.0)).scale(ELBOW_BENT, np.array([-0.4, 0.4]), TICK_S)
    assert factor == pytest.approx(0.1317744 / 0.2, abs=1e-6)
    assert reasons == (Reason.TCP_BOX,)


def test_away_from_a_wall_and_along_it_the_tool_is_free():
    at_the_wall = guard(box_high_m=(2.0, 0.4, 2.0))
    assert at_the_wall.scale(ELBOW_BENT, np.array([-0.4, 0.4]), TICK_S) == (1.0, ())
    assert at_the_wall.scale(ELBOW_BENT, np.array([0.0, 0.5]), TICK_S) == (1.0, ())


@pytest.mark.parametrize(
    ("velocity", "factor"),
    [((0.4, -0.4), 0.0), ((-0.4, 0.4), 1.0), ((0.0, 0.4), 1.0)],
    ids=["further out", "back in", "along the wall, bending back"],
)
def test_outside_the_box_only_the_way_further_out_is_closed(velocity, factor):
    outside = guard(box_high_m=(2.0, 0.3, 2.0))
    reasons = () if factor else (Reason.TCP_BOX,)
    assert outside.scale(ELBOW_BENT, np.array(velocity), TICK_S) == (factor, reasons)


def test_a_path_along_a_wall_that_bends_out_of_it_is_stopped():
    # The forearm turns about the elbow at the top of its circle: level now, and lower at the end of the period.
    assert guard(box_low_m=(-2.0, 0.4, -2.0)).scale(ELBOW_BENT, np.array([0.0, 0.5]), TICK_S) == (
        0.0,
        (Reason.TCP_BOX,),
    )


def test_a_step_so_long_that_its_two_ends_do_not_tell_its_path_is_not_taken():
    # Half a turn in one period, from x = -0.9: at 0.8 of it, as the two ends suggest, x would be 0.728, past the wall.
    stretched = np.array([math.pi, 0.0])
    wild = guard(speed_max_m_s=1e3, turn_max_rad_s=1e3, wall_deceleration_m_s2=1e9, box_high_m=(0.54, 2.0, 2.0))
    assert wild.scale(stretched, np.array([math.pi, 0.0]), 1.0) == (0.0, (Reason.TCP_BOX,))


def test_between_the_two_condition_numbers_the_arm_slows_down_in_proportion():
    # Stretching out raises the condition number: 5.688 at an elbow of 0.3 rad, 5.758 at 0.1 rad, where this step ends.
    arm, velocity = PlanarArm(), np.array([0.0, -0.5])
    reached = condition(arm.jacobian(np.array([0.0, 0.1])))
    assert reached == pytest.approx(5.7576, abs=1e-4)
    slowing = guard(arm, condition_slow=5.0, condition_stop=6.0)
    factor, reasons = slowing.scale(np.array([0.0, 0.3]), velocity, 0.4)
    assert factor == pytest.approx(6.0 - reached, rel=1e-9)
    assert reasons == (Reason.SINGULARITY,)


def test_beyond_the_upper_condition_number_only_the_way_back_is_open():
    stopping = guard(condition_slow=5.0, condition_stop=5.5)
    assert stopping.scale(np.array([0.0, 0.3]), np.array([0.0, -0.5]), TICK_S) == (0.0, (Reason.SINGULARITY,))
    assert stopping.scale(np.array([0.0, 0.3]), np.array([0.0, 0.5]), TICK_S) == (1.0, ())


def test_a_joint_that_does_not_move_the_tool_does_not_make_a_posture_singular():
    joints, velocity = np.array([0.0, 0.3, 0.2]), np.array([0.0, -0.5, 3.0])
    changes = {"condition_slow": 5.0, "condition_stop": 6.0}
    with_jaw = guard(PlanarArm(jaws=1), **changes).scale(joints, velocity, TICK_S)
    assert with_jaw == guard(**changes).scale(joints[:2], velocity[:2], TICK_S)
    assert 0 < with_jaw[0] < 1


def test_every_limit_in_the_way_is_named_and_the_tightest_one_counts():
    crowded = guard(box_high_m=(2.0, 0.41, 2.0), condition_slow=1.0, condition_stop=1000.0)
    factor, reasons = crowded.scale(np.array([0.0, math.pi / 2]), np.array([0.8, -1.0]), TICK_S)
    assert reasons == (Reason.TCP_SPEED, Reason.TCP_BOX, Reason.SINGULARITY)
    assert factor * 0.4 == pytest.approx(0.1317744, rel=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["joints", "velocity"])
def test_what_is_not_finite_has_no_factor(bad, where):
    arguments = {"joints": ELBOW_BENT, "velocity": np.array([0.1, 0.1]), where: np.array([0.1, bad])}
    with pytest.raises(InvalidValue, match="not finite"):
        guard().scale(arguments["joints"], arguments["velocity"], TICK_S)


def test_kinematics_without_an_answer_are_an_error():
    with pytest.raises(InvalidValue, match=r"kinematics at the joints .* not finite"):
        guard(PlanarArm(upper_m=math.nan)).scale(ELBOW_BENT, np.zeros(2), TICK_S)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box_low_m": (0.0, 3.0, 0.0)}, r"box_low_m 3.0 and box_high_m 2.0 in y: must be finite, low below high"),
        ({"box_high_m": (2.0, 2.0, math.inf)}, "box_high_m inf in z"),
        ({"box_low_m": (math.nan, 0.0, 0.0)}, "box_low_m nan and box_high_m 2.0 in x"),
        ({"speed_max_m_s": 0.0}, "speed_max_m_s is 0.0, must be positive and finite"),
        ({"turn_max_rad_s": math.inf}, "turn_max_rad_s is inf"),
        ({"wall_deceleration_m_s2": math.nan}, "wall_deceleration_m_s2 is nan"),
        ({"condition_slow": 0.5}, "condition_slow 0.5 and condition_stop 30.0: must be finite, at least 1"),
        ({"condition_slow": 30.0}, "condition_slow 30.0 and condition_stop 30.0"),
        ({"condition_stop": math.inf}, "condition_stop inf"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(WIDE, **change)


# A box around the TCP in every posture with the elbow at a right angle and the shoulder near zero.
BOX = {"box_low_m": (0.3, 0.2, -0.1), "box_high_m": (0.7, 0.6, 0.1)}
starts = st.tuples(st.floats(-0.2, 0.2), st.floats(1.4, 1.7)).map(np.array)
wishes = st.lists(st.tuples(st.floats(-4.0, 4.0), st.floats(-4.0, 4.0)), min_size=1, max_size=10)


@settings(max_examples=30)
@given(joints=starts, wishes=wishes)
def test_from_inside_the_tool_never_leaves_the_box_and_could_always_still_brake(joints, wishes):
    arm, limits = PlanarArm(), replace(WIDE, **BOX)
    watched = TcpGuard(limits, arm)
    low, high = np.array(limits.box_low_m), np.array(limits.box_high_m)
    for tick in range(200):
        velocity = np.array(wishes[tick * len(wishes) // 200])
        factor, reasons = watched.scale(joints, velocity, TICK_S)
        assert 0 <= factor <= 1
        assert (factor < 1) == bool(reasons)
        before, joints = arm.tcp(joints), joints + factor * TICK_S * velocity
        after = arm.tcp(joints)
        assert (after >= low - 1e-9).all()
        assert (after <= high + 1e-9).all()
        speed = (after - before) / TICK_S
        assert math.hypot(*speed) <= 0.25 * 1.001
        assert (speed <= np.sqrt(2.0 * (high - before).clip(0)) + 1e-9).all()
        assert (-speed <= np.sqrt(2.0 * (before - low).clip(0)) + 1e-9).all()


@given(joints=starts, velocity=st.tuples(st.floats(-0.15, 0.15), st.floats(-0.15, 0.15)).map(np.array))
def test_slow_and_well_inside_every_motion_passes_whole(joints, velocity):
    # At most 0.15 rad/s about a shoulder 0.67 m away and 0.15 rad/s about the elbow: below 0.17 m/s, 0.3 rad/s.
    assert guard(box_low_m=(-1.0, -1.0, -1.0), box_high_m=(1.0, 1.0, 1.0)).scale(joints, velocity, TICK_S) == (1.0, ())


@given(joints=starts, beyond_m=st.floats(0.0, 0.5), speed_m_s=st.floats(0.01, 0.2), along_m_s=st.floats(-0.1, 0.1))
def test_from_outside_the_way_back_in_is_open(joints, beyond_m, speed_m_s, along_m_s):
    arm = PlanarArm()
    x = float(arm.tcp(joints)[0])
    velocity = np.linalg.solve(arm.jacobian(joints)[:2], np.array([-speed_m_s, along_m_s]))
    outside = guard(arm, box_high_m=(x - beyond_m, 2.0, 2.0), turn_max_rad_s=5.0)
    assert outside.scale(joints, velocity, TICK_S) == (1.0, ())


@settings(max_examples=30)
@given(elbow=st.floats(0.7, 2.5), wishes=wishes)
def test_the_condition_number_never_passes_the_one_at_which_the_arm_stops(elbow, wishes):
    arm, joints = PlanarArm(), np.array([0.0, elbow])
    stopping = guard(arm, condition_slow=4.5, condition_stop=5.5)
    for tick in range(200):
        velocity = np.array(wishes[tick * len(wishes) // 200])
        joints = joints + stopping.scale(joints, velocity, TICK_S)[0] * TICK_S * velocity
        assert condition(arm.jacobian(joints)) <= 5.5 + 1e-6


def condition(jacobian: NDArray[np.float64]) -> float:
    """Return the condition number of two columns from their products, without a decomposition."""
    (a, b), (_, c) = jacobian.T @ jacobian
    root = math.sqrt((a - c) ** 2 + 4 * b**2)
    return math.sqrt((a + c + root) / (a + c - root))
