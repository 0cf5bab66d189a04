"""Messages to values and back: nothing is lost, and what is malformed is refused."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from armature.errors import ConfigError, InvalidValue
from armature.types import ActionChunk
from armature_ros import conversions
from armature_ros.announcements import Episode
from armature_ros.streams import StreamConfig, topics_of
from sim.tasks import SimConfig, robot_spec

SPEC = robot_spec(SimConfig())
LABELS = SPEC.action.labels


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_survive(stamp_ns: int) -> None:
    assert conversions.ns_from_time(conversions.time_from_ns(stamp_ns)) == stamp_ns


def test_image_survives_and_is_not_copied_element_by_element() -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    message = conversions.image_to_msg(pixels, 1_500_000_000, "camera")
    assert (message.height, message.width, message.step, message.encoding) == (4, 6, 18, "rgb8")
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 500_000_000)
    assert np.array_equal(conversions.image_from_msg(message), pixels)


def test_image_that_is_a_view_survives() -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)[::-1, ::2]
    assert np.array_equal(conversions.image_from_msg(conversions.image_to_msg(pixels, 0, "")), pixels)


def test_image_rows_may_be_padded_and_bgr() -> None:
    message = Image(height=2, width=1, encoding="bgr8", step=4, data=[1, 2, 3, 0, 4, 5, 6, 0])
    assert conversions.image_from_msg(message).tolist() == [[[3, 2, 1]], [[6, 5, 4]]]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Image(height=1, width=1, encoding="mono8", step=1, data=[0]), "'mono8'. Valid: rgb8, bgr8"),
        (Image(height=2, width=1, encoding="rgb8", step=3, data=[0, 0, 0]), "holds 3 bytes"),
    ],
)
def test_malformed_image_is_refused(message: Image, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        conversions.image_from_msg(message)


def test_joints_are_selected_by_name() -> None:
    message = JointState(name=["b", "other", "a"], position=[2.0, 9.0, 1.0])
    assert conversions.positions_from_joint_state(message, ("a", "b")).tolist() == [1.0, 2.0]


def test_missing_joint_is_named() -> None:
    with pytest.raises(InvalidValue, match="lacks panda_joint2; it has panda_joint1"):
        conversions.positions_from_joint_state(
            JointState(name=["panda_joint1"], position=[0.0]), ("panda_joint1", "panda_joint2")
        )


def test_measured_tcp_displacement_is_zero() -> None:
    spec = robot_spec(SimConfig(action="tcp_delta")).action
    measured = conversions.measured_from_joint_state(JointState(name=["panda_gripper"], position=[0.04]), spec)
    assert measured.tolist() == [0, 0, 0, 0, 0, 0, 0.04]


def test_every_observation_survives() -> None:
    rng = np.random.default_rng(0)
    values = {array.name: array.sample(rng) for array in SPEC.observation}
    for name in ("tcp/pose", "object/pose"):
        values[name][3:] /= np.linalg.norm(values[name][3:])
    streams = {
        "camera/scene": StreamConfig("scene", "image"),
        "camera/wrist": StreamConfig("wrist", "image"),
        "joint/position": StreamConfig("joint_states", "joint_state"),
        "gripper/opening": StreamConfig("joint_states", "joint_state"),
        "tcp/pose": StreamConfig("tcp_pose", "pose"),
        "object/pose": StreamConfig("object_pose", "pose"),
    }
    topics = topics_of(SPEC.observation.arrays, streams)
    assert [(topic.topic, topic.message_type) for topic in topics] == [
        ("scene", Image),
        ("wrist", Image),
        ("joint_states", JointState),
        ("tcp_pose", PoseStamped),
        ("object_pose", PoseStamped),
    ]
    back = {}
    for topic in topics:
        message = conversions.values_to_msg(topic.message_type, topic.arrays, values, 7)
        back |= conversions.values_from_msg(message, topic.arrays)
    SPEC.observation.validate(back)
    assert all(np.array_equal(back[name], values[name]) for name in values)


def test_array_without_a_topic_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown stream of array 'camera/scene'"):
        topics_of(SPEC.observation.arrays, {})


def test_chunk_survives() -> None:
    actions = np.random.default_rng(0).normal(size=(16, len(LABELS)))
    chunk = ActionChunk(5_000_000_001, 5_100_000_001, 50_000_000, actions, "diffusion-abc")
    message = conversions.chunk_to_msg(chunk, LABELS)
    assert message.joint_names == list(LABELS)
    assert message.header.frame_id == "diffusion-abc"
    assert (message.points[2].time_from_start.sec, message.points[2].time_from_start.nanosec) == (0, 200_000_000)
    back = conversions.chunk_from_msg(message, SPEC.action)
    assert (back.stamp_ns, back.start_ns, back.period_ns, back.policy_id) == (
        5_000_000_001,
        5_100_000_001,
        50_000_000,
        "diffusion-abc",
    )
    assert np.array_equal(back.actions, actions)


def test_chunk_of_one_step_has_the_period_of_the_robot() -> None:
    chunk = ActionChunk(0, 0, 50_000_000, np.zeros((1, len(LABELS))))
    assert conversions.chunk_from_msg(conversions.chunk_to_msg(chunk, LABELS), SPEC.action).period_ns == 50_000_000


def test_chunk_joints_are_selected_by_name() -> None:
    names = list(reversed(LABELS))
    message = JointTrajectory(joint_names=names, points=[JointTrajectoryPoint(positions=[float(i) for i in range(8)])])
    assert conversions.chunk_from_msg(message, SPEC.action).actions.tolist() == [[7, 6, 5, 4, 3, 2, 1, 0]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_chunk_that_is_not_finite_is_refused(value: float) -> None:
    actions = np.zeros((4, len(LABELS)))
    actions[2, 3] = value
    message = conversions.chunk_to_msg(ActionChunk(0, 0, 50_000_000, actions), LABELS)
    with pytest.raises(InvalidValue, match=r"not finite at steps \[2\]"):
        conversions.chunk_from_msg(message, SPEC.action)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (JointTrajectory(joint_names=["x"], points=[JointTrajectoryPoint(positions=[0.0])]), "names \\['x'\\]"),
        (JointTrajectory(joint_names=list(LABELS)), r"points have \[\] positions, expected 8"),
        (JointTrajectory(joint_names=list(LABELS), points=[JointTrajectoryPoint(positions=[0.0])]), r"\[1\] positions"),
    ],
)
def test_malformed_chunk_is_refused(message: JointTrajectory, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        conversions.chunk_from_msg(message, SPEC.action)


def test_uneven_chunk_is_refused() -> None:
    message = conversions.chunk_to_msg(ActionChunk(0, 0, 50_000_000, np.zeros((3, 8))), LABELS)
    message.points[2].time_from_start.nanosec = 0
    with pytest.raises(InvalidValue, match="uneven"):
        conversions.chunk_from_msg(message, SPEC.action)


def test_command_survives_to_the_last_bit() -> None:
    action = np.random.default_rng(0).normal(size=8)
    message = conversions.action_to_msg(action, LABELS, 3, 50_000_000)
    assert np.array_equal(conversions.action_from_msg(message, LABELS), action)
    assert message.points[0].time_from_start.nanosec == 50_000_000


def test_episode_survives() -> None:
    episode = Episode(3, 1003, 12_000_000_000)
    assert Episode.from_msg(episode.to_msg()) == episode
