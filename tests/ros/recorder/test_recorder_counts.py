"""Every message that was published is committed or counted as dropped, by reason, live and in the dataset."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState

from armature_ros.conversions import header_of, image_to_msg, joint_state_to_msg
from armature_ros.qos import stream_qos

IMAGE, JOINT_STATES = "camera/scene/image_raw", "joint_states"
BEST_EFFORT: QoSProfile = stream_qos(10, reliable=False, latched=False)
STREAMS = ("camera/scene", "joint/position", "action/executed", "action/requested")
STREAM_PARAMETERS = {
    "camera/scene": {"topic": IMAGE, "message": "image"},
    "joint/position": {"topic": JOINT_STATES, "message": "joint_state"},
}
MS = 1_000_000

pytestmark = pytest.mark.ros


def test_clean_episode_holds_every_stamp_and_byte_and_the_counts_are_live(robot, start_recorder: Callable) -> None:
    recorder = start_recorder(commit_period_s=0.2, prompt="reach", operator="Ada")
    robot.advertise_all()
    robot.flow()
    begin_ns = robot.start()["begin_ns"]
    robot.diagnostics.clear()
    robot.wait(lambda: int(robot.diagnostics.get("joint/position", ("", "", {"committed": "0"}))[2]["committed"]) > 100)
    level, message, values = robot.diagnostics["joint/position"]
    assert (level, message, values["dropped"]) == ("ok", "ok", "0")
    assert int(values["received"]) >= int(values["recorded"]) >= int(values["committed"])
    assert robot.diagnostics["episode"][2] | {"error": ""} == {"episode": "0", "recording": "True", "error": ""}
    robot.hold()
    ended = robot.end()

    (episode,) = recorder.dataset.episodes
    assert (episode.outcome, episode.metadata["prompt"], episode.metadata["operator"]) == ("success", "reach", "Ada")
    for stream in STREAMS:
        published = robot.published(stream, begin_ns)
        stamps_ns, received_ns = episode.read_stamps(stream)
        assert stamps_ns.tolist() == published
        assert (np.diff(received_ns) >= 0).all()
        counts = ended["counts"][stream]
        assert counts["received"] == counts["recorded"] == counts["committed"] == len(published)
        assert (counts["dropped"], counts["repeated"], counts["late"]) == ({}, 0, 0)
    stamps_ns, _, images = episode.read("camera/scene")
    noise = np.random.default_rng(0).integers(0, 256, (8, *images.shape[1:]), dtype=np.uint8)
    assert np.array_equal(images, noise[stamps_ns % 8])


def test_what_is_not_recorded_is_counted_by_reason(robot, start_recorder: Callable) -> None:
    scene = {**STREAM_PARAMETERS["camera/scene"], "frame_id": "camera"}
    recorder = start_recorder(streams={**STREAM_PARAMETERS, "camera/scene": scene})
    robot.advertise_all()
    robot.flow()
    begin_ns = robot.start()["begin_ns"]
    robot.spin_for(0.5)
    robot.hold()
    last_ns = robot.sent[JOINT_STATES][-1]
    image_ns = robot.sent[IMAGE][-1]
    states = {last_ns: 2, last_ns - 1 * MS: 1, last_ns + 1 * MS: 0}
    for stamp_ns in states:
        robot.send(JOINT_STATES, joint_state_to_msg(("joint1", "joint2"), np.zeros(2), stamp_ns), stamp_ns)
    nobody = JointState(header=header_of(last_ns + 2 * MS), name=["joint1"], position=[0.0])
    robot.send(JOINT_STATES, nobody, last_ns + 2 * MS)
    unknown = joint_state_to_msg(("joint1", "joint2"), np.array([np.nan, 0.0]), last_ns + 3 * MS)
    robot.send(JOINT_STATES, unknown, last_ns + 3 * MS)
    grey = Image(header=header_of(image_ns + 1 * MS), height=120, width=160, encoding="mono8", step=160)
    robot.send(IMAGE, grey, image_ns + 1 * MS)
    small = image_to_msg(np.zeros((60, 80, 3), np.uint8), image_ns + 2 * MS, "camera")
    robot.send(IMAGE, small, image_ns + 2 * MS)
    other = image_to_msg(np.zeros((120, 160, 3), np.uint8), image_ns + 3 * MS, "another_camera")
    robot.send(IMAGE, other, image_ns + 3 * MS)
    robot.spin_for(1.5)
    assert robot.diagnostics["joint/position"][0] == "warn"
    assert "2 malformed" in robot.diagnostics["joint/position"][1]
    counts = robot.end()["counts"]
    reasons = {"repeated": 1, "out_of_order": 1, "malformed": 2}
    assert (counts["joint/position"]["dropped"], counts["joint/position"]["repeated"]) == (reasons, 1)
    assert counts["camera/scene"]["dropped"] == {"malformed": 3}
    for stream in STREAMS:
        count = counts[stream]
        published = len(robot.published(stream, begin_ns))
        assert published == count["received"] == count["committed"] + sum(count["dropped"].values())
        assert recorder.dataset.episodes[0].length(stream) == count["committed"]


def test_gap_on_the_way_is_counted(robot, start_recorder: Callable) -> None:
    """A recorder that gets no time to run: what best effort then loses is known by the gap in the sequence."""
    recorder = start_recorder()
    robot.advertise_all(camera=BEST_EFFORT)
    robot.flow()
    begin_ns = robot.start()["begin_ns"]
    robot.spin_for(0.5)
    recorder.process.send_signal(signal.SIGSTOP)
    robot.hold()
    for _ in range(3000):
        stamp_ns = robot.now_ns()
        robot.send(IMAGE, Image(header=header_of(stamp_ns)), stamp_ns)
    time.sleep(0.2)
    recorder.process.send_signal(signal.SIGCONT)
    robot.flow()
    robot.spin_for(1.0)
    robot.hold()
    count = robot.end()["counts"]["camera/scene"]
    assert count["dropped"]["transport"] > 0
    published = len(robot.published("camera/scene", begin_ns))
    assert published == count["committed"] + sum(count["dropped"].values())


def test_late_samples_are_counted_and_recorded(robot, start_recorder: Callable) -> None:
    start_recorder(late_after_s=0.2)
    robot.advertise_all()
    robot.flow()
    robot.start()
    robot.spin_for(1.0)
    robot.hold()
    # After what has been sent, so in order, but long ago.
    stamp_ns = robot.sent[JOINT_STATES][-1] + 1
    robot.spin_for(0.4)
    robot.send(JOINT_STATES, joint_state_to_msg(("joint1", "joint2"), np.zeros(2), stamp_ns), stamp_ns)
    counts = robot.end()["counts"]
    assert (counts["joint/position"]["late"], counts["joint/position"]["dropped"]) == (1, {})
    assert counts["camera/scene"]["late"] == 0


@pytest.mark.fault(row=46)
def test_full_queue_drops_and_counts_and_never_blocks(robot, start_recorder: Callable) -> None:
    """The smallest queue, and images in one burst: all of them are accounted for."""
    recorder = start_recorder(queue_mb=1)
    robot.advertise_all()
    robot.advertise(IMAGE, qos=stream_qos(1000, reliable=True, latched=False))
    robot.flow()
    begin_ns = robot.start()["begin_ns"]
    robot.spin_for(0.3)
    robot.hold()
    frame = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    message = Image(height=120, width=160, encoding="rgb8", step=480)
    message.data.frombytes(frame.tobytes())
    for _ in range(400):
        stamp_ns = robot.now_ns()
        message.header = header_of(stamp_ns)
        robot.send(IMAGE, message, stamp_ns)
    robot.spin_for(0.5)
    count = robot.end()["counts"]["camera/scene"]
    published = len(robot.published("camera/scene", begin_ns))
    assert published == count["committed"] + sum(count["dropped"].values())
    assert set(count["dropped"]) <= {"queue_full", "transport"}
    assert recorder.dataset.episodes[0].length("camera/scene") == count["committed"]


def test_takeover_and_reward_are_recorded_where_published(robot, start_recorder: Callable) -> None:
    recorder = start_recorder()
    robot.advertise_all()
    robot.advertise("control/takeover")
    robot.advertise("reward")
    robot.flow()
    begin_ns = robot.start()["begin_ns"]
    robot.spin_for(0.5)
    robot.hold()
    stamp_ns = robot.now_ns()
    robot.send("control/takeover", joint_state_to_msg(("engaged",), np.array([0.5]), stamp_ns), stamp_ns)
    robot.send("reward", joint_state_to_msg(("reward",), np.array([-2.5]), stamp_ns), stamp_ns)
    counts = robot.end()["counts"]
    assert counts["control/takeover"]["dropped"] == {"malformed": 1}
    (episode,) = recorder.dataset.episodes
    stamps_ns, _, engaged = episode.read("control/takeover")
    assert stamps_ns.tolist() == robot.published("control/takeover", begin_ns)[:-1]
    assert engaged[:, 0].tolist() == [stamp // MS % 2 for stamp in stamps_ns]
    assert engaged.dtype == np.uint8
    stamps_ns, _, rewards = episode.read("reward")
    assert stamps_ns.tolist() == robot.published("reward", begin_ns)
    assert rewards[-1] == -2.5


def test_encodings_are_those_of_the_parameters(robot, start_recorder: Callable) -> None:
    recorder = start_recorder(encodings={"camera/scene": "jpeg"})
    robot.advertise_all()
    robot.flow()
    robot.start()
    robot.spin_for(0.5)
    robot.end()
    assert dict(recorder.dataset.encodings) == {"camera/scene": "jpeg"}
    assert recorder.dataset.episodes[0].read_encoded("camera/scene", 0).startswith(b"\xff\xd8")
