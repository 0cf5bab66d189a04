"""Limits that make no sense are refused by name, and a robot's file becomes limits by its profile."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
from small_arm import DELTA_LIMITS, DELTA_SPEC, GRIPPER, LIMITS, SPEC

from armature.control.limits import RobotLimits, check_limits
from armature.control.safety_gate import SafetyGate
from armature.errors import ConfigError
from armature.spec import JOINT_POSITION, TCP_DELTA, ActionSpec, ArraySpec

ROBOT = {
    "robot": "two-joint arm",
    "version": 1,
    "joints": ["a", "b"],
    "position_low_rad": [-1.0, -2.0],
    "position_high_rad": [1.0, 2.0],
    "velocity_max_rad_s": [2.0, 4.0],
    "acceleration_max_rad_s2": [4.0, 10.0],
    "gripper": {"label": "gripper", "low_m": 0.0, "high_m": 0.08},
    "position_margin_rad": 0.05,
    "watch": vars(LIMITS.watch),
    "request": vars(LIMITS.request),
    "profiles": {
        "run": {
            "velocity_share": 0.5,
            "acceleration_share": 0.25,
            "tcp_speed_max_m_s": 0.2,
            "tcp_turn_max_rad_s": 0.5,
        },
        "all": {
            "velocity_share": 1.0,
            "acceleration_share": 1.0,
            "tcp_speed_max_m_s": 0.2,
            "tcp_turn_max_rad_s": 0.5,
        },
    },
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_low": (-1.0, -2.0)}, "position_low has 2 values, the action 3"),
        ({"position_high": (1.0, 2.0, 0.08, 0.1)}, "position_high has 4 values, the action 3"),
        ({"velocity_max": ()}, "velocity_max has 0 values, the action 3"),
        ({"acceleration_max": (1.0,)}, "acceleration_max has 1 values, the action 3"),
        ({"position_low": (-1.1, -2.0, 0.0)}, r"a: position limits -1\.1\.\.1\.0 must lie in -1\.0\.\.1\.0"),
        ({"position_high": (1.0, 2.1, 0.08)}, "b: position limits"),
        ({"position_high": (1.0, nan, 0.08)}, "b: position limits"),
        ({"position_low": (nan, -2.0, 0.0)}, "a: position limits"),
        ({"position_low": (0.5, -2.0, 0.0), "position_high": (0.4, 2.0, 0.08)}, r"a: position limits 0\.5\.\.0\.4"),
        ({"velocity_max": (1.0, 0.0, inf)}, r"b: velocity_max is 0\.0, must be positive"),
        ({"velocity_max": (1.0, -1.0, inf)}, r"b: velocity_max is -1\.0, must be positive"),
        ({"acceleration_max": (1.0, 1.0, nan)}, "gripper: acceleration_max is nan, must be positive"),
        ({"acceleration_max": (1.0, inf, inf)}, "b: velocity_max 4.0 and acceleration_max inf: both are limits, or"),
        ({"velocity_max": (1.0, 4.0, 0.1)}, "gripper: velocity_max 0.1 and acceleration_max inf: both are limits, or"),
        (
            {"velocity_max": (inf, 4.0, inf), "acceleration_max": (inf, 10.0, inf)},
            "a: a joint needs finite velocity_max and acceleration_max",
        ),
        (
            {"velocity_max": (1.0, inf, inf), "acceleration_max": (2.0, inf, inf)},
            "b: a joint needs finite velocity_max and acceleration_max",
        ),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        SafetyGate(SPEC, replace(LIMITS, **change))


@pytest.mark.parametrize("part", ["watch", "request"])
@pytest.mark.parametrize("value", [0.0, -1.0, nan, inf])
def test_no_judgement_is_switched_off(part, value):
    for field in vars(getattr(LIMITS, part)):
        broken = replace(LIMITS, **{part: replace(getattr(LIMITS, part), **{field: value})})
        with pytest.raises(ConfigError, match=rf"{field} is {value}, must be positive and finite"):
            check_limits(SPEC, broken)


def test_a_range_may_be_a_single_point_and_a_gripper_may_have_limits_of_motion():
    still = replace(LIMITS, position_low=(-1.0, 0.5, 0.0), position_high=(1.0, 0.5, 0.08))
    check_limits(SPEC, still)
    check_limits(SPEC, replace(LIMITS, velocity_max=(1.0, 4.0, 0.1), acceleration_max=(2.0, 10.0, 1.0)))


def test_the_bounds_of_an_action_have_to_be_finite():
    free = ArraySpec(JOINT_POSITION, (1,), "float32", "rad", low=(-inf,), high=(inf,), labels=("a",))
    limits = replace(LIMITS, position_low=(-inf,), position_high=(1.0,), velocity_max=(1.0,), acceleration_max=(1.0,))
    for bounds in ({}, {"position_low": (-1.0,), "position_high": (inf,)}):
        with pytest.raises(ConfigError, match="a: position limits"):
            check_limits(ActionSpec("joint_position", (free,), 10.0), replace(limits, **bounds))


def test_a_motion_of_the_tool_has_no_limits_but_its_range():
    check_limits(DELTA_SPEC, DELTA_LIMITS)
    for index, label in enumerate("xy"):
        finite = tuple(1.0 if i == index else inf for i in range(3))
        with pytest.raises(ConfigError, match=f"{label}: is a motion itself, .*velocity_max must be infinite"):
            check_limits(DELTA_SPEC, replace(DELTA_LIMITS, velocity_max=finite, acceleration_max=finite))
    gripper = (inf, inf, 1.0)
    check_limits(DELTA_SPEC, replace(DELTA_LIMITS, velocity_max=gripper, acceleration_max=gripper))


def test_where_the_part_stands_in_the_action_makes_no_difference():
    joints_last = ActionSpec("joint_position", (GRIPPER, SPEC[JOINT_POSITION]), 10.0)
    moved = {
        field: (getattr(LIMITS, field)[2], *getattr(LIMITS, field)[:2])
        for field in ("position_low", "position_high", "velocity_max", "acceleration_max")
    }
    check_limits(joints_last, replace(LIMITS, **moved))
    with pytest.raises(ConfigError, match="a: a joint needs finite"):
        check_limits(
            joints_last, replace(LIMITS, **{**moved, "velocity_max": (inf,) * 3, "acceleration_max": (inf,) * 3})
        )
    delta_last = ActionSpec("tcp_delta", (GRIPPER, DELTA_SPEC[TCP_DELTA]), 10.0)
    assert SafetyGate(
        delta_last, replace(DELTA_LIMITS, position_low=(0.0, -0.05, -0.05), position_high=(0.08, 0.05, 0.05))
    )


def test_elements_without_labels_are_named_by_their_number():
    joints = ArraySpec(JOINT_POSITION, (2,), "float32", "rad", low=(-1.0, -2.0), high=(1.0, 2.0))
    with pytest.raises(ConfigError, match="element 1: velocity_max is 0"):
        check_limits(
            ActionSpec("joint_position", (joints, GRIPPER), 10.0), replace(LIMITS, velocity_max=(1.0, 0.0, inf))
        )


def test_a_profile_takes_its_share_of_what_the_maker_allows_and_keeps_clear_of_the_ends():
    limits = RobotLimits.from_mapping(ROBOT).safety("run")
    assert limits.position_low == pytest.approx((-0.95, -1.95, 0.0))
    assert limits.position_high == pytest.approx((0.95, 1.95, 0.08))
    assert limits.velocity_max == (1.0, 2.0, inf)
    assert limits.acceleration_max == (1.0, 2.5, inf)
    assert (limits.watch, limits.request) == (LIMITS.watch, LIMITS.request)
    check_limits(SPEC, limits)


def test_a_robot_without_a_gripper_has_joints_alone_and_a_profile_may_use_all_that_is_allowed():
    limits = RobotLimits.from_mapping({**ROBOT, "gripper": None}).safety("all")
    assert (limits.velocity_max, limits.acceleration_max) == ((2.0, 4.0), (4.0, 10.0))
    assert len(limits.position_low) == len(limits.position_high) == 2


def test_an_unknown_profile_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"unknown profile of two-joint arm 'fast'.*run"):
        RobotLimits.from_mapping(ROBOT).safety("fast")


@pytest.mark.parametrize(
    "field", ["position_low_rad", "position_high_rad", "velocity_max_rad_s", "acceleration_max_rad_s2"]
)
@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0, 1.0]])
def test_every_joint_has_every_limit(field, values):
    with pytest.raises(ConfigError, match=f"two-joint arm: {field} has {len(values)} values, there are 2 joints"):
        RobotLimits.from_mapping({**ROBOT, field: values})


@pytest.mark.parametrize("field", ["velocity_share", "acceleration_share"])
@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, nan])
def test_a_profile_uses_a_positive_share_and_never_more_than_all(field, share):
    profiles = {"run": {**ROBOT["profiles"]["run"], field: share}}
    with pytest.raises(ConfigError, match=rf"two-joint arm, profile run: {field} is {share}, must be in \(0, 1\]"):
        RobotLimits.from_mapping({**ROBOT, "profiles": profiles})


def test_unknown_keys_are_refused():
    with pytest.raises(ConfigError, match="'jerk_max'"):
        RobotLimits.from_mapping({**ROBOT, "jerk_max": [1.0, 1.0]})
