"""Joint positions for a displacement of the TCP, by differential inverse kinematics (mink).

For policies that displace the TCP, on arms that take joint positions. The safety gate comes after it.
"""

from __future__ import annotations

import copy

import mink
import numpy as np
import qpsolvers
from numpy.typing import NDArray

from armature.errors import ConfigError, InvalidValue
from sim.kinematics import ModelKinematics, rotation_of, rotation_vector

# The second step takes away what the first, a straight line along a curve, has missed: millimetres become micrometres.
STEPS = 2
# A radian of the TCP counts as a metre of it; the joints' distance from home counts only where the TCP leaves a choice.
POSTURE_COST = 1e-3
# Near a singularity, motions that take more than 1 / sqrt(this) = 100 rad a metre are given up rather than chased.
DAMPING = 1e-4
SOLVER = "quadprog"
# How far the TCP may be, at the end of any action of a path, from where the displacements lead; else the limits are in
# the way, and what is left of the path leads elsewhere.
OFF_MAX_M, OFF_MAX_RAD = 0.01, 0.1


class TcpTask(mink.Task):
    """Bring the TCP to a pose, like mink's frame task, whose pose objects take two thirds of a call's time."""

    def __init__(self, kinematics: ModelKinematics) -> None:
        super().__init__(cost=np.ones(6))
        self._kinematics = kinematics

    def set_target(self, position: NDArray[np.float64], rotation: NDArray[np.float64]) -> None:
        """Aim at `position` (3,) [m] and `rotation` (3, 3) in the frame of the base."""
        self._position, self._rotation = position, rotation

    def compute_error(self, configuration: mink.Configuration) -> NDArray[np.float64]:
        """Return what is missing (6,): [m], then a rotation vector [rad]."""
        position, rotation = self._kinematics.forward(configuration.q[self._kinematics.columns])
        return np.concatenate((self._position - position, rotation_vector(self._rotation @ rotation.T)))

    def compute_jacobian(self, configuration: mink.Configuration) -> NDArray[np.float64]:
        """Return how what is missing changes with the joints (6, n), in the model's order."""
        jacobian = np.empty((6, configuration.nv))
        jacobian[:, self._kinematics.columns] = -self._kinematics.jacobian(configuration.q[self._kinematics.columns])
        return jacobian


class TcpDeltaIk:
    """Turns displacements of the TCP into joint positions; keeps nothing from one to the next."""

    def __init__(
        self,
        kinematics: ModelKinematics,
        low_rad: NDArray[np.float64],
        high_rad: NDArray[np.float64],
        step_max_rad: NDArray[np.float64],
        home_rad: NDArray[np.float64],
    ) -> None:
        """Stay within `low_rad`..`high_rad` and `step_max_rad` of where a call begins, near `home_rad`; all (n,).

        `step_max_rad` is how far one action may take the joints. Raises ConfigError where a size does not fit.
        """
        for field, value in (("low", low_rad), ("high", high_rad), ("step_max", step_max_rad), ("home", home_rad)):
            if value.shape != (kinematics.model.nq,) or not np.isfinite(value).all():
                raise ConfigError(f"{field}_rad is {value}, expected {kinematics.model.nq} finite values")
        if not ((low_rad < high_rad).all() and (step_max_rad > 0).all()):
            raise ConfigError(
                f"low_rad {low_rad} must be below high_rad {high_rad}, step_max_rad {step_max_rad} above 0"
            )
        self._kinematics, self._columns = kinematics, kinematics.columns
        self._low, self._high, self._step_max = low_rad, high_rad, step_max_rad
        # A joint without a range would have no limit at all; the ranges themselves are set call by call.
        model = copy.copy(kinematics.model)
        model.jnt_limited[:] = True
        self._configuration = mink.Configuration(model)
        self._limit = mink.ConfigurationLimit(model, gain=1.0)
        self._tcp = TcpTask(kinematics)
        self._posture = mink.PostureTask(model, cost=POSTURE_COST)
        self._posture.set_target(self._in_model_order(home_rad))

    def joint_targets(self, joints: NDArray[np.float64], delta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the joint positions (n,) [rad] that displace the TCP by `delta` (6,: m, rotation vector rad).

        `joints` (n,) are those last commanded, `delta` is in the frame of the base. As much of it as the limits and the
        posture allow: outside its range a joint only moves inward. Without displacement nothing moves, also not towards
        home. Raises InvalidValue on input that is not finite.
        """
        if delta.shape != (6,) or joints.shape != self._low.shape:
            raise InvalidValue(f"shapes {joints.shape} and {delta.shape}, expected {self._low.shape} and (6,)")
        if not (np.isfinite(joints).all() and np.isfinite(delta).all()):
            raise InvalidValue(f"joints {joints} and displacement {delta} must be finite")
        if not delta.any():
            return joints.copy()
        low = np.minimum(joints, np.maximum(self._low, joints - self._step_max))
        high = np.maximum(joints, np.minimum(self._high, joints + self._step_max))
        self._limit.lower[:], self._limit.upper[:] = self._in_model_order(low), self._in_model_order(high)
        self._configuration.update(self._in_model_order(joints))
        position, rotation = self._kinematics.forward(joints)
        self._tcp.set_target(position + delta[:3], rotation_of(delta[3:]) @ rotation)
        for _ in range(STEPS):
            self._configuration.integrate_inplace(self._step(), 1.0)
        return np.clip(self._configuration.q[self._columns], low, high)

    def joint_path(self, joints: NDArray[np.float64], deltas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the joint positions (k, n) [rad] after each of `deltas` (k, 6), one after the other from `joints` on.

        Raises InvalidValue naming the displacement that takes the TCP further than OFF_MAX_M or OFF_MAX_RAD from where
        they lead.
        """
        path: list[NDArray[np.float64]] = []
        position, rotation = self._kinematics.forward(joints)
        for number, delta in enumerate(deltas):
            joints = self.joint_targets(joints, delta)
            position, rotation = position + delta[:3], rotation_of(delta[3:]) @ rotation
            reached, turned = self._kinematics.forward(joints)
            off_m = float(np.linalg.norm(position - reached))
            off_rad = float(np.linalg.norm(rotation_vector(rotation @ turned.T)))
            if off_m > OFF_MAX_M or off_rad > OFF_MAX_RAD:
                missed = f"{off_m:.3f} m and {off_rad:.2f} rad (at most {OFF_MAX_M} and {OFF_MAX_RAD})"
                raise InvalidValue(f"displacement {number} of {len(deltas)} is missed by {missed} within the limits")
            path.append(joints)
        return np.array(path)

    def _step(self) -> NDArray[np.float64]:
        tasks = (self._tcp, self._posture)
        problem = mink.build_ik(self._configuration, tasks, dt=1.0, damping=DAMPING, limits=(self._limit,))
        solution = qpsolvers.solve_problem(problem, solver=SOLVER)
        if solution.x is None:
            raise InvalidValue(f"no joint step from {self._configuration.q} satisfies the limits")
        return solution.x

    def _in_model_order(self, joints: NDArray[np.float64]) -> NDArray[np.float64]:
        ordered = np.empty(len(joints))
        ordered[self._columns] = joints
        return ordered
