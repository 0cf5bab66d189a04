"""Settings of the control path for the simulated robots."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import yaml

from armature.control.chunk_scheduler import SchedulerConfig
from armature.control.limits import ROBOTS, RequestLimits, RobotLimits, SafetyLimits, WatchLimits
from armature.spec import JOINT_POSITION, ActionSpec
from sim.arms import Arm, arm_of, arm_with
from sim.tasks import ARM_RATE_HZ

CHUNK_AGE_MAX_STEPS = 20
"""So many of its actions later an observation is too old to act on, where no file of a robot says: as for the arms."""

PROFILE = "run"
RESIDUAL_SHARE = 4.0
"""How far a correction may lead off a policy's action; 0.3 on real robots, where it bounds what a bad one does.

Corrections are motions that add up over the 8 executed actions of a chunk (`policies.detour`), in a step 0.12 of what
the arm can move at most."""


def panda_limits() -> SafetyLimits:
    """Return the limits of the Panda."""
    return arm_limits(arm_of("panda"))


def arm_limits(arm: Arm, profile: str = PROFILE) -> SafetyLimits:
    """Return the limits of a profile for the joint positions [rad] and a gripper opening [m]."""
    hand = robot_limits("fer").gripper
    return _of_simulation(replace(robot_limits(arm.limits_file), gripper=hand).safety(profile))


@cache
def robot_limits(robot: str) -> RobotLimits:
    """Return what the file of a robot says; raise ConfigError on a file that makes no sense."""
    return RobotLimits.from_mapping(yaml.safe_load((ROBOTS / f"{robot}.yaml").read_text()))


def limits_for(spec: ActionSpec, profile: str = PROFILE) -> SafetyLimits:
    """Return the limits of a simulated robot: its arm's for joint positions, else only the action's own bounds."""
    if spec.kind == "joint_position":
        return arm_limits(arm_with(spec[JOINT_POSITION].labels), profile)
    unlimited = (math.inf,) * spec.dim
    bounds = tuple(spec.low.tolist()), tuple(spec.high.tolist())
    watch, request = _judgement()
    request = replace(request, chunk_age_max_s=CHUNK_AGE_MAX_STEPS / spec.rate_hz)
    return _of_simulation(SafetyLimits(*bounds, unlimited, unlimited, watch, request))


def default_scheduler() -> SchedulerConfig:
    """Return the scheduling of a learned policy: execute 8 actions of a chunk, then ask again."""
    return SchedulerConfig(mode="receding_horizon", execute_steps=8)


def _judgement() -> tuple[WatchLimits, RequestLimits]:
    limits = robot_limits("fer")
    return limits.watch, limits.request


def _of_simulation(limits: SafetyLimits) -> SafetyLimits:
    """Set what is other than on a real robot: nothing can break, and states come at the simulator's rate.

    They may be 3 and 15 periods old.
    """
    watch = replace(limits.watch, state_hold_s=3 / ARM_RATE_HZ, state_latch_s=15 / ARM_RATE_HZ)
    return replace(limits, watch=watch, request=replace(limits.request, residual_share=RESIDUAL_SHARE))
