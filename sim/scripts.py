"""What the scripted experts do: one generator of way-points per task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.spec import GRIPPER_OPENING, OBJECT_POSE, TCP_POSE
from sim.kinematics import rotation_matrix
from sim.motion import Waypoint
from sim.tasks import GRIPPER_OPENING_MAX_M

OPEN_M = GRIPPER_OPENING_MAX_M
CLOSED_M = 0.0
EMPTY_M = 0.008
"""The fingers have nothing between them below this opening."""
HOLDING_DISTANCE_M = 0.09
HOME_YAW_RAD = np.pi / 2
"""Yaw of the fingers in the arm's starting posture."""
MIDDLE_YAW_RAD = HOME_YAW_RAD + np.pi / 4
"""Yaw of the fingers from which the last joint can turn equally far both ways."""
HANDLE_M = 0.054
"""From the middle of the square nut to the middle of its handle, along its x axis."""
# Fixed in robosuite's arenas: world coordinates minus the base's, which stands at (-0.56, 0, 0.912) before the table
# and at (-0.5, -0.1, 0.912) before the bins.
PEG_TOP_IN_BASE_M = np.array([0.79, 0.10, 0.038])
PEG_PASSES = ((0.05, 1.0, 0.02), (0.03, 0.6, 0.005), (0.0, 0.5, 0.005), (-0.03, 0.6, 0.01))
"""Heights of the nut over the top of the peg [m], fraction of the speed and tolerance [m]; from the last it drops."""
CAN_GOAL_IN_BASE_M = np.array([0.65, 0.44, -0.05])


@dataclass(frozen=True)
class View:
    """What the expert sees at present, in the base frame."""

    tcp_position: NDArray[np.float64]
    tcp_rotation: NDArray[np.float64]
    object_position: NDArray[np.float64]
    object_rotation: NDArray[np.float64]
    opening_m: float

    @classmethod
    def of(cls, values: Mapping[str, NDArray[Any]]) -> View:
        """Read one step of the STATE arrays."""
        tcp, thing = values[TCP_POSE].astype(np.float64), values[OBJECT_POSE].astype(np.float64)
        opening_m = float(values[GRIPPER_OPENING][0])
        return cls(tcp[:3], rotation_matrix(tcp[3:]), thing[:3], rotation_matrix(thing[3:]), opening_m)


@dataclass(frozen=True)
class Style:
    """How one person does it this time; all random draws of an episode's plan."""

    speed: float
    hover_m: float
    detour_m: NDArray[np.float64]
    """Offset (3,) of the way-point on the way to the object."""
    grasp_offset_m: NDArray[np.float64]
    yaw_offset_rad: float
    pauses: tuple[int, int, int]
    """Steps of hesitation above the object, before lifting and above the goal."""
    misses_first: bool
    """Arrive beside the object first and correct."""
    miss_m: NDArray[np.float64]


Look = Callable[[], View]
Grasp = Callable[[View, Style], tuple[NDArray[np.float64], NDArray[np.float64]]]
Script = Callable[[Look, Style], Iterator[Waypoint]]


def draw_style(rng: np.random.Generator) -> Style:
    """Draw one person's way of doing it."""
    miss_yaw = rng.uniform(0, 2 * np.pi)
    pauses = [int(rng.integers(1, 7)) if rng.random() < 0.3 else 0 for _ in range(3)]
    return Style(
        speed=float(rng.uniform(0.6, 1.0)),
        hover_m=float(rng.uniform(0.04, 0.08)),
        detour_m=rng.uniform((-0.025, -0.025, 0.0), (0.025, 0.025, 0.03)),
        grasp_offset_m=rng.uniform(-0.004, 0.004, 3),
        yaw_offset_rad=float(rng.uniform(-0.08, 0.08)),
        pauses=(pauses[0], pauses[1], pauses[2]),
        misses_first=bool(rng.random() < 0.25),
        miss_m=rng.uniform(0.008, 0.018) * np.array([np.cos(miss_yaw), np.sin(miss_yaw), 0.0]),
    )


def lift(look: Look, style: Style) -> Iterator[Waypoint]:
    """Pick up the cube, again if it slips."""
    while True:
        yield from _grasp(look, style, _cube_grasp)
        yield _raised(look(), style, 0.1, CLOSED_M)


def can(look: Look, style: Style) -> Iterator[Waypoint]:
    """Put the can into its quarter of the other bin, again if it slips."""
    goal = CAN_GOAL_IN_BASE_M + 3 * style.grasp_offset_m
    while True:
        yield from _grasp(look, style, _can_grasp, clearance_m=0.06)
        yield _raised(look(), style, 0.16, CLOSED_M)
        if _is_holding(look()):
            yield _carry(look(), style, goal + up(0.12), 0.0, tolerance_m=0.04)
            yield _carry(look(), style, goal + up(0.03), 0.0, tolerance_m=0.03, dwell_steps=style.pauses[2])
        yield from _release(look(), style)


def square(look: Look, style: Style) -> Iterator[Waypoint]:
    """Take the nut by its handle and put it over the square peg, again if it slips."""
    while True:
        plan = _nut_plan(look())
        yield from _grasp(look, style, lambda view, style, plan=plan: _nut_grasp(view, style, plan))
        yield _raised(look(), style, 0.2, CLOSED_M)
        for height_m, speed, tolerance_m in PEG_PASSES:
            if _is_holding(look()):
                position = PEG_TOP_IN_BASE_M + up(height_m)
                turn_rad = plan.nut_goal_rad - yaw_of(look().object_rotation)
                dwell = style.pauses[2] if height_m == 0.03 else 0
                yield _carry(look(), style, position, wrapped(turn_rad), speed, tolerance_m, dwell)
        yield from _release(look(), style)


def _grasp(look: Look, style: Style, grasp: Grasp, clearance_m: float = 0.0) -> Iterator[Waypoint]:
    """Hover above the object, come down, close; `grasp` looks again each time for where to hold it."""
    position, rotation = grasp(look(), style)
    above = up(style.hover_m + clearance_m)
    half_way = (look().tcp_position + position + above) / 2 + style.detour_m
    yield Waypoint(half_way, rotation, OPEN_M, style.speed, tolerance_m=0.04)
    if style.misses_first:
        yield Waypoint(position + above + style.miss_m, rotation, OPEN_M, style.speed, 0.01, style.pauses[0] + 1)
    position, rotation = grasp(look(), style)
    yield Waypoint(position + above, rotation, OPEN_M, style.speed, 0.012, style.pauses[0])
    position, rotation = grasp(look(), style)
    yield Waypoint(position, rotation, OPEN_M, 0.6 * style.speed, 0.004, 1)
    yield Waypoint(position, rotation, CLOSED_M, style.speed, 0.01, 6 + style.pauses[1])


def _cube_grasp(view: View, style: Style) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    yaw = nearest_yaw(yaw_of(view.object_rotation), yaw_of(view.tcp_rotation), np.pi / 2)
    return view.object_position + style.grasp_offset_m, pointing_down(yaw + style.yaw_offset_rad)


def _can_grasp(view: View, style: Style) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    upright = abs(view.object_rotation[2, 2]) > 0.7
    axis = view.object_rotation[:, 2]
    lying_rad = nearest_yaw(float(np.arctan2(axis[1], axis[0])) + np.pi / 2, HOME_YAW_RAD, np.pi)
    fingers_rad = HOME_YAW_RAD + 3 * style.yaw_offset_rad if upright else lying_rad
    return view.object_position + style.grasp_offset_m, pointing_down(fingers_rad)


@dataclass(frozen=True)
class NutPlan:
    """How to hold the nut and how to turn it onto the peg; both yaws [rad] are the nut's, in the base frame."""

    fingers_from_nut_rad: float
    nut_goal_rad: float


def _nut_plan(view: View) -> NutPlan:
    """Choose among both ways to hold the handle and four ways to fit the peg: least turning, near the robot."""
    nut_rad = yaw_of(view.object_rotation)
    plans = [NutPlan(grip, goal) for grip in (-np.pi / 2, np.pi / 2) for goal in np.arange(4) * np.pi / 2]

    def cost(plan: NutPlan) -> float:
        held = abs(wrapped(nut_rad + plan.fingers_from_nut_rad - MIDDLE_YAW_RAD))
        placed = abs(wrapped(plan.nut_goal_rad + plan.fingers_from_nut_rad - MIDDLE_YAW_RAD))
        handle = HANDLE_M * np.array([np.cos(plan.nut_goal_rad), np.sin(plan.nut_goal_rad)])
        return max(held, placed) + 0.3 * (held + placed) + 100 * float(np.linalg.norm(PEG_TOP_IN_BASE_M[:2] + handle))

    return min(plans, key=cost)


def _nut_grasp(view: View, style: Style, plan: NutPlan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nut_rad = yaw_of(view.object_rotation)
    handle = HANDLE_M * view.object_rotation[:, 0] + up(0.008)
    fingers_rad = MIDDLE_YAW_RAD + wrapped(nut_rad + plan.fingers_from_nut_rad - MIDDLE_YAW_RAD)
    return view.object_position + handle + 0.5 * style.grasp_offset_m, pointing_down(fingers_rad)


def _is_holding(view: View) -> bool:
    distance_m = float(np.linalg.norm(view.object_position - view.tcp_position))
    return view.opening_m > EMPTY_M and distance_m < HOLDING_DISTANCE_M


def _raised(view: View, style: Style, height_m: float, opening_m: float) -> Waypoint:
    return Waypoint(view.tcp_position + up(height_m), view.tcp_rotation, opening_m, style.speed, 0.02)


def _release(view: View, style: Style) -> Iterator[Waypoint]:
    yield Waypoint(view.tcp_position, view.tcp_rotation, OPEN_M, style.speed, 0.02, 5)
    yield _raised(view, style, 0.1, OPEN_M)


def _carry(
    view: View,
    style: Style,
    goal: NDArray[np.float64],
    turn_rad: float,
    speed: float = 1.0,
    tolerance_m: float = 0.012,
    dwell_steps: int = 0,
) -> Waypoint:
    """Return where the TCP has to go so that the object, held as it is now, comes to `goal` turned by `turn_rad`."""
    turn = rotation_about_z(turn_rad)
    level = pointing_down(yaw_of(turn @ view.tcp_rotation))
    position = goal + turn @ (view.tcp_position - view.object_position)
    return Waypoint(position, level, CLOSED_M, speed * style.speed, tolerance_m, dwell_steps)


def up(height_m: float) -> NDArray[np.float64]:
    """Return the vertical displacement (3,)."""
    return np.array([0.0, 0.0, height_m])


def pointing_down(yaw_rad: float) -> NDArray[np.float64]:
    """Return the TCP rotation that points down, with the axis along which the fingers move at `yaw_rad`."""
    fingers = np.array([np.cos(yaw_rad), np.sin(yaw_rad), 0.0])
    down = np.array([0.0, 0.0, -1.0])
    return np.column_stack((fingers, np.cross(down, fingers), down))


def yaw_of(rotation: NDArray[np.float64]) -> float:
    """Return the yaw [rad] of the x axis: of a TCP, the axis along which the fingers move."""
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def rotation_about_z(yaw_rad: float) -> NDArray[np.float64]:
    """Return the rotation matrix (3, 3) of a turn about the vertical."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def wrapped(angle_rad: float) -> float:
    """Return the angle in [-pi, pi)."""
    return (angle_rad + np.pi) % (2 * np.pi) - np.pi


def nearest_yaw(yaw_rad: float, reference_rad: float, symmetry_rad: float) -> float:
    """Return the equivalent of `yaw_rad` (modulo `symmetry_rad`) that is nearest to the reference."""
    return yaw_rad + symmetry_rad * round((reference_rad - yaw_rad) / symmetry_rad)


SCRIPTS: dict[str, Script] = {"lift": lift, "can": can, "square": square}
