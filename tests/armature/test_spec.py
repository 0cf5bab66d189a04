from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from armature.errors import ConfigError, InvalidValue, SpecMismatch
from armature.spec import (
    CAMERA_WRIST,
    GRIPPER_OPENING,
    JOINT_POSITION,
    TCP_POSE,
    ActionSpec,
    ArraySpec,
    ObservationSpec,
    RobotSpec,
    differences,
    require_compatible,
)
from armature.testing import check_spec_roundtrip

JOINTS = ArraySpec(JOINT_POSITION, (2,), "float32", "rad", low=(-1.0, -2.0), high=(1.0, 2.0), labels=("a", "b"))
GRIPPER = ArraySpec(GRIPPER_OPENING, (1,), "float32", "m", labels=("gripper",))
CAMERA = ArraySpec(CAMERA_WRIST, (4, 5, 3), "uint8", "rgb8", "wrist")
ROBOT = RobotSpec("arm", ObservationSpec((CAMERA, JOINTS), 20.0), ActionSpec("joint_position", (JOINTS, GRIPPER), 20.0))


def test_a_spec_survives_json():
    check_spec_roundtrip(ROBOT)


def test_whole_numbers_give_the_same_fingerprint_as_floats():
    whole = replace(ROBOT, observation=ObservationSpec((CAMERA, replace(JOINTS, low=(-1, -2))), 20))
    assert whole.fingerprint == ROBOT.fingerprint


def test_the_fingerprint_changes_with_every_field_of_the_contract():
    others = [
        replace(ROBOT, name="other"),
        replace(ROBOT, observation=replace(ROBOT.observation, rate_hz=10.0)),
        replace(ROBOT, action=replace(ROBOT.action, arrays=(replace(JOINTS, labels=("b", "a")), GRIPPER))),
    ]
    assert len({ROBOT.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_reading_a_spec_with_unknown_or_missing_keys_names_them():
    data = ROBOT.to_json()
    with pytest.raises(ConfigError, match="unknown key of RobotSpec 'colour'"):
        RobotSpec.from_json({**data, "colour": "red"})
    with pytest.raises(ConfigError, match="RobotSpec lacks key 'action'"):
        RobotSpec.from_json({key: data[key] for key in ("name", "observation")})


def test_action_layout():
    assert ROBOT.action.dim == 3
    assert ROBOT.action.period_ns == 50_000_000
    assert ROBOT.action.labels == ("a", "b", "gripper")
    assert ROBOT.action.low.tolist() == [-1.0, -2.0, -np.inf]
    assert ROBOT.action.high.tolist() == [1.0, 2.0, np.inf]
    assert ROBOT.action.slice_of(GRIPPER_OPENING) == slice(2, 3)
    assert ROBOT.action.split(np.array([1.0, 2.0, 3.0]))[GRIPPER_OPENING].tolist() == [3.0]
    with pytest.raises(SpecMismatch, match="unknown action part 'tcp/pose'"):
        ROBOT.action.slice_of(TCP_POSE)


def test_selection_keeps_the_asked_order_and_tells_images_apart():
    assert ROBOT.select((JOINT_POSITION, CAMERA_WRIST)).observation.names == (JOINT_POSITION, CAMERA_WRIST)
    assert [a.name for a in ROBOT.observation.images] == [CAMERA_WRIST]
    assert [a.name for a in ROBOT.observation.vectors] == [JOINT_POSITION]
    with pytest.raises(SpecMismatch, match="Valid: camera/wrist, joint/position"):
        ROBOT.select((TCP_POSE,))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(3, dtype=np.float32), r"joint/position: shape \(3,\), expected \(2,\)"),
        (np.zeros(2), "joint/position: dtype float64, expected float32"),
        (np.array([0, np.inf], dtype=np.float32), r"joint/position: not finite at elements \[1\]"),
    ],
)
def test_invalid_values_are_refused(value, message):
    with pytest.raises(InvalidValue, match=message):
        JOINTS.validate(value)


def test_an_observation_holds_exactly_the_arrays_of_its_spec():
    with pytest.raises(SpecMismatch, match="observation holds"):
        ROBOT.observation.validate({JOINT_POSITION: np.zeros(2, dtype=np.float32)})


def test_a_policy_may_need_less_than_the_robot_offers_but_not_something_else():
    assert differences(ROBOT.select((JOINT_POSITION,)), ROBOT) == []
    found = differences(ROBOT, ROBOT.select((JOINT_POSITION,)))
    assert found == ["observation camera/wrist: needed, offered only joint/position"]


def test_every_differing_field_is_named():
    other = RobotSpec(
        "leg",
        ObservationSpec((replace(CAMERA, shape=(8, 8, 3)), JOINTS), 10.0),
        ActionSpec("joint_position", (replace(JOINTS, unit="deg"), GRIPPER), 20.0),
    )
    with pytest.raises(SpecMismatch) as caught:
        require_compatible(ROBOT, other, "checkpoint 'x'")
    assert str(caught.value) == (
        "checkpoint 'x' does not fit this robot: robot: needs 'arm', offered 'leg'; "
        "observation.rate_hz: needs 20.0, offered 10.0; "
        "observation camera/wrist.shape: needs (4, 5, 3), offered (8, 8, 3); "
        "action joint/position.unit: needs rad, offered deg"
    )
