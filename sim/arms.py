"""The arms that can stand at the table: names, ranges and speeds of their joints, and the posture they begin in.

All wear the Franka hand, so that they differ in what a policy has to learn anew: how many joints, and how they move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from armature.errors import ConfigError, unknown


@dataclass(frozen=True)
class Arm:
    """One arm; every tuple has an entry per joint, from the base on."""

    simulator_name: str
    """Its model in robosuite."""
    limits_file: str
    """Its file in `armature/robots`, without the suffix."""
    simulator_joints: tuple[str, ...]
    """Its joints in that model, without the model's prefix."""
    labels: tuple[str, ...]
    """Its joints as its ROS driver names them."""
    low_rad: tuple[float, ...]
    high_rad: tuple[float, ...]
    speed_max_rad_s: tuple[float, ...]
    """Half of what the robot may do: the speeds that the safety gate lets through and that the experts stay below."""
    home_rad: tuple[float, ...]
    """Where episodes begin, but for noise: robosuite's own posture, TCP above the table and pointing down."""


_PANDA_JOINTS = tuple(f"joint{i}" for i in range(1, 8))
_UR5E_JOINTS = (
    *("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint"),
    *("wrist_1_joint", "wrist_2_joint", "wrist_3_joint"),
)

ARMS = {
    # Joint ranges of the Franka Emika Robot (FER, the original Panda), from its interface specification.
    "panda": Arm(
        simulator_name="Panda",
        limits_file="fer",
        simulator_joints=_PANDA_JOINTS,
        labels=tuple(f"panda_{joint}" for joint in _PANDA_JOINTS),
        low_rad=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
        high_rad=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
        speed_max_rad_s=(1.0875, 1.0875, 1.0875, 1.0875, 1.305, 1.305, 1.305),
        home_rad=(0.0, np.pi / 16, 0.0, -np.pi / 2 - np.pi / 3, 0.0, np.pi - 0.2, np.pi / 4),
    ),
    # Joint ranges (a full turn both ways; the elbow half of it, as in the maker's own ROS description) and joint speed
    # (pi rad/s) of the Universal Robots UR5e, from its technical details.
    "ur5e": Arm(
        simulator_name="UR5e",
        limits_file="ur5e",
        simulator_joints=_UR5E_JOINTS,
        labels=_UR5E_JOINTS,
        low_rad=(-6.28319, -6.28319, -3.14159, -6.28319, -6.28319, -6.28319),
        high_rad=(6.28319, 6.28319, 3.14159, 6.28319, 6.28319, 6.28319),
        speed_max_rad_s=(1.57,) * 6,
        home_rad=(-0.470, -1.735, 2.480, -2.275, -1.590, -1.991),
    ),
}


def arm_of(name: str) -> Arm:
    """Return the arm of that name; raise ConfigError when there is none."""
    if name not in ARMS:
        raise ConfigError(unknown("robot", name, ARMS))
    return ARMS[name]


def arm_with(labels: tuple[str, ...]) -> Arm:
    """Return the arm whose joints have these labels; raise ConfigError when there is none."""
    for arm in ARMS.values():
        if arm.labels == labels:
            return arm
    raise ConfigError(f"no simulated arm has the joints {', '.join(labels)}. Valid: {', '.join(sorted(ARMS))}")
