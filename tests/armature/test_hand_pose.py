from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from armature.errors import InvalidValue
from armature.hand_pose import POSE_DIM, decode, encode, hand_pose_action, hand_pose_array
from armature.spec import ActionSpec, ObservationSpec, RobotSpec
from armature.testing import check_spec_roundtrip

# A quarter turn about z: its x axis points along y, its y axis against x.
QUARTER = np.array([[0.0, -1.0, 0.0, 0.1], [1.0, 0.0, 0.0, 0.2], [0.0, 0.0, 1.0, 0.3], [0.0, 0.0, 0.0, 1.0]])
WRISTS = np.stack([QUARTER, np.eye(4)])
TIPS = np.arange(30).reshape(2, 5, 3) / 10


def test_the_layout_is_position_columns_fingertips_left_before_right():
    pose = encode(WRISTS, TIPS)
    left = [0.1, 0.2, 0.3, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, *np.arange(15) / 10]
    right = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, *np.arange(15, 30) / 10]
    assert pose.tolist() == pytest.approx(left + right)


def test_labels_say_what_stands_where():
    labels = hand_pose_array("camera").labels
    assert len(labels) == len(set(labels)) == POSE_DIM == 48
    assert labels[:9] == (
        *("left_wrist_x", "left_wrist_y", "left_wrist_z", "left_wrist_x_axis_x", "left_wrist_x_axis_y"),
        *("left_wrist_x_axis_z", "left_wrist_y_axis_x", "left_wrist_y_axis_y", "left_wrist_y_axis_z"),
    )
    assert (labels[9], labels[24], labels[47]) == ("left_thumb_x", "right_wrist_x", "right_little_z")


def test_a_robot_of_hands_is_a_valid_spec():
    action = hand_pose_action("camera", 10.0)
    assert (action.kind, action.dim, action.arrays[0].unit, action.arrays[0].frame) == ("hand_pose", 48, "m", "camera")
    check_spec_roundtrip(RobotSpec("hands", ObservationSpec((hand_pose_array("camera"),), 10.0), action))
    assert isinstance(action, ActionSpec)


rotations = arrays(np.float64, (2, 4), elements=st.floats(-1, 1)).filter(
    lambda q: (np.linalg.norm(q, axis=-1) > 0.1).all()
)
positions = st.floats(-10, 10)


def matrices(quaternions):
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=-1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


@given(rotations, arrays(np.float64, (2, 3), elements=positions), arrays(np.float64, (2, 5, 3), elements=positions))
def test_decode_undoes_encode(quaternions, places, tips):
    wrists = np.tile(np.eye(4), (2, 1, 1))
    wrists[:, :3, :3], wrists[:, :3, 3] = matrices(quaternions), places
    decoded = decode(encode(wrists, tips))
    np.testing.assert_allclose(decoded.wrists, wrists, atol=1e-9)
    np.testing.assert_array_equal(decoded.fingertips, tips)


@given(arrays(np.float64, (3, 48), elements=st.floats(-2, 2)))
def test_any_numbers_that_tell_a_rotation_become_one(pose):
    try:
        wrists, tips = decode(pose)
    except InvalidValue as error:
        assert "zero or parallel" in str(error)  # noqa: PT017  (hypothesis finds such columns soon)
        return
    rotation = wrists[..., :3, :3]
    np.testing.assert_allclose(
        rotation @ np.swapaxes(rotation, -1, -2), np.broadcast_to(np.eye(3), (3, 2, 3, 3)), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-6)
    assert tips.shape == (3, 2, 5, 3)


def test_columns_that_are_not_orthonormal_are_made_so():
    pose = encode(WRISTS, TIPS)
    pose[3:9] = [0.0, 3.0, 0.0, -2.0, 1.0, 0.0]  # stretched, and the second leans towards the first
    np.testing.assert_allclose(decode(pose).wrists[0], QUARTER, atol=1e-12)
    stretched = WRISTS.copy()
    stretched[0, :3, :3] *= 1.5
    np.testing.assert_allclose(encode(stretched, TIPS), encode(WRISTS, TIPS), atol=1e-12)


def test_leading_axes_are_kept():
    pose = encode(np.tile(WRISTS, (6, 4, 1, 1, 1)), np.tile(TIPS, (6, 4, 1, 1, 1)))
    assert pose.shape == (6, 4, 48)
    np.testing.assert_allclose(pose[5, 3], encode(WRISTS, TIPS))
    assert decode(pose).wrists.shape == (6, 4, 2, 4, 4)


def changed(array, index, value):
    array = np.array(array, dtype=np.float64)
    array[index] = value
    return array


BAD_HANDS = {
    r"wrists: shape \(4, 4\)": (QUARTER, TIPS),
    r"fingertips: shape \(2, 3, 5\)": (WRISTS, TIPS.reshape(2, 3, 5)),
    "leading axes differ": (WRISTS[None], TIPS),
    r"wrists: not finite at \[\[0, 1, 3\]\]": (changed(WRISTS, (0, 1, 3), np.nan), TIPS),
    r"fingertips: not finite at \[\[1, 4, 2\]\]": (WRISTS, changed(TIPS, (1, 4, 2), np.inf)),
    "is the matrix transposed": (np.swapaxes(WRISTS, -1, -2), TIPS),
    "mirrored": (changed(WRISTS, (0, slice(3), 2), (0.0, 0.0, -1.0)), TIPS),
    "zero or parallel": (changed(WRISTS, (1, slice(3), 1), (2.0, 0.0, 0.0)), TIPS),
    "shortest column 0": (changed(WRISTS, (1, slice(3), 0), 0.0), TIPS),
}


@pytest.mark.parametrize(("message", "hands"), BAD_HANDS.items(), ids=BAD_HANDS.keys())
def test_hands_that_are_not_poses_are_refused(message, hands):
    with pytest.raises(InvalidValue, match=message):
        encode(*hands)


BAD_POSES = {
    r"hand pose: shape \(47,\)": np.ones(47),
    r"hand pose: shape \(\)": np.array(1.0),
    r"hand pose: not finite at \[\[7\]\]": changed(encode(WRISTS, TIPS), 7, np.nan),
    "zero or parallel": changed(encode(WRISTS, TIPS), slice(3, 6), 0.0),
}


@pytest.mark.parametrize(("message", "pose"), BAD_POSES.items(), ids=BAD_POSES.keys())
def test_vectors_that_are_not_hands_are_refused(message, pose):
    with pytest.raises(InvalidValue, match=message):
        decode(pose)
