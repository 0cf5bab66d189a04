"""`~/start` refuses while anything that must be recorded would not be, naming it; QoS follows the publishers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from armature_ros.conversions import action_to_msg, header_of
from armature_ros.qos import stream_qos

IMAGE, JOINT_STATES = "camera/scene/image_raw", "joint_states"
BEST_EFFORT: QoSProfile = stream_qos(10, reliable=False, latched=False)
LATCHED: QoSProfile = stream_qos(100, reliable=True, latched=True)

pytestmark = pytest.mark.ros


def test_missing_topics_are_refused_by_name_and_optional_ones_are_not_missed(robot, start_recorder: Callable) -> None:
    start_recorder()
    robot.until_refused(
        f"{IMAGE}: nobody publishes it", f"{JOINT_STATES}: nobody publishes it", "control/executed: nobody publishes it"
    )
    for topic in (IMAGE, "control/executed", "control/requested"):
        robot.advertise(topic)
    robot.flow()
    alone = f"{JOINT_STATES}: nobody publishes it"
    robot.wait(lambda: robot.call("start") == (False, alone))
    robot.advertise(JOINT_STATES)
    assert robot.start()["episode"] == 0


def test_silent_topic_is_refused_as_stale(robot, start_recorder: Callable) -> None:
    start_recorder(stale_after_s=0.5)
    robot.advertise_all()
    robot.until_refused(f"{IMAGE}: stale: published by /robot (reliable, volatile), but no message has arrived")
    robot.flow()
    robot.start()
    robot.end()
    robot.hold()
    robot.spin_for(0.6)
    robot.until_refused(f"{IMAGE}: stale: published by /robot (reliable, volatile), no message for ")
    robot.flow()
    assert robot.start()["episode"] == 1


def test_topic_stamped_by_another_clock_is_refused(robot, start_recorder: Callable) -> None:
    start_recorder()
    robot.advertise_all()
    old_ns = robot.now_ns() - 3600 * 10**9
    words = f"{JOINT_STATES}: stale: published by /robot (reliable, volatile), its newest message is stamped 360"

    def is_refused() -> bool:
        robot.send(JOINT_STATES, JointState(header=header_of(old_ns)), old_ns)
        return words in robot.call("start")[1]

    robot.wait(is_refused)


def test_actions_of_another_kind_are_refused_naming_both(robot, start_recorder: Callable) -> None:
    """A recorder that was given the contract of a policy that displaces the tool, or the other way round."""
    start_recorder(stale_after_s=60.0)
    robot.advertise_all()
    robot.until_refused("control/executed: stale: published by")
    stamp_ns = robot.now_ns()
    robot.send("control/executed", action_to_msg(np.zeros(2), ("dx", "dy"), stamp_ns, 50_000_000), stamp_ns)
    robot.until_refused(
        "control/executed: what /robot (reliable, volatile) publishes cannot be recorded: no action of the kind "
        "joint_position that this robot takes: trajectory names ['dx', 'dy'], expected ['joint1', 'joint2']"
    )
    robot.flow()
    robot.start()


def test_topic_of_another_type_is_refused_naming_both(robot, start_recorder: Callable) -> None:
    start_recorder()
    robot.advertise_all()
    robot.advertise(IMAGE, message_type=JointState)
    robot.until_refused(f"{IMAGE}: /robot publishes sensor_msgs/msg/JointState, expected sensor_msgs/msg/Image")


@pytest.mark.fault(row=28)
def test_incompatible_qos_is_refused_naming_both_ends(robot, start_recorder: Callable) -> None:
    start_recorder(reliability="reliable")
    robot.advertise_all(camera=BEST_EFFORT)
    robot.flow()
    robot.until_refused(
        f"{IMAGE}: incompatible QoS: /robot offers best effort, volatile; requested is reliable, volatile"
    )
    robot.advertise(IMAGE)
    robot.start()


@pytest.mark.parametrize(
    ("qos", "text"), [(BEST_EFFORT, "best effort, volatile"), (LATCHED, "reliable, transient local")]
)
def test_request_follows_the_offer(robot, start_recorder: Callable, qos: QoSProfile, text: str) -> None:
    start_recorder()
    robot.advertise_all(camera=qos)
    robot.flow()
    begin_ns = robot.start()["begin_ns"]
    robot.spin_for(1.2)
    robot.hold()
    counts = robot.end()["counts"]["camera/scene"]
    assert counts["committed"] == len(robot.published("camera/scene", begin_ns)) > 10
    robot.wait(lambda: "camera/scene" in robot.diagnostics)
    assert robot.diagnostics["camera/scene"][2]["requested_qos"] == text


def test_publisher_that_comes_back_offering_less_is_heard_again(robot, start_recorder: Callable) -> None:
    """Even during an episode: there is nobody else to lose."""
    recorder = start_recorder()
    robot.advertise_all()
    robot.flow()
    begin_ns = robot.start()["begin_ns"]
    robot.spin_for(0.5)
    robot.advertise(IMAGE, qos=BEST_EFFORT)
    changed_ns = robot.now_ns()
    robot.spin_for(2.0)
    robot.hold()
    robot.end()
    (episode,) = recorder.dataset.episodes
    stamps_ns, _ = episode.read_stamps("camera/scene")
    assert (stamps_ns > changed_ns).sum() > 10
    assert set(stamps_ns) <= set(robot.published("camera/scene", begin_ns))
    assert episode.length("joint/position") == len(robot.published("joint/position", begin_ns))


def test_second_publisher_that_offers_less_is_named_and_does_not_interrupt(robot, start_recorder: Callable) -> None:
    start_recorder()
    robot.advertise_all()
    robot.flow()
    begin_ns = robot.start()["begin_ns"]
    robot.node.create_publisher(JointState, JOINT_STATES, BEST_EFFORT)
    robot.wait(lambda: "QoS" in robot.diagnostics.get("joint/position", ("", ""))[1])
    level, message, values = robot.diagnostics["joint/position"]
    assert level == "warn"
    assert message == "incompatible QoS: /robot offers best effort, volatile; requested is reliable, volatile"
    assert values["requested_qos"] == "reliable, volatile"
    robot.hold()
    counts = robot.end()["counts"]["joint/position"]
    assert counts["committed"] == len(robot.published("joint/position", begin_ns))


def test_unknown_parameter_and_impossible_values_are_named(start_recorder: Callable) -> None:
    with pytest.raises(AssertionError, match="unknown key of RecorderNodeConfig 'commit_period'"):
        start_recorder(commit_period=0.5)
    with pytest.raises(AssertionError, match="stale_after_s is -1, must be above 0"):
        start_recorder(stale_after_s=-1.0)
    with pytest.raises(AssertionError, match=r"value of encodings\.camera/scene: 'png'"):
        start_recorder(encodings={"camera/scene": "png"})
