"""Settings of the control path for the simulated robots."""

from __future__ import annotations

import math

from armature.control.chunk_scheduler import SchedulerConfig
from armature.control.safety_gate import SafetyLimits
from armature.spec import JOINT_POSITION, ActionSpec
from sim.arms import Arm, arm_of, arm_with
from sim.tasks import ARM_RATE_HZ, GRIPPER_OPENING_MAX_M

JOINT_RANGE_MARGIN_RAD = 0.05
STATE_AGE_MAX_S = 0.1


def panda_limits() -> SafetyLimits:
    """Return the limits of the Panda."""
    return arm_limits(arm_of("panda"))


def arm_limits(arm: Arm) -> SafetyLimits:
    """Return the limits for the joint positions [rad] and a gripper opening [m] at the robot's normal speed."""
    low = tuple(x + JOINT_RANGE_MARGIN_RAD for x in arm.low_rad)
    high = tuple(x - JOINT_RANGE_MARGIN_RAD for x in arm.high_rad)
    step = tuple(speed / ARM_RATE_HZ for speed in arm.speed_max_rad_s)
    return SafetyLimits(
        position_low=(*low, 0.0),
        position_high=(*high, GRIPPER_OPENING_MAX_M),
        # The gripper moves at its own speed whatever it is told: opening and closing fully is one legal step.
        velocity_max=(*arm.speed_max_rad_s, math.inf),
        step_max=(*step, math.inf),
        max_state_age_s=STATE_AGE_MAX_S,
    )


def limits_for(spec: ActionSpec) -> SafetyLimits:
    """Return the limits of a simulated robot: its arm's for joint positions, else only the action's own bounds."""
    if spec.kind == "joint_position":
        return arm_limits(arm_with(spec[JOINT_POSITION].labels))
    unlimited = (math.inf,) * spec.dim
    return SafetyLimits(tuple(spec.low.tolist()), tuple(spec.high.tolist()), unlimited, unlimited, STATE_AGE_MAX_S)


def default_scheduler() -> SchedulerConfig:
    """Return the scheduling of a learned policy: execute 8 actions of a chunk, then ask again."""
    return SchedulerConfig(mode="receding_horizon", execute_steps=8)
