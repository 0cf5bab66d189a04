"""Settings of the control path for the simulated robots."""

from __future__ import annotations

import math

from armature.control.chunk_scheduler import SchedulerConfig
from armature.control.safety_gate import SafetyLimits
from armature.spec import ActionSpec
from sim.tasks import GRIPPER_OPENING_MAX_M, JOINT_HIGH_RAD, JOINT_LOW_RAD, JOINT_SPEED_MAX_RAD_S, PANDA_RATE_HZ

JOINT_RANGE_MARGIN_RAD = 0.05
STATE_AGE_MAX_S = 0.1


def panda_limits() -> SafetyLimits:
    """Return the limits for seven joint positions [rad] and a gripper opening [m] at the robot's normal speed."""
    low = tuple(x + JOINT_RANGE_MARGIN_RAD for x in JOINT_LOW_RAD)
    high = tuple(x - JOINT_RANGE_MARGIN_RAD for x in JOINT_HIGH_RAD)
    step = tuple(speed / PANDA_RATE_HZ for speed in JOINT_SPEED_MAX_RAD_S)
    return SafetyLimits(
        position_low=(*low, 0.0),
        position_high=(*high, GRIPPER_OPENING_MAX_M),
        # The gripper moves at its own speed whatever it is told: opening and closing fully is one legal step.
        velocity_max=(*JOINT_SPEED_MAX_RAD_S, math.inf),
        step_max=(*step, math.inf),
        max_state_age_s=STATE_AGE_MAX_S,
    )


def limits_for(spec: ActionSpec) -> SafetyLimits:
    """Return the limits of a simulated robot: the Panda's for joint positions, else only the action's own bounds."""
    if spec.kind == "joint_position":
        return panda_limits()
    unlimited = (math.inf,) * spec.dim
    return SafetyLimits(tuple(spec.low.tolist()), tuple(spec.high.tolist()), unlimited, unlimited, STATE_AGE_MAX_S)


def default_scheduler() -> SchedulerConfig:
    """Return the scheduling of a learned policy: execute 8 actions of a chunk, then ask again."""
    return SchedulerConfig(mode="receding_horizon", execute_steps=8)
