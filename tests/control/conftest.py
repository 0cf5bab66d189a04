"""A small arm for the control tests: two joints [rad] and a gripper [m] at 10 Hz."""

from __future__ import annotations

import pytest

from armature.control.safety_gate import SafetyLimits
from armature.spec import GRIPPER_OPENING, JOINT_POSITION, TCP_DELTA, ActionSpec, ArraySpec


@pytest.fixture(scope="session")
def joint_spec() -> ActionSpec:
    joints = ArraySpec(JOINT_POSITION, (2,), "float32", "rad", low=(-1.0, -2.0), high=(1.0, 2.0), labels=("a", "b"))
    return ActionSpec("joint_position", (joints, _gripper()), 10.0)


@pytest.fixture(scope="session")
def delta_spec() -> ActionSpec:
    delta = ArraySpec(TCP_DELTA, (2,), "float32", "m", "base", (-0.05, -0.05), (0.05, 0.05), ("x", "y"))
    return ActionSpec("tcp_delta", (delta, _gripper()), 10.0)


@pytest.fixture(scope="session")
def limits() -> SafetyLimits:
    # 1 and 4 rad/s give 0.1 and 0.4 rad per tick of 0.1 s; the step limit of b is the tighter one; the gripper is free.
    return SafetyLimits(
        position_low=(-1.0, -2.0, 0.0),
        position_high=(1.0, 2.0, 0.08),
        velocity_max=(1.0, 4.0, float("inf")),
        step_max=(0.5, 0.2, float("inf")),
        max_state_age_s=0.25,
    )


def _gripper() -> ArraySpec:
    return ArraySpec(GRIPPER_OPENING, (1,), "float32", "m", low=(0.0,), high=(0.08,), labels=("gripper",))
