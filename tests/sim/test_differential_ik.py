"""Displacements of the TCP become joint positions that realise them, seen by forward kinematics."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from armature.errors import ConfigError, InvalidValue
from sim.arms import ARMS
from sim.differential_ik import TcpDeltaIk
from sim.kinematics import ArmKinematics, rotation_vector

RANGE_MARGIN_RAD = 0.05


@pytest.fixture(scope="module", params=ARMS)
def robot(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def kinematics(robot: str) -> ArmKinematics:
    return ArmKinematics(ARMS[robot])


def solver(kinematics: ArmKinematics, robot: str, step_max_rad: float = 0.5, **ranges) -> TcpDeltaIk:
    arm = ARMS[robot]
    low = ranges.get("low", np.array(arm.low_rad) + RANGE_MARGIN_RAD)
    high = ranges.get("high", np.array(arm.high_rad) - RANGE_MARGIN_RAD)
    return TcpDeltaIk(kinematics, low, high, np.full(len(low), step_max_rad), np.array(arm.home_rad))


def displacement(
    kinematics: ArmKinematics, before: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.float64]:
    (position, rotation), (moved, turned) = kinematics.forward(before), kinematics.forward(after)
    return np.concatenate((moved - position, rotation_vector(turned @ rotation.T)))


def condition(kinematics: ArmKinematics, joints: NDArray[np.float64]) -> float:
    return float(np.linalg.cond(kinematics.jacobian(joints)))


def free_postures(kinematics: ArmKinematics, robot: str, count: int) -> list[NDArray[np.float64]]:
    """Draw postures around home, well within the ranges and away from singularities."""
    arm, rng, found = ARMS[robot], np.random.default_rng(7), []
    low, high = np.array(arm.low_rad) + 0.3, np.array(arm.high_rad) - 0.3
    while len(found) < count:
        joints = np.array(arm.home_rad) + rng.uniform(-0.8, 0.8, len(low))
        if ((joints > low) & (joints < high)).all() and condition(kinematics, joints) < 17:
            found.append(joints)
    return found


def deltas(count: int) -> NDArray[np.float64]:
    """Draw displacements of 5 mm and 0.05 rad in all directions."""
    directions = np.random.default_rng(8).normal(size=(count, 2, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return (directions * np.array([[0.005], [0.05]])).reshape(count, 6)


def test_displacements_are_realised_from_any_posture_in_the_free_workspace(kinematics, robot):
    ik = solver(kinematics, robot)
    for joints, delta in zip(free_postures(kinematics, robot, 200), deltas(200), strict=True):
        missing = displacement(kinematics, joints, ik.joint_targets(joints, delta)) - delta
        assert np.linalg.norm(missing[:3]) < 0.0005
        assert np.linalg.norm(missing[3:]) < 0.005


def test_displacements_are_in_the_frame_of_the_base(kinematics, robot):
    home = np.array(ARMS[robot].home_rad)
    after = solver(kinematics, robot).joint_targets(home, np.array([0.0, 0.0, 0.005, 0.0, 0.0, 0.05]))
    expected = [0.0, 0.0, 0.005, 0.0, 0.0, 0.05]
    np.testing.assert_allclose(displacement(kinematics, home, after), expected, atol=2e-5)


def test_a_hundred_displacements_add_up_and_the_same_back_return(kinematics, robot):
    ik, home = solver(kinematics, robot), np.array(ARMS[robot].home_rad)
    delta = np.array([0.0005, -0.0005, 0.001, 0.0, 0.002, 0.001])
    joints = home
    for _ in range(100):
        joints = ik.joint_targets(joints, delta)
    np.testing.assert_allclose(displacement(kinematics, home, joints)[:3], [0.05, -0.05, 0.1], atol=3e-4)
    for _ in range(100):
        joints = ik.joint_targets(joints, -delta)
    np.testing.assert_allclose(displacement(kinematics, home, joints), np.zeros(6), atol=5e-4)


def test_without_displacement_nothing_moves(kinematics, robot):
    joints = np.array(ARMS[robot].home_rad) + 0.2
    np.testing.assert_array_equal(solver(kinematics, robot).joint_targets(joints, np.zeros(6)), joints)


def test_the_same_question_has_the_same_answer_whatever_was_asked_before(kinematics, robot):
    home, delta = np.array(ARMS[robot].home_rad), deltas(1)[0]
    ik = solver(kinematics, robot)
    first = ik.joint_targets(home, delta)
    ik.joint_targets(home + 0.3, 10 * delta)
    np.testing.assert_array_equal(ik.joint_targets(home, delta), first)
    np.testing.assert_array_equal(solver(kinematics, robot).joint_targets(home, delta), first)


@pytest.mark.parametrize("bent_rad", [0.0, 1e-6, 1e-3, 0.02])
def test_near_a_singularity_the_answer_stays_bounded_and_in_reach_of_one_action(kinematics, robot, bent_rad):
    # The wrist with two axes in one line: no turn about the third is left.
    joints = np.array(ARMS[robot].home_rad)
    joints[{"panda": 5, "ur5e": 4}[robot]] = bent_rad + {"panda": 0.1, "ur5e": 0.0}[robot]
    if robot == "panda":
        joints[3] = -0.12 - bent_rad  # and the arm stretched
    assert condition(kinematics, joints) > 17
    unbounded = solver(kinematics, robot, step_max_rad=100.0)
    bounded = solver(kinematics, robot, step_max_rad=0.05)
    for delta in deltas(50):
        assert np.abs(unbounded.joint_targets(joints, delta) - joints).max() < 1.0
        assert np.abs(bounded.joint_targets(joints, delta) - joints).max() <= 0.05 + 1e-12


def test_ranges_hold_at_their_ends_and_from_outside_the_way_in_is_open(kinematics, robot):
    home = np.array(ARMS[robot].home_rad)
    at_the_end = solver(kinematics, robot, low=home - 0.5, high=home + 0.001)
    for delta in deltas(50):
        target = at_the_end.joint_targets(home, delta)
        assert (target <= home + 0.001).all()
    outside = solver(kinematics, robot, low=home + 0.2, high=home + 0.6)
    for delta in deltas(50):
        target = outside.joint_targets(home, delta)
        assert (target >= home - 1e-12).all()


def test_a_joint_more_than_the_tool_needs_is_drawn_home_and_the_tool_stays():
    kinematics, home = ArmKinematics(ARMS["panda"]), np.array(ARMS["panda"].home_rad)
    elbow_out = home
    for _ in range(30):
        # The right singular vector without a singular value: the motion that leaves the TCP alone.
        still = np.linalg.svd(kinematics.jacobian(elbow_out))[2][-1]
        elbow_out = elbow_out + 0.01 * still * np.sign(still[0])
    start = np.linalg.norm(elbow_out - home)
    assert start > 0.2
    ik, joints, there = solver(kinematics, "panda"), elbow_out, np.array([0.001, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(100):
        joints = ik.joint_targets(ik.joint_targets(joints, there), -there)
    assert np.linalg.norm(joints - home) < 0.2 * start
    np.testing.assert_allclose(displacement(kinematics, elbow_out, joints), np.zeros(6), atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_input_that_is_not_finite_is_refused(kinematics, robot, bad):
    ik, home = solver(kinematics, robot), np.array(ARMS[robot].home_rad)
    for i in range(6):
        spoilt = np.where(np.arange(6) == i, bad, 0.001)
        with pytest.raises(InvalidValue, match="must be finite"):
            ik.joint_targets(home, spoilt)
    with pytest.raises(InvalidValue, match="must be finite"):
        ik.joint_targets(np.where(np.arange(len(home)) == 2, bad, home), np.zeros(6))


def test_input_of_the_wrong_size_is_refused(kinematics, robot):
    ik, home = solver(kinematics, robot), np.array(ARMS[robot].home_rad)
    with pytest.raises(InvalidValue, match=r"\(5,\), expected"):
        ik.joint_targets(home, np.zeros(5))
    with pytest.raises(InvalidValue, match=r"shapes \(3,\)"):
        ik.joint_targets(np.zeros(3), np.zeros(6))


def test_limits_that_do_not_fit_the_arm_are_refused_by_name(kinematics, robot):
    home = np.array(ARMS[robot].home_rad)
    with pytest.raises(ConfigError, match="low_rad is"):
        solver(kinematics, robot, low=home[:-1])
    with pytest.raises(ConfigError, match=r"high_rad is .*nan"):
        solver(kinematics, robot, high=np.full(len(home), np.nan))
    with pytest.raises(ConfigError, match="must be below high_rad"):
        solver(kinematics, robot, low=home, high=home)
    with pytest.raises(ConfigError, match=r"step_max_rad .* above 0"):
        solver(kinematics, robot, step_max_rad=0.0)


def test_a_path_goes_from_displacement_to_displacement(kinematics, robot):
    ik, home = solver(kinematics, robot), np.array(ARMS[robot].home_rad)
    steps = np.tile([0.004, -0.002, 0.003, 0.0, 0.01, 0.02], (16, 1))
    path = ik.joint_path(home, steps)
    assert path.shape == (16, len(home))
    joints = home
    for delta, reached in zip(steps, path, strict=True):
        joints = ik.joint_targets(joints, delta)
        np.testing.assert_array_equal(reached, joints)
    np.testing.assert_allclose(displacement(kinematics, home, path[-1])[:3], [0.064, -0.032, 0.048], atol=5e-4)


@pytest.mark.parametrize(
    ("delta", "number"),
    [([0.0, 0.0, 0.05, 0.0, 0.0, 0.0], r"\d+"), ([5.0, 0.0, 0.0, 0.0, 0.0, 0.0], "0"), ([0, 0, 0, 0, 3.0, 0], "0")],
    ids=["out of the workspace", "five metres at once", "half a turn at once"],
)
def test_a_path_that_the_arm_cannot_follow_is_refused_naming_the_displacement(kinematics, robot, delta, number):
    ik, home = solver(kinematics, robot, step_max_rad=0.3), np.array(ARMS[robot].home_rad)
    with pytest.raises(InvalidValue, match=rf"displacement {number} of 40 is missed by 0?.*at most 0.01 and 0.1"):
        ik.joint_path(home, np.tile(np.array(delta, dtype=np.float64), (40, 1)))
