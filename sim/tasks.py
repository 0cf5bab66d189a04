"""The simulated tasks and the contract of each, known without building a simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from armature.errors import ConfigError, unknown
from armature.spec import (
    AGENT_POSITION,
    CAMERA_SCENE,
    CAMERA_WRIST,
    GRIPPER_OPENING,
    JOINT_POSITION,
    OBJECT_KEYPOINTS,
    OBJECT_POSE,
    TCP_DELTA,
    TCP_POSE,
    ActionSpec,
    ArraySpec,
    ObservationSpec,
    RobotSpec,
)

PIXELS = (CAMERA_SCENE, CAMERA_WRIST, JOINT_POSITION, GRIPPER_OPENING)
STATE = (JOINT_POSITION, GRIPPER_OPENING, TCP_POSE, OBJECT_POSE)

JOINT_LABELS = tuple(f"panda_joint{i}" for i in range(1, 8))
GRIPPER_LABEL = "panda_gripper"
GRIPPER_OPENING_MAX_M = 0.08
# Joint ranges of the Franka Emika Robot (FER, the original Panda), from its interface specification.
JOINT_LOW_RAD = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
JOINT_HIGH_RAD = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
# Half of what the robot may do: the speeds that the safety gate lets through and that the experts stay below.
JOINT_SPEED_MAX_RAD_S = (1.09, 1.09, 1.09, 1.09, 1.30, 1.30, 1.30)

POSE_LABELS = ("x", "y", "z", "qx", "qy", "qz", "qw")
DELTA_LABELS = ("dx", "dy", "dz", "rx", "ry", "rz")
DELTA_MAX = (0.05, 0.05, 0.05, 0.5, 0.5, 0.5)

PANDA_RATE_HZ = 20.0
PUSHT_RATE_HZ = 10.0
PUSHT_SIZE_PX = 512.0
PUSHT_IMAGE_SIZE = 96
PUSHT_KEYPOINTS_PX = (
    (9.2698, 90.0410), (-60.9835, -1.1867), (60.9128, -1.3934), (-0.2705, 25.5436), (-14.0649, 122.8159),
    (39.0027, 32.8574), (-39.9664, 32.7297), (-16.8243, 62.8632), (23.5415, -1.7003),
)  # fmt: skip
"""Nine points in the frame of the T-shaped block, those of the array `keypoint` of the human demonstrations (Chi et al.
2023): that array, moved and turned back by the recorded poses, median over the frames."""


@dataclass(frozen=True)
class Task:
    """What a task is called in its simulator and how many steps an attempt may take."""

    simulator_name: str
    horizon_steps: int
    robot: Literal["panda", "pusht"]


TASKS = {
    "lift": Task("Lift", 200, "panda"),
    "can": Task("PickPlaceCan", 400, "panda"),
    "square": Task("NutAssemblySquare", 400, "panda"),
    "pusht": Task("gym_pusht/PushT-v0", 300, "pusht"),
}


@dataclass(frozen=True)
class SimConfig:
    """Which world to simulate and what to observe of it."""

    task: str = "lift"
    """lift, can, square or pusht."""
    action: Literal["joint_position", "tcp_delta"] = "joint_position"
    """What the arm takes; Push-T has one kind of action and ignores it."""
    cameras: bool = True
    """Render the cameras; without them a step is several times faster."""
    image_size: int = 128
    """Edge of the square camera images [px]; Push-T draws 96."""
    horizon_steps: int | None = None
    """Steps after which an attempt is truncated; the task's own number if unset."""
    privileged: bool = True
    """Also observe what a real robot cannot know exactly: TCP and object poses."""
    render_profile: Literal["fast", "full"] | None = None
    """fast: no shadows, reflections, multisampling; full: all three; unset: full where a GPU renders."""


def task_of(config: SimConfig) -> Task:
    """Return the task of a configuration; raise ConfigError when there is none of that name."""
    if config.task not in TASKS:
        raise ConfigError(unknown("task", config.task, TASKS))
    return TASKS[config.task]


def horizon_steps(config: SimConfig) -> int:
    """Return after how many steps an attempt is truncated; raise ConfigError when it is not positive."""
    steps = task_of(config).horizon_steps if config.horizon_steps is None else config.horizon_steps
    if steps < 1:
        raise ConfigError(f"horizon_steps: {steps} is below 1")
    return steps


def robot_spec(config: SimConfig) -> RobotSpec:
    """Describe the robot of a task: observations, actions, rates."""
    build: dict[str, Callable[[SimConfig], RobotSpec]] = {"panda": _panda_spec, "pusht": _pusht_spec}
    return build[task_of(config).robot](config)


def _panda_spec(config: SimConfig) -> RobotSpec:
    if config.image_size < 8:
        raise ConfigError(f"image_size: {config.image_size} is below 8")
    arrays = (*_cameras(config, (CAMERA_SCENE, CAMERA_WRIST), config.image_size), _joints(), _gripper())
    if config.privileged:
        arrays += (_pose(TCP_POSE), _pose(OBJECT_POSE))
    return RobotSpec("panda", ObservationSpec(arrays, PANDA_RATE_HZ), _panda_action(config.action))


def _panda_action(kind: str) -> ActionSpec:
    if kind == "joint_position":
        return ActionSpec("joint_position", (_joints(), _gripper()), PANDA_RATE_HZ)
    if kind == "tcp_delta":
        low = tuple(-x for x in DELTA_MAX)
        delta = ArraySpec(TCP_DELTA, (6,), "float32", "m,rad", "base", low, DELTA_MAX, DELTA_LABELS)
        return ActionSpec("tcp_delta", (delta, _gripper()), PANDA_RATE_HZ)
    raise ConfigError(unknown("action", kind, ("joint_position", "tcp_delta")))


def _pusht_spec(config: SimConfig) -> RobotSpec:
    size = (0.0, 0.0), (PUSHT_SIZE_PX, PUSHT_SIZE_PX)
    agent = ArraySpec(AGENT_POSITION, (2,), "float32", "px", "", *size, ("x", "y"))
    arrays = (*_cameras(config, (CAMERA_SCENE,), PUSHT_IMAGE_SIZE), agent)
    if config.privileged:
        labels = tuple(f"{axis}{i}" for i in range(len(PUSHT_KEYPOINTS_PX)) for axis in "xy")
        keypoints = ArraySpec(OBJECT_KEYPOINTS, (len(labels),), "float32", "px", labels=labels)
        arrays += (ArraySpec(OBJECT_POSE, (3,), "float32", "px,rad", labels=("x", "y", "angle")), keypoints)
    return RobotSpec(
        "pusht", ObservationSpec(arrays, PUSHT_RATE_HZ), ActionSpec("planar_position", (agent,), PUSHT_RATE_HZ)
    )


def _cameras(config: SimConfig, names: tuple[str, ...], size: int) -> tuple[ArraySpec, ...]:
    if not config.cameras:
        return ()
    return tuple(ArraySpec(name, (size, size, 3), "uint8", "rgb8") for name in names)


def _joints() -> ArraySpec:
    return ArraySpec(JOINT_POSITION, (7,), "float32", "rad", "", JOINT_LOW_RAD, JOINT_HIGH_RAD, JOINT_LABELS)


def _gripper() -> ArraySpec:
    return ArraySpec(GRIPPER_OPENING, (1,), "float32", "m", "", (0.0,), (GRIPPER_OPENING_MAX_M,), (GRIPPER_LABEL,))


def _pose(name: str) -> ArraySpec:
    return ArraySpec(name, (7,), "float32", "m", "base", labels=POSE_LABELS)
