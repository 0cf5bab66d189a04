"""A small arm with a residual, for the tests of what goes on around one: two joints, a gripper, an object to see."""

from __future__ import annotations

from math import inf
from typing import Any

import torch

from armature.control.limits import RequestLimits, SafetyLimits, WatchLimits
from armature.normalizer import FieldStats, Normalizer
from armature.spec import (
    CAMERA_WRIST,
    GRIPPER_OPENING,
    JOINT_POSITION,
    ActionSpec,
    ArraySpec,
    ObservationSpec,
    RobotSpec,
)
from policies.actor_weights import ActorWeights
from policies.residual_encoder import ResidualEncoder
from policies.residual_folder import ResidualFolder, ResidualSettings
from policies.residual_sight import EncoderConfig, Sight
from policies.residual_td3 import ResidualActor
from policies.residual_view import ResidualView

JOINTS = ArraySpec(JOINT_POSITION, (2,), "float32", "rad", low=(-1.0, -2.0), high=(1.0, 2.0), labels=("a", "b"))
GRIPPER = ArraySpec(GRIPPER_OPENING, (1,), "float32", "m", low=(0.0,), high=(0.08,), labels=("gripper",))
OBJECT = ArraySpec("object/pose", (3,), "float32", "m")
SPEC = RobotSpec(
    "small", ObservationSpec((JOINTS, GRIPPER, OBJECT), 10.0), ActionSpec("joint_position", (JOINTS, GRIPPER), 10.0)
)
WATCH = WatchLimits(0.25, 0.55, 0.1, 0.2, 0.3, 0.05, 0.2, 1.5)
REQUEST = RequestLimits(2.0, 1.0, 1.0, 3, 0.25, 0.5, 4)
LIMITS = SafetyLimits((-1.0, -2.0, 0.0), (1.0, 2.0, 0.08), (1.0, 4.0, inf), (2.0, 10.0, inf), WATCH, REQUEST)
NORMALIZER = Normalizer(
    {"object/pose": FieldStats((-1.0,) * 3, (1.0,) * 3, (0.5,) * 3, (0.25,) * 3, 10)}, {"object/pose": "gaussian"}
)
SETTINGS = ResidualSettings(scale=0.8, steps=3, discount=0.9)


SIGHT = Sight((CAMERA_WRIST,), 16, EncoderConfig(channels=(4, 4), strides=(2, 2), features=5, shift_px=2))
SEEING_SPEC = RobotSpec(
    SPEC.name,
    ObservationSpec((ArraySpec(CAMERA_WRIST, (24, 24, 3), "uint8", "rgb8"), *SPEC.observation.arrays), 10.0),
    SPEC.action,
)


def actor_weights(
    version: int = 0, base_id: str = "bc", seed: int = 0, features: int = 0, **changes: Any
) -> ActorWeights:
    """Weights of an actor of the arm (observation 3 + 3, and features, action 3) that answers with something."""
    torch.manual_seed(seed)
    actor = ResidualActor(6 + features, 3, (8, 8))
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    arrays = {name: tensor.numpy().copy() for name, tensor in actor.state_dict().items()}
    return ActorWeights(version, changes.get("share", 1.0), changes.get("noise_std", 0.0), base_id, arrays)


def residual(**changes: Any) -> ResidualFolder:
    """A residual of the arm."""
    view = ResidualView(SPEC, LIMITS, NORMALIZER)
    return ResidualFolder.of("reach", view, NORMALIZER, SETTINGS, actor_weights(**changes), {"seed": 3})


def seeing_residual(**changes: Any) -> ResidualFolder:
    """A residual of the arm with a camera at its wrist."""
    view, weights = ResidualView(SEEING_SPEC, LIMITS, NORMALIZER), actor_weights(features=5, **changes)
    arrays = ResidualEncoder(SIGHT, seed=1).arrays()
    return ResidualFolder.of("reach", view, NORMALIZER, SETTINGS, weights, {"seed": 3}, SIGHT, arrays)
