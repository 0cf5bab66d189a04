"""Kinematics of an arm alone: forward, and inverse by damped least squares towards a home posture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.arms import Arm
from sim.backend import mujoco, robosuite

JOINT_MARGIN_RAD = 0.1
DAMPING = 0.02
POSTURE_GAIN = 0.05


class ArmKinematics:
    """Positions of the TCP (between the finger tips) in the frame of the robot's base."""

    def __init__(self, arm: Arm) -> None:
        """Build a model of the arm and the hand, without a world."""
        self._model = _load_model(arm)
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site("gripper0_grip_site").id
        joints = [self._model.joint(f"robot0_{joint}") for joint in arm.simulator_joints]
        self._joints = [int(joint.qposadr[0]) for joint in joints]
        self._columns = [int(joint.dofadr[0]) for joint in joints]
        self._home = np.array(arm.home_rad)
        self._low = np.add(arm.low_rad, JOINT_MARGIN_RAD)
        self._high = np.subtract(arm.high_rad, JOINT_MARGIN_RAD)

    def forward(self, joints: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return position (3,) [m] and rotation (3, 3) of the TCP in the base frame at `joints` (n,) [rad]."""
        self._data.qpos[self._joints] = joints
        mujoco.mj_kinematics(self._model, self._data)
        base = self._data.body("robot0_base")
        to_base = base.xmat.reshape(3, 3).T
        position = to_base @ (self._data.site_xpos[self._site] - base.xpos)
        return position, to_base @ self._data.site_xmat[self._site].reshape(3, 3)

    def joint_step(self, joints: NDArray[np.float64], twist: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the joint displacement (n,) that moves the TCP by `twist` (6,: m, rad; base frame), drifting home."""
        jacobian = self._jacobian(joints)
        inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + DAMPING**2 * np.eye(6))
        posture = POSTURE_GAIN * (self._home - joints)
        # The exact null space: with the damped inverse, the pull home would keep the TCP from its goal.
        step = inverse @ twist + posture - np.linalg.pinv(jacobian) @ (jacobian @ posture)
        return np.clip(joints + step, np.minimum(self._low, joints), np.maximum(self._high, joints)) - joints

    def _jacobian(self, joints: NDArray[np.float64]) -> NDArray[np.float64]:
        self.forward(joints)
        mujoco.mj_comPos(self._model, self._data)
        linear, angular = np.zeros((3, self._model.nv)), np.zeros((3, self._model.nv))
        mujoco.mj_jacSite(self._model, self._data, linear, angular, self._site)
        to_base = self._data.body("robot0_base").xmat.reshape(3, 3).T
        return np.vstack((to_base @ linear[:, self._columns], to_base @ angular[:, self._columns]))


def rotation_vector(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation vector (3,) [rad] of a rotation matrix (3, 3)."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def rotation_matrix(xyzw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation matrix (3, 3) of a quaternion (x, y, z, w)."""
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, np.array([xyzw[3], xyzw[0], xyzw[1], xyzw[2]], dtype=np.float64))
    return matrix.reshape(3, 3)


def _load_model(arm: Arm) -> mujoco.MjModel:
    from robosuite.models.grippers import PandaGripper

    robot = getattr(robosuite.models.robots, arm.simulator_name)()
    robot.add_gripper(PandaGripper(), robot.eef_name["right"])
    return mujoco.MjModel.from_xml_string(robot.get_xml())
