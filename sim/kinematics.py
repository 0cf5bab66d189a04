"""Kinematics of an arm alone, by MuJoCo: where its TCP is, how it moves, and inverse by damped least squares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, InvalidValue, unknown
from sim.arms import Arm
from sim.opengl import mujoco

JOINT_MARGIN_RAD = 0.1
DAMPING = 0.02
POSTURE_GAIN = 0.05
TCP_SITE = "tcp"

_NOT_KINEMATICS = (
    *("geoms", "meshes", "hfields", "textures", "materials", "skins", "flexes", "cameras", "lights"),
    *("actuators", "sensors", "tendons", "equalities", "pairs", "excludes", "keys", "plugins"),
)


class ModelKinematics:
    """The kinematics of one site of a MuJoCo model whose only joints are those of the arm, in the order given."""

    def __init__(self, spec: mujoco.MjSpec, joints: Sequence[str], tcp: str, base: str = "world") -> None:
        """Take the joints, and the site or body `tcp`, out of a model; positions are in the frame of the body `base`.

        All other joints stay where they are. Raises ConfigError where the model lacks a name, or the base moves.
        """
        self.model = _arm_alone(spec, joints, tcp, base)
        self.columns = [int(self.model.joint(joint).dofadr[0]) for joint in joints]
        """Where each of `joints` is in the model's own order."""
        self._data = mujoco.MjData(self.model)
        self._site = self.model.site(TCP_SITE).id
        self._jacobian = np.zeros((6, self.model.nv))
        mujoco.mj_kinematics(self.model, self._data)
        body = self._data.body(base)
        self._base, self.to_base = body.xpos.copy(), body.xmat.reshape(3, 3).T.copy()

    @classmethod
    def from_file(cls, path: Path, joints: Sequence[str], tcp: str, base: str = "world") -> ModelKinematics:
        """Read an MJCF or a URDF file; of the files it refers to, such as meshes, none is needed."""
        if not path.is_file():
            raise ConfigError(f"model {path}: there is no such file")
        try:
            spec = mujoco.MjSpec.from_file(str(path))
        except ValueError as error:
            raise ConfigError(f"model {path}: {error}") from error
        return cls(spec, joints, tcp, base)

    def tcp(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the position (3,) [m] of the TCP at `joints_rad` (n,), in the frame of the base."""
        self._place(joints_rad)
        return self.to_base @ (self._data.site_xpos[self._site] - self._base)

    def jacobian(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how the TCP moves with the joints (6, n) at `joints_rad` (n,): [m/rad], then turn [rad/rad]."""
        self._place(joints_rad)
        mujoco.mj_comPos(self.model, self._data)
        mujoco.mj_jacSite(self.model, self._data, self._jacobian[:3], self._jacobian[3:], self._site)
        return (self.to_base @ self._jacobian.reshape(2, 3, -1)).reshape(6, -1)[:, self.columns]

    def forward(self, joints: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return position (3,) [m] and rotation (3, 3) of the TCP in the base frame at `joints` (n,) [rad]."""
        position = self.tcp(joints)
        return position, self.to_base @ self._data.site_xmat[self._site].reshape(3, 3)

    def _place(self, joints: NDArray[np.float64]) -> None:
        if joints.shape != (len(self.columns),):
            raise InvalidValue(f"joints have the shape {joints.shape}, expected ({len(self.columns)},)")
        self._data.qpos[self.columns] = joints
        mujoco.mj_kinematics(self.model, self._data)


class ArmKinematics(ModelKinematics):
    """The kinematics of a simulated arm: its TCP is between the finger tips."""

    def __init__(self, arm: Arm) -> None:
        """Build a model of the arm and the hand, without a world."""
        joints = [f"robot0_{joint}" for joint in arm.simulator_joints]
        super().__init__(mujoco.MjSpec.from_string(_xml(arm)), joints, "gripper0_grip_site", "robot0_base")
        self._home = np.array(arm.home_rad)
        self._low = np.add(arm.low_rad, JOINT_MARGIN_RAD)
        self._high = np.subtract(arm.high_rad, JOINT_MARGIN_RAD)

    def joint_step(self, joints: NDArray[np.float64], twist: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the joint displacement (n,) that moves the TCP by `twist` (6,: m, rad; base frame), drifting home."""
        jacobian = self.jacobian(joints)
        inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + DAMPING**2 * np.eye(6))
        posture = POSTURE_GAIN * (self._home - joints)
        # The exact null space: with the damped inverse, the pull home would keep the TCP from its goal.
        step = inverse @ twist + posture - np.linalg.pinv(jacobian) @ (jacobian @ posture)
        return np.clip(joints + step, np.minimum(self._low, joints), np.maximum(self._high, joints)) - joints


def rotation_vector(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation vector (3,) [rad] of a rotation matrix (3, 3)."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def rotation_of(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation matrix (3, 3) of a rotation vector (3,) [rad]; inverse of `rotation_vector`."""
    quaternion, matrix = np.array([1.0, 0.0, 0.0, 0.0]), np.empty(9)
    mujoco.mju_quatIntegrate(quaternion, vector, 1.0)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def rotation_matrix(xyzw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation matrix (3, 3) of a quaternion (x, y, z, w)."""
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, np.array([xyzw[3], xyzw[0], xyzw[1], xyzw[2]], dtype=np.float64))
    return matrix.reshape(3, 3)


def _arm_alone(spec: mujoco.MjSpec, joints: Sequence[str], tcp: str, base: str) -> mujoco.MjModel:
    """Compile what carries the TCP: the bodies, the joints named, and one site."""
    _require_names(spec, joints, tcp, base)
    _leave_only_tcp(spec, tcp)
    dropped = [element for kind in _NOT_KINEMATICS for element in getattr(spec, kind)]
    for element in (*dropped, *(joint for joint in spec.joints if joint.name not in joints)):
        spec.delete(element)
    # Without shapes some bodies have no mass, which MuJoCo refuses; the kinematics do not depend on it.
    spec.compiler.boundmass, spec.compiler.boundinertia = 1.0, 1.0
    # The URDF reader would merge bodies that are fixed to each other, and their names would be gone.
    spec.compiler.fusestatic = 0
    model = spec.compile()
    if model.body_weldid[model.body(base).id] != 0:
        raise ConfigError(f"base '{base}' is moved by the joints {', '.join(joints)}")
    return model


def _require_names(spec: mujoco.MjSpec, joints: Sequence[str], tcp: str, base: str) -> None:
    single = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
    known = [joint.name for joint in spec.joints if joint.type in single]
    for joint in joints:
        if joint not in known:
            raise ConfigError(unknown("joint of the model", joint, known))
        if joints.count(joint) > 1:
            raise ConfigError(f"joint '{joint}' is named {joints.count(joint)} times")
    bodies, sites = [body.name for body in spec.bodies], [site.name for site in spec.sites]
    if tcp not in (*sites, *bodies):
        raise ConfigError(unknown("site or body of the model", tcp, [*sites, *bodies]))
    if base not in bodies:
        raise ConfigError(unknown("body of the model", base, bodies))


def _leave_only_tcp(spec: mujoco.MjSpec, tcp: str) -> None:
    if tcp not in [site.name for site in spec.sites]:
        spec.body(tcp).add_site(name=tcp)
    for site in list(spec.sites):
        if site.name == tcp:
            site.name = TCP_SITE
        else:
            spec.delete(site)


def _xml(arm: Arm) -> str:
    from sim.backend import robosuite  # seconds to import, and only simulated arms need it

    robot = getattr(robosuite.models.robots, arm.simulator_name)()
    robot.add_gripper(robosuite.models.grippers.PandaGripper(), robot.eef_name["right"])
    return robot.get_xml()
