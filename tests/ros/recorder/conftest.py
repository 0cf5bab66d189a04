"""A small robot that publishes from this process, and recorder_node as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from armature_ros.config_files import config_folder
from armature_ros.conversions import action_to_msg, image_to_msg, joint_state_to_msg
from armature_ros.introduction import Introduction
from armature_ros.qos import stream_qos
from data_collection.store import Dataset, open_dataset

CAMERA = ArraySpec("camera/scene", (120, 160, 3), "uint8", "rgb8")
JOINTS = ArraySpec("joint/position", (2,), "float32", "rad", labels=("joint1", "joint2"))
SPEC = RobotSpec("small", ObservationSpec((CAMERA, JOINTS), 20.0), ActionSpec("joint_position", (JOINTS,), 20.0))
STREAMS = {
    "camera/scene": {"topic": "camera/scene/image_raw", "message": "image"},
    "joint/position": {"topic": "joint_states", "message": "joint_state"},
}
IMAGE, JOINT_STATES = "camera/scene/image_raw", "joint_states"
# By topic: message type, and every how many ticks of 10 ms one is published.
REQUIRED: dict[str, tuple[type, int]] = {
    IMAGE: (Image, 5),
    JOINT_STATES: (JointState, 1),
    "control/executed": (JointTrajectory, 5),
    "control/requested": (JointTrajectory, 5),
}
STREAM_OF = {
    IMAGE: "camera/scene",
    JOINT_STATES: "joint/position",
    "control/executed": "action/executed",
    "control/requested": "action/requested",
    "control/takeover": "control/takeover",
    "reward": "reward",
}
TICK_S = 0.01
PATIENCE_S = 20.0
LEVELS = {DiagnosticStatus.OK: "ok", DiagnosticStatus.WARN: "warn", DiagnosticStatus.ERROR: "error"}
_NOISE = np.random.default_rng(0).integers(0, 256, (8, *CAMERA.shape), dtype=np.uint8)


def picture(stamp_ns: int) -> np.ndarray:
    """Return the image that belongs to a stamp."""
    return _NOISE[stamp_ns % len(_NOISE)]


class Robot:
    """Publishes from a thread, keeps every stamp that it has sent, and calls the recorder's services."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = Node("robot", context=self._context)
        self._executor = EventsExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._publishers: dict[str, tuple[Any, int]] = {}
        self.sent: dict[str, list[int]] = {}
        self.diagnostics: dict[str, tuple[str, str, dict[str, str]]] = {}
        """By stream: level, message, values."""
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        kinds = {"start": Trigger, "stop": Trigger, "discard": Trigger, "end": SetBool, "relabel": SetBool}
        self._clients = {name: self.node.create_client(kind, f"recorder_node/{name}") for name, kind in kinds.items()}
        self._introduction = Introduction(self.node, "recorder_node")
        self._flows, self._ends = threading.Event(), threading.Event()
        self._between_ticks = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def advertise(self, topic: str, *, qos: QoSProfile | None = None, message_type: type | None = None) -> None:
        """Publish a topic; again means another publisher in the first one's place."""
        kind, ticks = REQUIRED.get(topic, (JointState, 1))
        reliable = stream_qos(10, reliable=True, latched=False) if qos is None else qos
        with self._between_ticks:
            if topic in self._publishers:
                self.node.destroy_publisher(self._publishers[topic][0])
            self._publishers[topic] = (self.node.create_publisher(message_type or kind, topic, reliable), ticks)

    def advertise_all(self, **qos: QoSProfile) -> None:
        for topic in REQUIRED:
            self.advertise(topic, qos=qos.get(topic.partition("/")[0]))

    def flow(self) -> None:
        self._flows.set()

    def hold(self) -> None:
        """Stop publishing; what was sent does not grow any more."""
        self._flows.clear()
        with self._between_ticks:
            pass

    def send(self, topic: str, message: Any, stamp_ns: int) -> None:
        """Publish one message by hand, between those of the thread."""
        with self._between_ticks:
            self._publishers[topic][0].publish(message)
            self.sent.setdefault(topic, []).append(stamp_ns)

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def call(self, service: str, data: bool | None = None) -> tuple[bool, str]:
        """Call a service of the recorder; return what it answers."""
        client = self._clients[service]
        self.wait(self._introduction.ask)
        self.wait(client.service_is_ready)
        future = client.call_async(Trigger.Request() if data is None else SetBool.Request(data=data))
        self.wait(future.done)
        answer = future.result()
        return answer.success, answer.message

    def start(self) -> dict[str, Any]:
        """Start an episode as soon as the recorder knows everyone."""
        return json.loads(self.until_accepted("start"))

    def end(self, *, success: bool = True) -> dict[str, Any]:
        ok, message = self.call("end", success)
        assert ok, message
        return json.loads(message)

    def until_accepted(self, service: str) -> str:
        message = ""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            ok, message = self.call(service)
            if ok:
                return message
            self.spin_for(0.1)
        raise AssertionError(f"{service}: {message}")

    def until_refused(self, *words: str) -> str:
        """Ask for a start until the refusal says `words`."""
        message = ""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            ok, message = self.call("start")
            assert not ok, f"started instead of refusing with {words}"
            if all(word in message for word in words):
                return message
            self.spin_for(0.1)
        raise AssertionError(f"never said {words}, but: {message}")

    def wait(self, is_done: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_done():
            assert time.monotonic() < deadline_s, "it took too long"
            self._executor.spin_once(timeout_sec=0.05)

    def spin_for(self, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        self.wait(lambda: time.monotonic() >= end_s)

    def published(self, stream: str, begin_ns: int) -> list[int]:
        """Return the stamps of a stream since the begin of an episode."""
        topics = {name: topic for topic, name in STREAM_OF.items()}
        return [stamp_ns for stamp_ns in self.sent.get(topics[stream], []) if stamp_ns >= begin_ns]

    def close(self) -> None:
        self._ends.set()
        self._thread.join()
        # Else the publishers live on, and the next test's recorder finds them.
        self._executor.remove_node(self.node)
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _run(self) -> None:
        tick = 0
        while not self._ends.wait(TICK_S):
            if not self._flows.is_set():
                continue
            tick += 1
            with self._between_ticks:
                for topic, (publisher, ticks) in self._publishers.items():
                    if tick % ticks == 0 and self._flows.is_set():
                        self._publish(topic, publisher)

    def _publish(self, topic: str, publisher: Any) -> None:
        stamp_ns = self.now_ns()
        publisher.publish(message_of(topic, stamp_ns))
        self.sent.setdefault(topic, []).append(stamp_ns)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            name = status.name.removeprefix("recorder_node: ")
            self.diagnostics[name] = (LEVELS[status.level], status.message, values)


def message_of(topic: str, stamp_ns: int) -> Any:
    """Return the message that the robot publishes with a stamp."""
    if topic == IMAGE:
        return image_to_msg(picture(stamp_ns), stamp_ns, "camera")
    labels = {"control/takeover": ("engaged",), "reward": ("reward",)}.get(topic, JOINTS.labels)
    values = np.arange(len(labels)) + (stamp_ns // 1_000_000) % 2
    if topic.startswith("control/") and topic != "control/takeover":
        return action_to_msg(values, labels, stamp_ns, 50_000_000)
    return joint_state_to_msg(labels, values, stamp_ns)


class RecorderProcess:
    """recorder_node, its output and its dataset."""

    def __init__(self, command: list[str], folder: Path, log: Path) -> None:
        self.folder = folder
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def wait_ready(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while "ready" not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline_s, self.text()
            time.sleep(0.05)

    def end(self) -> None:
        """Have it end in order: a killed process can leave the transport locked for the whole domain."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def text(self) -> str:
        return self.log.read_text()

    @property
    def dataset(self) -> Dataset:
        return open_dataset(self.folder)


@pytest.fixture
def robot(environment: dict[str, str]) -> Iterator[Robot]:
    made = Robot()
    yield made
    made.close()


@pytest.fixture
def start_recorder(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., RecorderProcess]]:
    """A function that starts recorder_node with parameters and waits until it is ready."""
    started: list[RecorderProcess] = []

    def start(folder: Path | None = None, *, within: tuple[str, ...] = (), **parameters: Any) -> RecorderProcess:
        number = len(started)
        (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_json()))
        folder = folder or tmp_path / "dataset"
        # No test may depend on how full the disk of this machine is.
        own = {"disk_free_min_gb": 0.0, "disk_free_min_s": 0.0, "dataset": str(folder), "streams": STREAMS}
        spec = {"robot": {"spec_file": str(tmp_path / "spec.json"), "task": "reach"}}
        file = tmp_path / f"recorder_{number}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": own | spec | parameters}}))
        files = (config_folder() / "recorder_node.yaml", file)
        arguments = [word for path in files for word in ("--params-file", str(path))]
        command = [*within, sys.executable, "-m", "armature_ros.recorder_node", "--ros-args", *arguments]
        process = RecorderProcess(command, folder, tmp_path / f"recorder_{number}.log")
        started.append(process)
        process.wait_ready()
        return process

    yield start
    for process in started:
        process.end()
        # Where a test has failed, what the recorder said is a part of the report.
        print(process.text())
