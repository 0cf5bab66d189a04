from __future__ import annotations

import pytest

from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec

JOINTS = ArraySpec("joint/position", (2,), "float32", "rad", labels=("joint1", "joint2"))
GRIPPER = ArraySpec("gripper/opening", (1,), "float32", "m", labels=("gripper",))
CAMERA = ArraySpec("camera/scene", (24, 32, 3), "uint8", "rgb8")


@pytest.fixture(scope="session")
def robot() -> RobotSpec:
    """A small robot: one camera, two joints and a gripper at 20 Hz."""
    observation = ObservationSpec((CAMERA, JOINTS, GRIPPER), 20.0)
    return RobotSpec("small", observation, ActionSpec("joint_position", (JOINTS, GRIPPER), 20.0))
