"""robosuite's single-arm tasks behind the gymnasium interface of `sim.environment`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from armature.spec import (
    CAMERA_SCENE,
    CAMERA_WRIST,
    GRIPPER_OPENING,
    JOINT_POSITION,
    OBJECT_POSE,
    TCP_POSE,
)
from sim.arms import arm_of
from sim.backend import mujoco, robosuite
from sim.joint_servo import JointServo
from sim.rendering import CameraPose, Cameras, default_profile, place_camera
from sim.spaces import action_space, observation_space, require_action
from sim.tasks import ARM_RATE_HZ, GRIPPER_OPENING_MAX_M, SimConfig, horizon_steps, robot_spec, task_of

SCENE_CAMERAS = {
    "lift": CameraPose((0.46, -0.30, 1.16), (-0.045, 0.0, 0.935), 42.0),
    "can": CameraPose((0.62, 0.02, 1.78), (0.04, 0.02, 0.9), 57.0),
    "square": CameraPose((0.6, 0.65, 1.3), (0.04, 0.07, 0.91), 41.0),
}
OBJECT_BODIES = {"lift": "cube_main", "can": "Can_main", "square": "SquareNut_main"}
MODEL_CAMERAS = {CAMERA_SCENE: "agentview", CAMERA_WRIST: "robot0_eye_in_hand"}
# Of the two quaternions of an orientation, the one near these is given, so that a slow turn gives a continuous one:
# a TCP that points down has qw = 0, where the usual choice qw >= 0 would jump.
TCP_REFERENCE = np.array([0.5, 0.5, 0.0, 0.0]) * np.sqrt(2)
OBJECT_REFERENCE = np.array([0.0, 0.0, 0.0, 1.0])
# Stiff enough that the arm trails a moving target by about one tick (0.03 rad at 0.8 rad/s, none at rest), as an
# industrial position interface does; a critically damped gain of 400 trails by one and a half, 150 by nearly three.
JOINT_STIFFNESS = 1000.0
# robosuite moves the fingers by 8 mm of opening per tick; within half of that the gripper is told to stay.
GRIPPER_DEADBAND_M = 0.004

Placed = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Position (3,) [m] and rotation matrix (3, 3) in the world."""


class ArmEnv(gymnasium.Env[dict[str, NDArray[Any]], NDArray[np.float32]]):
    """One arm with the Franka hand at a table, observed in the base frame of the robot."""

    def __init__(self, config: SimConfig) -> None:
        """Build the world; raise ConfigError for an unknown task, robot or action."""
        self.config = config
        self.robot_spec = robot_spec(config)
        self.observation_space = observation_space(self.robot_spec.observation)
        self.action_space = action_space(self.robot_spec.action)
        self._horizon_steps = horizon_steps(config)
        self._steps = 0
        self._world = _make_world(config)
        self._servo = JointServo(self._world) if config.action == "joint_position" else None
        self._sensors = self._make_sensors()
        self._cameras = self._make_cameras()

    @property
    def model(self) -> Any:
        """Return the mujoco.MjModel."""
        return self._world.sim.model._model

    @property
    def data(self) -> Any:
        """Return the mujoco.MjData."""
        return self._world.sim.data._data

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Begin an episode; the seed fixes the objects' places and the arm's starting joints."""
        super().reset(seed=seed)
        self._steps = 0
        # robosuite's samplers all hold this one generator: setting its state seeds the placements and the arm's noise.
        fresh = np.random.default_rng(int(self.np_random.integers(2**63)))
        self._world.rng.bit_generator.state = fresh.bit_generator.state
        with _single_blas_thread():
            self._world.reset()
        return self._observe(), {"success": False}

    def step(self, action: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Execute one action (dim,) for one period; raise InvalidValue when it is malformed or not finite."""
        action = require_action(self.robot_spec.action, action)
        grip = self._gripper_command(float(action[-1]))
        if self._servo is not None:
            self._servo.step(action[:-1], grip)
        else:
            with _single_blas_thread():
                self._world.step(np.append(action[:-1], grip))
        self._steps += 1
        observation = self._observe()
        success = bool(self._world._check_success())
        truncated = self._steps >= self._horizon_steps and not success
        return observation, float(success), success, truncated, {"success": success}

    def measured_action(self) -> NDArray[np.float64]:
        """Return where the robot is, in the layout of an action (dim,); a TCP displacement is zero."""
        opening = self._sensors[GRIPPER_OPENING]()
        arm = self._sensors[JOINT_POSITION]() if self.config.action == "joint_position" else np.zeros(6)
        return np.append(arm, opening).astype(np.float64)

    def close(self) -> None:
        """Release the renderer and the world."""
        if self._cameras is not None:
            self._cameras.close()
            self._cameras = None
        self._world.close()

    def _observe(self) -> dict[str, NDArray[Any]]:
        # mj_step leaves poses one substep behind the joints; both calls only recompute what is seen, not the dynamics.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        images = self._cameras.draw(self.data) if self._cameras is not None else {}
        arrays = self.robot_spec.observation.vectors
        return {**images, **{array.name: self._sensors[array.name]().astype(array.dtype) for array in arrays}}

    def _make_sensors(self) -> dict[str, Callable[[], NDArray[np.float64]]]:
        model = self.model
        joints = arm_of(self.config.robot).simulator_joints
        arm = [int(model.joint(f"robot0_{joint}").qposadr[0]) for joint in joints]
        fingers = [int(model.joint(f"gripper0_right_finger_joint{i}").qposadr[0]) for i in (1, 2)]
        base, thing = (_placed(self.data.body(name)) for name in ("robot0_base", OBJECT_BODIES[self.config.task]))
        tcp = _placed(self.data.site("gripper0_right_grip_site"))
        return {
            JOINT_POSITION: lambda: self.data.qpos[arm],
            GRIPPER_OPENING: lambda: np.minimum(
                np.abs(self.data.qpos[fingers]).sum(keepdims=True), GRIPPER_OPENING_MAX_M
            ),
            TCP_POSE: lambda: _pose_in(base, tcp, TCP_REFERENCE),
            OBJECT_POSE: lambda: _pose_in(base, thing, OBJECT_REFERENCE),
        }

    def _make_cameras(self) -> Cameras | None:
        if not self.config.cameras:
            return None
        place_camera(self.model, MODEL_CAMERAS[CAMERA_SCENE], SCENE_CAMERAS[self.config.task])
        profile = self.config.render_profile or default_profile()
        return Cameras(self.model, MODEL_CAMERAS, self.config.image_size, profile)

    def _gripper_command(self, opening_m: float) -> float:
        """Translate a target opening into robosuite's command: +1 closes, -1 opens, 0 stays."""
        error_m = float(self._sensors[GRIPPER_OPENING]()[0]) - opening_m
        return float(np.sign(error_m)) if abs(error_m) > GRIPPER_DEADBAND_M else 0.0


def _placed(named: Any) -> Placed:
    """Return where a body or a site is, as views of what MuJoCo computes in place: by name takes much longer."""
    return named.xpos, named.xmat.reshape(3, 3)


def _pose_in(base: Placed, other: Placed, reference: NDArray[np.float64]) -> NDArray[np.float64]:
    to_base = base[1].T
    return pose_of(to_base @ (other[0] - base[0]), to_base @ other[1], reference)


def pose_of(
    position: NDArray[np.float64], rotation: NDArray[np.float64], reference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (x, y, z, qx, qy, qz, qw); of the two equal quaternions, the one on the side of `reference` (4,), xyzw."""
    wxyz = np.empty(4)
    mujoco.mju_mat2Quat(wxyz, np.ascontiguousarray(rotation).ravel())
    xyzw = wxyz[[1, 2, 3, 0]]
    return np.concatenate((position, xyzw if xyzw @ reference >= 0 else -xyzw))


def _make_world(config: SimConfig) -> Any:
    world = robosuite.make(
        task_of(config).simulator_name,
        robots=arm_of(config.robot).simulator_name,
        gripper_types="PandaGripper",
        controller_configs=_controller_config(config),
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        use_object_obs=False,
        control_freq=ARM_RATE_HZ,
        ignore_done=True,
        hard_reset=False,
        # Sizes of objects are drawn when the model is built: every world of a task shall have the same.
        seed=0,
    )
    # robosuite's own sensors cost a third of a step and are not used here.
    for observable in world._observables.values():
        observable.set_enabled(False)
    return world


def _controller_config(sim: SimConfig) -> dict[str, Any]:
    config = copy.deepcopy(
        robosuite.load_composite_controller_config(controller="BASIC", robot=arm_of(sim.robot).simulator_name)
    )
    arm = config["body_parts"]["right"]
    if sim.action == "tcp_delta":
        arm.update(input_max=arm["output_max"], input_min=arm["output_min"])
    else:
        joint = {"type": "JOINT_POSITION", "input_type": "absolute", "kp": JOINT_STIFFNESS, "damping_ratio": 1}
        fixed = {"impedance_mode": "fixed", "interpolation": None, "qpos_limits": None}
        config["body_parts"]["right"] = {**joint, **fixed, "gripper": arm["gripper"]}
    return config


@functools.cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


def _single_blas_thread() -> Any:
    """Limit BLAS to one thread: waking more for robosuite's 7x7 products costs ten times a step."""
    return _thread_pools().limit(limits=1, user_api="blas")
