"""policy_node on streams that are wrong: no chunk, and the stream is named on /diagnostics within the next second."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from armature_ros.conversions import image_to_msg, joint_state_to_msg, ns_from_time
from armature_ros.introduction import Introduction
from armature_ros.qos import reliable_qos
from sim.tasks import SimConfig, robot_spec

MS = 1_000_000
SPEC = robot_spec(SimConfig(image_size=32))
JOINTS, CAMERA = "joint/position", "camera/scene"
STREAMS = {
    CAMERA: {"topic": "scene", "message": "image", "frame_id": "scene", "rate_hz": 20.0, "frozen_s": 0.5},
    JOINTS: {"topic": "joint_states", "message": "joint_state", "rate_hz": 20.0},
}

pytestmark = pytest.mark.ros


class Robot:
    """Two drivers at 20 Hz whose next messages can be spoilt, and what policy_node makes of them."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = Node("robot", context=self._context)
        self._executor = EventsExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._images = self.node.create_publisher(Image, "scene", reliable_qos())
        self._states = self.node.create_publisher(JointState, "joint_states", reliable_qos())
        self._reset = self.node.create_client(Trigger, "policy_node/reset")
        self._introduction = Introduction(self.node, "policy_node")
        self._rng = np.random.default_rng(0)
        self.chunks: list[JointTrajectory] = []
        self.statuses: dict[str, tuple[str, dict[str, str]]] = {}
        self.spoil_image: Callable[[Image], Image | None] = lambda message: message
        self.spoil_state: Callable[[JointState], JointState | None] = lambda message: message
        self.lag_ns = {CAMERA: 0, JOINTS: 0}
        self.node.create_subscription(JointTrajectory, "chunk", self.chunks.append, reliable_qos())
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable_qos())
        self.node.create_timer(0.05, self._publish)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            _, _, stream = status.name.partition(": ")
            self.statuses[stream] = status.message, {v.key: v.value for v in status.values}

    def _publish(self) -> None:
        now_ns = self.node.get_clock().now().nanoseconds
        pixels = self._rng.integers(0, 256, (32, 32, 3), np.uint8)
        image = self.spoil_image(image_to_msg(pixels, now_ns - self.lag_ns[CAMERA], "scene"))
        labels = SPEC.observation[JOINTS].labels
        state = self.spoil_state(joint_state_to_msg(labels, np.zeros(7), now_ns - self.lag_ns[JOINTS]))
        for publisher, message in ((self._images, image), (self._states, state)):
            if message is not None:
                publisher.publish(message)

    def wait(self, is_done: Callable[[], Any], limit_s: float = 120.0) -> None:
        deadline_s = time.monotonic() + limit_s
        while not is_done():
            assert time.monotonic() < deadline_s, f"it took more than {limit_s:g} s: {self.statuses}"
            self._executor.spin_once(timeout_sec=0.05)

    def begin(self) -> None:
        """Reset the policy, as every episode does."""
        self.wait(self._introduction.ask)
        self.wait(self._reset.service_is_ready)
        answer = self._reset.call_async(Trigger.Request())
        self.wait(answer.done)
        assert answer.result().success

    def says(self, stream: str, words: str) -> bool:
        return words in self.statuses.get(stream, ("",))[0]

    def count(self, stream: str, figure: str) -> int:
        return int(self.statuses.get(stream, ("", {}))[1].get(figure, "0"))

    def expect_none(self, stream: str, words: str) -> None:
        """Wait until the fault is named, and see that no chunk answers what came since."""
        self.wait(lambda: self.says(stream, words))
        seen = len(self.chunks)
        until_s = time.monotonic() + 1.0
        self.wait(lambda: time.monotonic() > until_s)
        assert len(self.chunks) == seen
        assert self.says(stream, words)

    def close(self) -> None:
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture(scope="module")
def running(
    module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory, write_checkpoint: Callable[..., Path]
) -> Iterator[Robot]:
    """A policy_node with a small network, and the drivers of its robot."""
    folder = tmp_path_factory.mktemp("policy_node")
    (folder / "spec.json").write_text(json.dumps(SPEC.to_json()))
    checkpoint = write_checkpoint(folder / "checkpoint", SPEC, (CAMERA, JOINTS))
    robot = {"spec_file": str(folder / "spec.json")}
    # Old only after a while, so that a lag of less is told as what it is.
    parameters = {"policy": str(checkpoint), "robot": robot, "streams": STREAMS, "max_age_s": 0.3}
    file = folder / "policy_node.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    command = [sys.executable, "-m", "armature_ros.policy_node", "--ros-args", "--params-file", str(file)]
    made, process = Robot(), subprocess.Popen(command)
    try:
        made.begin()
        yield made
    finally:
        process.terminate()
        made.close()
    assert process.wait(20) == 0


@pytest.fixture
def robot(running: Robot) -> Robot:
    """All is well, also after the faults of the test before."""
    running.spoil_image = running.spoil_state = lambda message: message
    running.lag_ns = {CAMERA: 0, JOINTS: 0}
    seen = len(running.chunks)
    running.wait(lambda: len(running.chunks) >= seen + 2 and running.says("observation", "ok"))
    return running


@pytest.mark.fault(row=21)
def test_joint_states_that_stop(robot: Robot) -> None:
    robot.spoil_state = lambda _: None
    robot.expect_none("observation", "joint/position: newest sample is ")


@pytest.mark.fault(row=22)
def test_positions_that_are_not_finite(robot: Robot) -> None:
    def spoil(message: JointState) -> JointState:
        message.position[3] = float("nan")
        return message

    robot.spoil_state = spoil
    robot.expect_none("observation", "joint/position: newest sample is ")
    assert robot.count("joint_states", "malformed") > 10


@pytest.mark.fault(row=24)
def test_images_that_are_malformed(robot: Robot) -> None:
    def spoil(message: Image) -> Image:
        message.height = message.width = 65_535
        return message

    robot.spoil_image = spoil
    robot.expect_none("observation", "camera/scene: newest sample is ")
    assert robot.count("scene", "malformed") > 10


@pytest.mark.fault(row=26)
def test_a_frozen_camera(robot: Robot) -> None:
    picture = bytes(3 * 32 * 32)

    def spoil(message: Image) -> Image:
        return image_to_msg(
            np.frombuffer(picture, np.uint8).reshape(32, 32, 3), ns_from_time(message.header.stamp), "scene"
        )

    robot.spoil_image = spoil
    robot.expect_none("observation", "camera/scene: unchanged for ")
    assert robot.count("observation", "withheld by camera/scene: values do not change") > 5


@pytest.mark.fault(row=26)
def test_a_camera_of_another_frame(robot: Robot) -> None:
    def spoil(message: Image) -> Image:
        message.header.frame_id = "wrist"
        return message

    robot.spoil_image = spoil
    robot.expect_none("observation", "camera/scene: newest sample is ")
    assert robot.count("scene", "malformed") > 10


@pytest.mark.fault(row=27)
def test_a_camera_that_lags_behind_the_joints(robot: Robot) -> None:
    robot.lag_ns[CAMERA] = 115 * MS  # 65 ms behind the joints of the message before, too
    robot.expect_none("observation", "s older than joint/position (limit 0.050 s)")
    assert robot.count("observation", "withheld by camera/scene: too far from the other streams") > 5


@pytest.mark.fault(row=12)
def test_stamps_of_the_future(robot: Robot) -> None:
    robot.lag_ns[CAMERA] = -3_600_000 * MS
    robot.expect_none("observation", "camera/scene: newest sample is ")
    assert robot.count("observation", "refused camera/scene: its stamp is ahead of the clock") > 10


@pytest.mark.fault(row=29)
def test_a_camera_that_drops_every_second_frame(robot: Robot) -> None:
    turns = itertools.cycle((True, False))
    robot.spoil_image = lambda message: message if next(turns) else None
    robot.wait(lambda: robot.says("scene", " Hz, expected 20 Hz"))
