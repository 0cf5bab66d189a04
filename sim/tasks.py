"""The simulated tasks and the contract of each, known without building a simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from sim.arms import Arm, arm_of

PIXELS = (CAMERA_SCENE, CAMERA_WRIST, JOINT_POSITION, GRIPPER_OPENING)
STATE = (JOINT_POSITION, GRIPPER_OPENING, TCP_POSE, OBJECT_POSE)

GRIPPER_LABEL = "panda_gripper"
GRIPPER_OPENING_MAX_M = 0.08

POSE_LABELS = ("x", "y", "z", "qx", "qy", "qz", "qw")
DELTA_LABELS = ("dx", "dy", "dz", "rx", "ry", "rz")
DELTA_MAX = (0.05, 0.05, 0.05, 0.5, 0.5, 0.5)

ARM_RATE_HZ = 20.0
IMAGE_SIZES_PX = 8, 4096
"""Smallest and largest edge of an arm's camera images."""
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
    world: Literal["arm", "pusht"]


TASKS = {
    "lift": Task("Lift", 200, "arm"),
    "can": Task("PickPlaceCan", 400, "arm"),
    "square": Task("NutAssemblySquare", 400, "arm"),
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
    """Edge of the square camera images [px], 8 to 4096; Push-T draws 96."""
    horizon_steps: int | None = None
    """Steps after which an attempt is truncated; the task's own number if unset."""
    privileged: bool = True
    """Also observe what a real robot cannot know exactly: TCP and object poses."""
    render_profile: Literal["fast", "full"] | None = None
    """fast: no shadows, reflections, multisampling; full: all three; unset: full where a GPU renders."""
    robot: str = "panda"
    """panda or ur5e; Push-T has a robot of its own and ignores it."""


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
    build: dict[str, Callable[[SimConfig], RobotSpec]] = {"arm": _arm_spec, "pusht": _pusht_spec}
    return build[task_of(config).world](config)


def tcp_delta_of(action: ActionSpec) -> ActionSpec:
    """Return what a policy says that displaces the TCP of an arm, where `action` is what the arm takes.

    Raises ConfigError unless that is joint positions; a gripper stays as it is.
    """
    if action.kind != "joint_position":
        raise ConfigError(f"tcp_delta is for arms that take joint_position, this robot takes {action.kind}")
    low = tuple(-x for x in DELTA_MAX)
    delta = ArraySpec(TCP_DELTA, (6,), "float32", "m,rad", "base", low, DELTA_MAX, DELTA_LABELS)
    rest = tuple(array for array in action.arrays if array.name != JOINT_POSITION)
    return ActionSpec("tcp_delta", (delta, *rest), action.rate_hz)


def _arm_spec(config: SimConfig) -> RobotSpec:
    low, high = IMAGE_SIZES_PX
    if not low <= config.image_size <= high:
        raise ConfigError(f"image_size: {config.image_size}, must lie in {low} to {high}")
    joints = _joints(arm_of(config.robot))
    arrays = (*_cameras(config, (CAMERA_SCENE, CAMERA_WRIST), config.image_size), joints, _gripper())
    if config.privileged:
        arrays += (_pose(TCP_POSE), _pose(OBJECT_POSE))
    return RobotSpec(config.robot, ObservationSpec(arrays, ARM_RATE_HZ), _arm_action(config.action, joints))


def _arm_action(kind: str, joints: ArraySpec) -> ActionSpec:
    if kind not in ("joint_position", "tcp_delta"):
        raise ConfigError(unknown("action", kind, ("joint_position", "tcp_delta")))
    positions = ActionSpec("joint_position", (joints, _gripper()), ARM_RATE_HZ)
    return positions if kind == "joint_position" else tcp_delta_of(positions)


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


def _joints(arm: Arm) -> ArraySpec:
    return ArraySpec(JOINT_POSITION, (len(arm.labels),), "float32", "rad", "", arm.low_rad, arm.high_rad, arm.labels)


def _gripper() -> ArraySpec:
    return ArraySpec(GRIPPER_OPENING, (1,), "float32", "m", "", (0.0,), (GRIPPER_OPENING_MAX_M,), (GRIPPER_LABEL,))


def _pose(name: str) -> ArraySpec:
    return ArraySpec(name, (7,), "float32", "m", "base", labels=POSE_LABELS)


def require_learned(task: str, provenance: Mapping[str, Any], checkpoint: Path) -> None:
    """Raise ConfigError where a checkpoint says that it has learned another task, whose robot may be the same."""
    learned = provenance.get("training", {}).get("task", task)
    # Of a name that is none of the simulated tasks', as in recordings of real robots, nothing follows.
    if learned != task and learned in TASKS:
        raise ConfigError(f"task '{task}': {checkpoint} was trained on '{learned}'; say --task {learned}")
