"""Messages that lie about themselves: refused whole, before memory is taken for what they claim."""

from __future__ import annotations

import itertools
import tracemalloc
from array import array

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from hypothesis import example, given
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image, JointState

from armature.errors import ConfigError, InvalidValue
from armature.spec import ArraySpec
from armature_ros.conversions import (
    header_of,
    image_from_msg,
    joint_state_to_msg,
    jpeg_to_msg,
    measured_from_joint_state,
    pixels_from_jpeg,
    pose_from_msg,
    positions_from_joint_state,
)
from armature_ros.streams import StreamConfig, TopicArrays, live_checks, topics_of
from sim.tasks import SimConfig, robot_spec

HEIGHT_PX, WIDTH_PX = 48, 64
SHAPE = (HEIGHT_PX, WIDTH_PX, 3)
SPEC = robot_spec(SimConfig())
LABELS = SPEC.action.labels
CAMERA = ArraySpec("camera/scene", SHAPE, "uint8", "rgb8")
SMALL_BYTES = 100_000


def picture() -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    return np.stack([rows * 5, columns * 3, rows + columns], axis=2).astype(np.uint8)


def jpeg(**changes: object) -> CompressedImage:
    message = jpeg_to_msg(picture(), 0, "scene", 95)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def jpeg_of(data: bytes) -> CompressedImage:
    return jpeg(data=array("B", data))


JPEG = jpeg().data.tobytes()
SIZE_AT = JPEG.index(b"\xff\xc0") + 5
SCAN_AT = JPEG.index(b"\xff\xda")


def memory_taken(refused: object, message: object) -> int:
    """Return the most bytes that refusing a message took at any time."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidValue):
            refused(message)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


sizes = st.sampled_from([0, 1, 2, 3, 4, 65_535, 65_536, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)


@pytest.mark.fault(row=24)
@example("rgb8", 65_535, 65_535, 3 * 65_535, 0, 10)
@example("rgb8", 0, 0, 0, 0, 0)
@example("bgr8", 2, 3, 10, 1, 20)
@example("rgb8", 2, 3, 10, 2, 20)
@example("rgb8", 2, 3, 10, 0, 21)
@example("rgb8", 2, 3, 8, 0, 16)
@example("rgb8", 2**32 - 1, 1, 0, 0, 0)
@given(
    encoding=st.sampled_from(["rgb8", "bgr8", "mono8", "rgba8", "16UC1", "bayer_rggb8", "RGB8", ""]) | st.text(),
    height=sizes,
    width=sizes,
    step=sizes,
    is_bigendian=st.integers(0, 255),
    size=st.integers(0, 64),
)
def test_an_image_is_taken_exactly_if_all_its_fields_agree(encoding, height, width, step, is_bigendian, size) -> None:
    data = array("B", bytes(k % 256 for k in range(size)))
    message = Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=is_bigendian, data=data)
    agrees = height > 0 and width > 0 and step >= 3 * width and height * step == size
    if encoding not in ("rgb8", "bgr8") or is_bigendian > 1 or not agrees:
        assert memory_taken(image_from_msg, message) < SMALL_BYTES
        return
    order = 1 if encoding == "rgb8" else -1
    pixels = image_from_msg(message)
    assert pixels.shape == (height, width, 3)
    assert pixels[-1, -1, ::order].tolist() == [((height - 1) * step + 3 * (width - 1) + k) % 256 for k in range(3)]


@pytest.mark.fault(row=24)
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"encoding": "16UC1"}, "image encoding '16UC1'. Valid: rgb8, bgr8"),
        ({"is_bigendian": 7}, "is_bigendian is 7. Valid: 0, 1"),
        ({"height": 0, "width": 0}, "image of 0x0 pixels, valid are 1 to 16777216 in all"),
        ({"height": 65_535, "width": 65_535}, "image of 65535x65535 pixels, valid are 1 to 16777216"),
        ({"height": 4096, "width": 4097}, "image of 4097x4096 pixels"),
        ({"step": 5}, "image of 2x2, step 5, holds 12 bytes"),
        ({"step": 7}, "image of 2x2, step 7, holds 12 bytes"),
        ({"height": 1}, "image of 2x1, step 6, holds 12 bytes"),
    ],
)
def test_the_field_of_an_image_that_does_not_fit_is_named(fields, words) -> None:
    sound = {"height": 2, "width": 2, "step": 6, "encoding": "rgb8", "data": array("B", bytes(12))}
    assert image_from_msg(Image(**sound)).shape == (2, 2, 3)
    with pytest.raises(InvalidValue, match=words):
        image_from_msg(Image(**(sound | fields)))


def test_a_jpeg_survives_nearly_and_in_the_right_order_of_colours() -> None:
    pixels = pixels_from_jpeg(jpeg(), SHAPE)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - picture()).mean() < 3


def test_the_orientation_that_a_jpeg_carries_is_not_applied() -> None:
    # A TIFF header and one entry: orientation (0x0112), a short, 6: turned by 90 degrees.
    entry = bytes.fromhex("0112 0003 00000001 0006 0000".replace(" ", ""))
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + b"\0\x01" + entry + bytes(4)
    turned = JPEG[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + JPEG[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (WIDTH_PX, HEIGHT_PX, 3)
    assert np.array_equal(pixels_from_jpeg(jpeg_of(turned), SHAPE), pixels_from_jpeg(jpeg(), SHAPE))


@pytest.mark.fault(row=25)
def test_every_jpeg_that_is_cut_is_refused() -> None:
    for length in range(len(JPEG)):
        with pytest.raises(InvalidValue, match=rf"of {length} bytes is no whole JPEG\. Valid: jpeg"):
            pixels_from_jpeg(jpeg_of(JPEG[:length]), SHAPE)


@pytest.mark.fault(row=25)
@pytest.mark.parametrize(
    ("height", "width", "words"),
    [
        (65_535, 65_535, "image of 65535x65535 pixels, valid are 1 to 16777216 in all"),
        (0, 64, "image of 64x0 pixels"),
        (4096, 4096, r"compressed image is \(4096, 4096, 3\), expected \(48, 64, 3\)"),
        (64, 48, r"compressed image is \(64, 48, 3\), expected \(48, 64, 3\)"),
    ],
)
def test_a_jpeg_that_claims_another_size_is_refused_before_it_is_decoded(height, width, words) -> None:
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    bomb = jpeg_of(JPEG[:SIZE_AT] + size + JPEG[SIZE_AT + 4 :])
    with pytest.raises(InvalidValue, match=words):
        pixels_from_jpeg(bomb, SHAPE)
    assert memory_taken(lambda message: pixels_from_jpeg(message, SHAPE), bomb) < SMALL_BYTES


@pytest.mark.fault(row=25)
def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded() -> None:
    scan = JPEG[SCAN_AT:-2]
    with pytest.raises(InvalidValue, match="has 5000 scans, at most 32 are decoded"):
        pixels_from_jpeg(jpeg_of(JPEG[:SCAN_AT] + 5000 * scan[:20] + JPEG[-2:]), SHAPE)


@pytest.mark.fault(row=25)
def test_a_progressive_jpeg_is_read() -> None:
    bgr = cv2.cvtColor(picture(), cv2.COLOR_RGB2BGR)
    progressive = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert progressive.count(b"\xff\xda") == 10
    assert pixels_from_jpeg(jpeg_of(progressive), SHAPE).shape == SHAPE


@pytest.mark.fault(row=25)
@pytest.mark.parametrize("ending", [".png", ".webp", ".bmp"])
def test_what_is_no_jpeg_is_refused_whatever_it_calls_itself(ending) -> None:
    other = cv2.imencode(ending, picture())[1].tobytes()
    with pytest.raises(InvalidValue, match=r"'jpeg' of [0-9]+ bytes is no whole JPEG"):
        pixels_from_jpeg(jpeg(data=array("B", other), format="jpeg"), SHAPE)


@pytest.mark.fault(row=25)
@given(st.lists(st.tuples(st.integers(0, len(JPEG) - 1), st.integers(0, 255)), max_size=8))
def test_a_damaged_jpeg_is_refused_or_gives_an_image_of_the_right_size(changes) -> None:
    data = bytearray(JPEG)
    for place, value in changes:
        data[place] = value
    try:
        pixels = pixels_from_jpeg(jpeg_of(bytes(data)), SHAPE)
    except InvalidValue:
        return
    assert (pixels.shape, pixels.dtype) == (SHAPE, np.uint8)


@pytest.mark.fault(row=25)
def test_a_jpeg_stream_is_read_like_any_other() -> None:
    (topic,) = topics_of((CAMERA,), {"camera/scene": StreamConfig("scene/compressed", "compressed_image", "scene")})
    assert topic.message_type is CompressedImage
    assert topic.read(jpeg())["camera/scene"].shape == SHAPE


@pytest.mark.fault(row=26)
def test_swapped_cameras_are_told_apart_by_their_frames() -> None:
    wrist = TopicArrays("camera/wrist/image_raw", Image, (CAMERA,), frame_id="camera_wrist_optical_frame")
    rows = array("B", picture().tobytes())
    sound = {"height": HEIGHT_PX, "width": WIDTH_PX, "step": 3 * WIDTH_PX, "encoding": "rgb8", "data": rows}
    assert wrist.read(Image(header=header_of(1, "camera_wrist_optical_frame"), **sound))["camera/scene"].shape == SHAPE
    with pytest.raises(InvalidValue, match="is 'camera_scene_optical_frame', expected 'camera_wrist_optical_frame'"):
        wrist.read(Image(header=header_of(1, "camera_scene_optical_frame"), **sound))


@pytest.mark.fault(row=26)
def test_a_camera_of_another_size_is_refused() -> None:
    topic = TopicArrays("scene", Image, (CAMERA,))
    half = Image(height=24, width=32, step=96, encoding="rgb8", data=array("B", bytes(24 * 96)))
    with pytest.raises(InvalidValue, match=r"camera/scene: shape \(24, 32, 3\), expected \(48, 64, 3\)"):
        topic.read(half)


@pytest.mark.fault(row=7)
@given(st.permutations(range(len(LABELS))), st.lists(st.integers(0, len(LABELS)), max_size=4))
def test_joints_are_taken_by_name_in_any_order_and_among_others(order, places) -> None:
    names, positions = [LABELS[k] for k in order], [float(k) for k in order]
    for number, place in enumerate(places):
        names.insert(place, f"other{number}")
        positions.insert(place, 100.0)
    message = JointState(name=names, position=positions)
    assert positions_from_joint_state(message, LABELS).tolist() == list(range(len(LABELS)))
    assert measured_from_joint_state(message, SPEC.action).tolist() == list(range(len(LABELS)))


@pytest.mark.fault(row=8)
@given(st.integers(0, len(LABELS) - 1), st.integers(0, len(LABELS)))
def test_a_joint_that_is_named_twice_is_refused(which, place) -> None:
    names, positions = list(LABELS), [0.0] * len(LABELS)
    names.insert(place, LABELS[which])
    positions.insert(place, 1.0)
    with pytest.raises(InvalidValue, match=f"joint state names {LABELS[which]} more than once"):
        positions_from_joint_state(JointState(name=names, position=positions), LABELS)


@pytest.mark.fault(row=8)
@given(st.sets(st.integers(0, len(LABELS) - 1), min_size=1))
def test_joints_that_are_missing_are_named(left_out) -> None:
    there = [label for k, label in enumerate(LABELS) if k not in left_out]
    words = f"joint state lacks {', '.join(LABELS[k] for k in sorted(left_out))};"
    with pytest.raises(InvalidValue, match=words):
        positions_from_joint_state(joint_state_to_msg(there, np.zeros(len(there)), 0), LABELS)


@pytest.mark.fault(row=8)
@pytest.mark.parametrize("count", [0, 7, 9])
def test_names_and_positions_of_different_number_are_refused(count) -> None:
    with pytest.raises(InvalidValue, match=f"joint state has 8 names and {count} positions"):
        positions_from_joint_state(JointState(name=list(LABELS), position=[0.0] * count), LABELS)


@pytest.mark.fault(row=22)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_position_that_is_not_finite_costs_the_whole_message(value) -> None:
    joints = ArraySpec("joint/position", (7,), "float32", "rad", labels=LABELS[:7])
    gripper = ArraySpec("gripper/opening", (1,), "float32", "m", labels=LABELS[7:])
    positions = np.zeros(len(LABELS))
    positions[7] = value
    message = joint_state_to_msg(LABELS, positions, 0)
    with pytest.raises(InvalidValue, match=r"gripper/opening: not finite at elements \[0\]"):
        TopicArrays("joint_states", JointState, (joints, gripper)).read(message)
    with pytest.raises(InvalidValue, match=f"joint state is not finite at {LABELS[7]}"):
        measured_from_joint_state(message, SPEC.action)


@pytest.mark.fault(row=22)
def test_velocities_and_efforts_that_are_not_finite_do_not_matter_nor_do_other_joints() -> None:
    message = joint_state_to_msg([*LABELS, "other"], np.append(np.arange(8.0), np.nan), 0)
    message.velocity = message.effort = [np.nan] * 9
    assert measured_from_joint_state(message, SPEC.action).tolist() == list(range(8))


def pose(*quaternion: float) -> PoseStamped:
    message = PoseStamped()
    turn = message.pose.orientation
    turn.x, turn.y, turn.z, turn.w = quaternion
    return message


@pytest.mark.fault(row=17)
@pytest.mark.parametrize(
    "quaternion", [(0, 0, 0, 0), (0, 0, 0, 0.9989), (0, 0, 0, 1.0011), (np.nan, 0, 0, 1), (np.inf, 0, 0, 1)]
)
def test_a_pose_whose_quaternion_is_no_rotation_is_refused(quaternion) -> None:
    with pytest.raises(InvalidValue, match=r"quaternion has norm .*, expected 1 within 0\.001"):
        pose_from_msg(pose(*map(float, quaternion)))


@pytest.mark.fault(row=17)
def test_a_pose_keeps_the_sign_of_its_quaternion_through_half_a_turn() -> None:
    angles = np.linspace(np.pi - 0.05, np.pi + 0.05, 101)
    turns = [pose_from_msg(pose(0.0, 0.0, np.sin(a / 2) * 1.0005, np.cos(a / 2) * 1.0005))[3:] for a in angles]
    assert np.abs(np.linalg.norm(turns, axis=1) - 1).max() < 1e-12
    assert max(np.linalg.norm(b - a) for a, b in itertools.pairwise(turns)) < 0.001


def test_arrays_that_share_a_topic_have_to_say_the_same_about_it() -> None:
    arrays = SPEC.observation.select(("joint/position", "gripper/opening")).arrays
    joints = StreamConfig("joint_states", "joint_state", "base", 100.0)
    for other in (
        StreamConfig("joint_states", "pose", "base", 100.0),
        StreamConfig("joint_states", "joint_state", "hand", 100.0),
        StreamConfig("joint_states", "joint_state", "base"),
    ):
        with pytest.raises(ConfigError, match="gripper/opening and joint/position share topic 'joint_states', but"):
            topics_of(arrays, {"joint/position": joints, "gripper/opening": other})
    (topic,) = topics_of(arrays, {"joint/position": joints, "gripper/opening": joints})
    assert (topic.frame_id, topic.rate_hz, len(topic.arrays)) == ("base", 100.0, 2)


def test_the_checks_of_a_robot_watch_the_streams_that_may_not_stand_still() -> None:
    streams = {
        "joint/position": StreamConfig("joint_states", "joint_state"),
        "camera/wrist": StreamConfig("wrist", "image", frozen_s=0.5),
        "camera/scene": StreamConfig("scene", "image", frozen_s=1.0),
    }
    spec = SPEC.observation.select(("camera/wrist", "joint/position"))
    checks = live_checks(spec, streams, lambda: 7, future_max_s=0.02, skew_max_s=0.05)
    assert (checks.now_ns(), checks.future_max_ns, checks.skew_max_ns) == (7, 20_000_000, 50_000_000)
    assert checks.frozen_after_ns == {"camera/wrist": 500_000_000}
