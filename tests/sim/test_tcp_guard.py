"""Row 19 of the fault matrix: the Panda driven at a wall of its workspace, and into a singularity."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from armature.control.safety_gate import SafetyGate
from armature.control.tcp_guard import TcpGuard, TcpLimits
from armature.types import GateState, Reason, Sample, Tick
from sim.arms import ARMS
from sim.defaults import robot_limits
from sim.kinematics import ArmKinematics
from sim.tasks import SimConfig, robot_spec

TICK_S = 0.01
HOME = np.array(ARMS["panda"].home_rad)
LIMITS = TcpLimits(
    box_low_m=(0.38, -0.4, 0.02),
    box_high_m=(0.6, 0.4, 0.6),
    speed_max_m_s=0.25,
    turn_max_rad_s=0.8,
    wall_deceleration_m_s2=0.5,
    condition_slow=17.0,
    condition_stop=30.0,
)
WIDE = replace(LIMITS, box_low_m=(-2.0, -2.0, -2.0), box_high_m=(2.0, 2.0, 2.0))


@pytest.fixture(scope="module")
def panda() -> ArmKinematics:
    return ArmKinematics(ARMS["panda"])


def towards(panda: ArmKinematics, joints: NDArray[np.float64], speed_m_s: list[float]) -> NDArray[np.float64]:
    """Return the joint velocities that move the TCP straight on, without turning it."""
    return np.linalg.pinv(panda.jacobian(joints)) @ np.array([*speed_m_s, 0.0, 0.0, 0.0])


def condition(panda: ArmKinematics, joints: NDArray[np.float64]) -> float:
    return float(np.linalg.cond(panda.jacobian(joints)))


@pytest.mark.fault(row=19)
@pytest.mark.parametrize(
    ("axis", "speed_m_s", "wall_m"),
    [(0, 0.2, 0.6), (0, -0.2, 0.38), (1, 0.2, 0.4), (1, -0.2, -0.4), (2, -0.2, 0.02)],
    ids=["ahead", "towards the base", "left", "right", "table"],
)
def test_at_a_wall_the_tool_slows_down_comes_to_rest_before_it_and_may_leave(panda, axis, speed_m_s, wall_m):
    guard, joints = TcpGuard(LIMITS, panda), HOME
    wish = [speed_m_s if i == axis else 0.0 for i in range(3)]
    speeds = []
    for _ in range(600):
        factor, reasons = guard.scale(joints, towards(panda, joints, wish), TICK_S)
        assert factor == 1.0 or Reason.TCP_BOX in reasons or Reason.SINGULARITY in reasons
        before, joints = panda.tcp(joints), joints + factor * TICK_S * towards(panda, joints, wish)
        after = panda.tcp(joints)
        assert (wall_m - after[axis]) * np.sign(speed_m_s) > -1e-9
        speeds.append(abs(after - before)[axis] / TICK_S)
    assert speeds[0] == pytest.approx(0.2, rel=0.01)
    assert max(np.abs(np.diff(speeds))) <= 0.5 * TICK_S * 1.05  # never braked harder than allowed
    assert abs(panda.tcp(joints)[axis] - wall_m) < 0.001
    assert speeds[-1] < 0.002
    assert guard.scale(joints, towards(panda, joints, [-x for x in wish]), TICK_S) == (1.0, ())


@pytest.mark.fault(row=19)
def test_outside_the_box_the_tool_may_come_back_and_not_go_further(panda):
    guard = TcpGuard(replace(LIMITS, box_high_m=(0.44, 0.4, 0.6)), panda)
    assert panda.tcp(HOME)[0] > 0.45
    assert guard.scale(HOME, towards(panda, HOME, [0.1, 0.0, 0.0]), TICK_S) == (0.0, (Reason.TCP_BOX,))
    assert guard.scale(HOME, towards(panda, HOME, [-0.1, 0.0, 0.0]), TICK_S) == (1.0, ())
    joints = HOME
    for _ in range(100):
        velocity = towards(panda, joints, [-0.1, 0.0, 0.0])
        joints = joints + guard.scale(joints, velocity, TICK_S)[0] * TICK_S * velocity
    assert panda.tcp(joints)[0] < 0.44


@pytest.mark.fault(row=19)
def test_stretching_out_the_arm_slows_down_stops_short_of_the_singularity_and_may_bend_again(panda):
    guard, joints = TcpGuard(WIDE, panda), HOME
    stretch = np.array([0.0, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0])
    factors = []
    for _ in range(1200):
        factor, reasons = guard.scale(joints, stretch, TICK_S)
        joints = joints + factor * TICK_S * stretch
        factors.append(factor)
        assert condition(panda, joints) <= 30.0
        if condition(panda, joints) > 17.5:
            assert Reason.SINGULARITY in reasons
    assert condition(panda, joints) > 28.0
    assert factors[-1] < 0.1
    assert joints[3] < -0.07  # it was the guard that stopped it, not the end of the joint's range
    assert Reason.SINGULARITY not in guard.scale(joints, -stretch, TICK_S)[1]
    assert guard.scale(joints, -0.5 * stretch, TICK_S)[0] == 1.0


@pytest.mark.fault(row=19)
@pytest.mark.parametrize("seed", range(8))
def test_wherever_a_wild_policy_drives_the_arm_the_tool_stays_slow_inside_and_steerable(panda, seed):
    rng, guard, joints = np.random.default_rng(seed), TcpGuard(LIMITS, panda), HOME
    low, high = np.array(LIMITS.box_low_m), np.array(LIMITS.box_high_m)
    reasons_seen: set[Reason] = set()
    for tick in range(200):
        if tick % 25 == 0:
            velocity = rng.uniform(-1.0, 1.0, 7)
        factor, reasons = guard.scale(joints, velocity, TICK_S)
        reasons_seen |= set(reasons)
        before, joints = panda.tcp(joints), joints + factor * TICK_S * velocity
        after, turned = panda.tcp(joints), panda.jacobian(joints)[3:] @ velocity * factor
        assert (after >= low - 1e-9).all()
        assert (after <= high + 1e-9).all()
        assert math.dist(before, after) / TICK_S <= 0.25 * 1.001
        assert np.linalg.norm(turned) <= 0.8 * 1.001
        assert condition(panda, joints) <= 30.0 + 1e-6
    assert Reason.TCP_SPEED in reasons_seen


@pytest.mark.fault(row=19)
@pytest.mark.parametrize(("profile", "deceleration_m_s2"), [("learn", 0.25), ("run", 0.5)])
@pytest.mark.parametrize(
    "direction", [[1, 0, 0], [0, 1, 0], [0, 0, -1], [-1, 0, 0]], ids=["ahead", "left", "down", "back"]
)
def test_behind_the_gate_too_whose_joints_brake_no_harder_than_they_may_the_tool_stays_in_its_box(
    panda, profile, deceleration_m_s2, direction
):
    robot = robot_limits("fer")
    limits = replace(
        LIMITS, speed_max_m_s=robot.profiles[profile].tcp_speed_max_m_s, wall_deceleration_m_s2=deceleration_m_s2
    )
    spec = robot_spec(SimConfig(cameras=False)).action
    gate = SafetyGate(spec, robot.safety(profile), 10_000_000, TcpGuard(limits, panda))
    sent = np.append(HOME, 0.04)
    gate.arm(Tick(0, 0), Sample(0, 0, sent))
    for tick in range(1, 500):
        now_ns = tick * 10_000_000
        # A policy that asks 20 times a second for 3 cm further than where the arm is.
        if tick % 5 == 1:
            wanted = np.append(sent[:7] + towards(panda, sent[:7], direction) * 0.03, 0.04)
        command = gate.check(Tick(now_ns, now_ns), wanted, Sample(now_ns, now_ns, sent), now_ns)
        speed_m_s = math.dist(panda.tcp(command.action[:7]), panda.tcp(sent[:7])) / TICK_S
        sent = command.action
        # Joints that may not slow down at once let the tool pass its speed a little.
        assert speed_m_s <= limits.speed_max_m_s * 1.05
        assert (panda.tcp(sent[:7]) <= np.array(limits.box_high_m) + 1e-9).all()
        assert (panda.tcp(sent[:7]) >= np.array(limits.box_low_m) - 1e-9).all()
    assert command.state is GateState.ARMED
    assert Reason.TCP_BOX in command.reasons
    assert gate.counts[Reason.TCP_SPEED] > 0
    assert speed_m_s < 0.01
