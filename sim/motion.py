"""Smooth motion of a TCP through way-points, as a stream of joint targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.arms import Arm
from sim.kinematics import ArmKinematics, rotation_vector
from sim.tasks import ARM_RATE_HZ

TCP_SPEED_MAX_M_S = 0.24
TCP_ACCELERATION_M_S2 = 1.2
TURN_SPEED_MAX_RAD_S = 1.1
TURN_ACCELERATION_RAD_S2 = 6.0
APPROACH_GAIN_PER_S = 5.0
# Targets stay clear of the gate's limits, so that it never has to change a demonstration.
LIMIT_FRACTION = 0.85
# A target further ahead than this waits for the arm (which trails by 1 to 2 cm at full speed).
LEAD_MAX_M = 0.06


@dataclass(frozen=True)
class Waypoint:
    """A TCP pose in the base frame to pass, and how."""

    position: NDArray[np.float64]
    rotation: NDArray[np.float64]
    opening_m: float
    speed: float = 1.0
    """Fraction of the full speed."""
    tolerance_m: float = 0.01
    """Distance at which the way-point counts as passed."""
    dwell_steps: int = 0
    """Steps to stay after arriving."""


class TcpMotion:
    """Moves a joint target towards way-points with bounded TCP and joint speeds and accelerations."""

    def __init__(self, arm: Arm, kinematics: ArmKinematics, joints: NDArray[np.float64]) -> None:
        """Start at rest at the measured `joints` (n,) [rad]."""
        self.joints = joints
        self.position, self.rotation = kinematics.forward(joints)
        self._kinematics = kinematics
        self._twist = np.zeros(6)
        self._joint_step_max = LIMIT_FRACTION * np.array(arm.speed_max_rad_s) / ARM_RATE_HZ

    def advance(self, waypoint: Waypoint, tcp: NDArray[np.float64], wobble: NDArray[np.float64]) -> None:
        """Move the target one period on; `tcp` (3,) is measured, `wobble` (3,) [m/s] is added to the velocity."""
        self._twist = _limited_change(self._twist, self._wanted_twist(waypoint, tcp, wobble))
        step = self._kinematics.joint_step(self.joints, self._twist / ARM_RATE_HZ)
        scale = min(1.0, float(np.min(self._joint_step_max / np.maximum(np.abs(step), 1e-12))))
        self._twist = self._twist * scale
        self.joints = self.joints + step * scale
        self.position, self.rotation = self._kinematics.forward(self.joints)

    def distance_m(self, waypoint: Waypoint) -> float:
        """Return how far the target is from the way-point; 0.1 rad of turn counts as 1 cm."""
        turn_rad = float(np.linalg.norm(rotation_vector(waypoint.rotation @ self.rotation.T)))
        return float(np.linalg.norm(waypoint.position - self.position)) + 0.1 * turn_rad

    def _wanted_twist(
        self, waypoint: Waypoint, tcp: NDArray[np.float64], wobble: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if np.linalg.norm(self.position - tcp) > LEAD_MAX_M:
            return np.zeros(6)
        path = waypoint.position - self.position
        turn = rotation_vector(waypoint.rotation @ self.rotation.T)
        velocity = _bounded(APPROACH_GAIN_PER_S * path, waypoint.speed * TCP_SPEED_MAX_M_S)
        velocity = velocity + wobble * min(1.0, float(np.linalg.norm(path)) / 0.05)
        return np.concatenate((velocity, _bounded(APPROACH_GAIN_PER_S * turn, waypoint.speed * TURN_SPEED_MAX_RAD_S)))


def _limited_change(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    change = new - old
    linear = _bounded(change[:3], TCP_ACCELERATION_M_S2 / ARM_RATE_HZ)
    return old + np.concatenate((linear, _bounded(change[3:], TURN_ACCELERATION_RAD_S2 / ARM_RATE_HZ)))


def _bounded(vector: NDArray[np.float64], maximum: float) -> NDArray[np.float64]:
    return vector * min(1.0, maximum / max(float(np.linalg.norm(vector)), 1e-12))
