"""What a recorder reads is checked as what a policy reads: malformed messages are refused by the same words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image, JointState

from armature.errors import InvalidValue
from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from armature_ros.conversions import action_to_msg, image_to_msg, joint_state_to_msg, jpeg_to_msg, pose_to_msg
from armature_ros.recorded_topics import RecordedTopic, recorded_topics
from armature_ros.streams import StreamConfig, topics_of

SCENE = ArraySpec("camera/scene", (48, 64, 3), "uint8", "rgb8")
WRIST = ArraySpec("camera/wrist", (48, 64, 3), "uint8", "rgb8")
JOINTS = ArraySpec("joint/position", (2,), "float32", "rad", labels=("joint1", "joint2"))
POSE = ArraySpec("tcp/pose", (7,), "float32", "m", "base")
SPEC = RobotSpec(
    "small", ObservationSpec((SCENE, WRIST, JOINTS, POSE), 20.0), ActionSpec("joint_position", (JOINTS,), 20.0)
)
STREAMS = {
    "camera/scene": StreamConfig("scene", "image", frame_id="scene_frame"),
    "camera/wrist": StreamConfig("wrist", "compressed_image", frame_id="wrist_frame"),
    "joint/position": StreamConfig("joint_states", "joint_state"),
    "tcp/pose": StreamConfig("tcp_pose", "pose"),
}
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def cut_jpeg() -> CompressedImage:
    message = jpeg_to_msg(PIXELS, 0, "wrist_frame", 90)
    message.data = message.data[: len(message.data) // 2]
    return message


def short_image() -> Image:
    message = image_to_msg(PIXELS, 0, "scene_frame")
    message.data = message.data[:-1]
    return message


MALFORMED: dict[str, tuple[str, Callable[[], Any]]] = {
    "image of another camera": ("scene", lambda: image_to_msg(PIXELS, 0, "wrist_frame")),
    "image of another size": ("scene", lambda: image_to_msg(PIXELS[:24], 0, "scene_frame")),
    "image that lacks a byte": ("scene", short_image),
    "image of no pixels": ("scene", lambda: Image(encoding="rgb8")),
    "depth image": ("scene", lambda: Image(height=48, width=64, encoding="16UC1", step=128)),
    "JPEG of another camera": ("wrist", lambda: jpeg_to_msg(PIXELS, 0, "scene_frame", 90)),
    "JPEG of another size": ("wrist", lambda: jpeg_to_msg(PIXELS[:24], 0, "wrist_frame", 90)),
    "JPEG that was cut": ("wrist", cut_jpeg),
    "no JPEG": ("wrist", lambda: CompressedImage(data=b"PNG", format="png")),
    "joint that is not finite": ("joint_states", lambda: joint_state_to_msg(JOINTS.labels, np.array([0, np.nan]), 0)),
    "joint beyond float32": ("joint_states", lambda: joint_state_to_msg(JOINTS.labels, np.array([0, 1e300]), 0)),
    "joint that is missing": ("joint_states", lambda: joint_state_to_msg(("joint1",), np.zeros(1), 0)),
    "joint named twice": ("joint_states", lambda: joint_state_to_msg(("joint1",) * 2, np.zeros(2), 0)),
    "no positions": ("joint_states", JointState),
    "no rotation": ("tcp_pose", lambda: pose_to_msg(np.zeros(7), 0, "base")),
    "pose that is not finite": ("tcp_pose", lambda: pose_to_msg(np.array([np.inf, 0, 0, 0, 0, 0, 1]), 0, "base")),
}


def topic(name: str) -> RecordedTopic:
    return next(topic for topic in recorded_topics(SPEC, STREAMS) if topic.name == name)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("name", MALFORMED)
def test_what_a_policy_refuses_a_recorder_refuses_by_the_same_words(name: str) -> None:
    topic_name, make = MALFORMED[name]
    with pytest.raises(InvalidValue) as of_recorder:
        topic(topic_name).read(make())
    (live,) = [found for found in topics_of(SPEC.observation.arrays, STREAMS) if found.topic == topic_name]
    with pytest.raises(InvalidValue) as of_policy:
        live.read(make())
    assert str(of_recorder.value) == str(of_policy.value)


def test_what_is_whole_is_read_to_the_last_bit() -> None:
    np.testing.assert_array_equal(topic("scene").read(image_to_msg(PIXELS, 0, "scene_frame"))["camera/scene"], PIXELS)
    flat = np.full_like(PIXELS, 100)
    read = topic("wrist").read(jpeg_to_msg(flat, 0, "wrist_frame", 90))["camera/wrist"]
    assert np.abs(read.astype(int) - 100).max() <= 2
    joints = topic("joint_states").read(joint_state_to_msg(("joint2", "joint1"), np.array([2.0, 1.0]), 0))
    assert joints["joint/position"].tolist() == [1.0, 2.0]


def test_compressed_images_wait_in_a_queue_of_images() -> None:
    assert topic("wrist").depth == topic("scene").depth < topic("joint_states").depth


@pytest.mark.parametrize("name", ["control/executed", "control/requested"])
def test_an_action_of_another_kind_is_refused_naming_both(name: str) -> None:
    displacement = action_to_msg(np.zeros(6), ("dx", "dy", "dz", "rx", "ry", "rz"), 0, 50_000_000)
    with pytest.raises(InvalidValue, match=r"kind joint_position .*names \['dx', .*expected \['joint1', 'joint2'\]"):
        topic(name).read(displacement)
