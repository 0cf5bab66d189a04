"""`armature doctor` on real graphs: a sound one passes, and every fault that is put into one is named."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from armature import cli
from armature.spec import JOINT_POSITION
from armature_ros.conversions import joint_state_to_msg
from armature_ros.doctor import examine
from armature_ros.doctor_deployment import CHUNK_TOPIC, read_deployment
from armature_ros.doctor_findings import Finding
from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import newest_stream_qos, reliable_qos
from armature_ros.sim_node import COMMAND_TOPIC
from armature_ros.up import RunningGraph

LISTEN_S = 4.0
# More steps than the tests take.
OPTIONS = ("--no-cameras", "--no-lockstep", "--horizon-steps", "6000")
FER_LABELS = (*(f"panda_joint{i}" for i in range(1, 8)), "panda_gripper")
FER_POSITIONS = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785, 0.04])

pytestmark = pytest.mark.ros


@dataclass(frozen=True)
class Examination:
    """What one run of `armature doctor` said."""

    code: int
    text: str
    findings: list[Finding]

    def of(self, subject: str, check: str) -> Finding:
        (found,) = [f for f in self.findings if (f.subject, f.check) == (subject, check)]
        return found


def run_doctor(file: Path, *arguments: str) -> Examination:
    command = [sys.executable, "-m", "armature.cli", "doctor", *arguments, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    findings = json.loads(file.read_text())["findings"] if file.exists() else []
    return Examination(
        done.returncode,
        done.stdout + done.stderr,
        [Finding(**{**f, "commands": tuple(f["commands"])}) for f in findings],
    )


@pytest.fixture(scope="module")
def running_arm(module_environment: dict[str, str]) -> Iterator[None]:
    """A simulated arm in real time that nobody has armed yet."""
    config = GraphConfig(cameras=False, lockstep=False, horizon_steps=6000)
    with (
        RunningGraph(make_graph("sim", config), module_environment) as graph,
        EpisodeDriver(records=False, check=graph.check) as driver,
    ):
        for service in ("sim_node/reset", "sim_node/start"):
            driver.spin_until(lambda name=service: call(driver, name), service)
        yield


def call(driver: EpisodeDriver, service: str) -> bool:
    """Call a service; tell whether it was done."""
    client = driver.node.create_client(Trigger, service)
    driver.spin_until(client.service_is_ready, service)
    future = client.call_async(Trigger.Request())
    driver.spin_until(future.done, service)
    return future.result().success


@contextmanager
def node(name: str) -> Iterator[Node]:
    """A node of this process, with the middleware of a process of its own."""
    context = rclpy.Context()
    rclpy.init(context=context)
    made = Node(name, context=context)
    try:
        yield made
    finally:
        made.destroy_node()
        rclpy.shutdown(context=context)


def examine_sim(tmp_path: Path) -> Examination:
    return run_doctor(tmp_path / "found.json", "--graph", "sim", *OPTIONS, "--listen-s", str(LISTEN_S))


def test_a_sound_graph_passes(running_arm: None, tmp_path: Path) -> None:
    examined = examine_sim(tmp_path)
    assert examined.code == 0, examined.text
    assert not [f for f in examined.findings if f.level == "fail"]
    assert "0 failed" in examined.text
    assert examined.of("joint_states", "publisher").found == "from /sim_node"
    assert examined.of("joint_states", "stamps").level == "ok"
    assert examined.of("joint_states", "joints").found == "8 joints in range"
    assert examined.of(COMMAND_TOPIC, "writers").found == "written by /control_node alone"
    assert examined.of(COMMAND_TOPIC, "listener").found == "heard by /sim_node"
    assert examined.of("exposure", "sockets").level == "ok"


@pytest.mark.fault(row=15)
def test_a_second_writer_is_named(running_arm: None, tmp_path: Path) -> None:
    with node("intruder") as intruder:
        intruder.create_publisher(JointTrajectory, COMMAND_TOPIC, reliable_qos())
        examined = examine_sim(tmp_path)
    assert examined.code == 1
    finding = examined.of(COMMAND_TOPIC, "writers")
    assert finding.level == "fail"
    assert "/intruder" in finding.found
    assert "/control_node" in finding.found
    assert "do not arm" in examined.text


@pytest.mark.fault(row=28)
def test_a_best_effort_publisher_where_reliable_is_requested_is_named(running_arm: None, tmp_path: Path) -> None:
    with node("whisper") as whisper:
        whisper.create_publisher(JointTrajectory, CHUNK_TOPIC, newest_stream_qos(lockstep=False))
        examined = examine_sim(tmp_path)
    assert examined.code == 1
    finding = examined.of(CHUNK_TOPIC, "QoS")
    assert finding.level == "fail"
    assert "/whisper offers best effort, volatile; control_node requests reliable, volatile" in finding.found


@pytest.mark.fault(row=56)
def test_a_second_node_of_one_name_is_named(running_arm: None, tmp_path: Path) -> None:
    with node("policy_node"):
        examined = examine_sim(tmp_path)
    assert examined.code == 1
    assert examined.of("nodes", "names").found == "more than one node is called /policy_node"


class Driver:
    """An arm that publishes joint states at 50 Hz, stamped by `stamp_ns`."""

    def __init__(
        self, made: Node, labels: tuple[str, ...] = FER_LABELS, stamp_ns: Callable[[int], int] = lambda now_ns: now_ns
    ) -> None:
        self._clock = made.get_clock()
        self._labels, self._stamp_ns = labels, stamp_ns
        self._publisher = made.create_publisher(JointState, "joint_states", QoSProfile(depth=10))
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Driver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._ends.wait(max(0.0, due_s - time.monotonic())):
            # By deadlines: what is late on a busy machine is made up for, and the rate stays.
            due_s += 0.02
            stamp_ns = self._stamp_ns(self._clock.now().nanoseconds)
            self._publisher.publish(joint_state_to_msg(self._labels, FER_POSITIONS, stamp_ns))


def examine_fer(environment: dict[str, str]) -> list[Finding]:
    deployment = read_deployment("robot", GraphConfig(robot="fer"))
    return examine(deployment, environment, int(environment["ROS_DOMAIN_ID"]), LISTEN_S)


def states(findings: list[Finding]) -> dict[str, Finding]:
    return {f.check: f for f in findings if f.subject == "joint_states"}


@pytest.mark.alone
def test_an_arm_that_keeps_its_contract_passes_while_the_rest_is_missing(environment: dict[str, str]) -> None:
    with node("driver") as made, Driver(made):
        findings = examine_fer(environment)
    assert set(states(findings)) == {"publisher", "QoS", "rate", "stamps", "joints"}
    assert not [f for f in states(findings).values() if f.level != "ok"]
    failed = {f"{f.subject} {f.check}".strip(): f.found for f in findings if f.level == "fail"}
    assert failed["nodes running"] == "none of the graph's nodes runs"
    assert failed[f"{COMMAND_TOPIC} listener"] == "nobody listens to it"
    assert failed["policy checkpoint"] == "the scripted expert knows simulated robots only"


def test_zero_stamps_are_named(environment: dict[str, str]) -> None:
    with node("driver") as made, Driver(made, stamp_ns=lambda _: 0):
        finding = states(examine_fer(environment))["stamps"]
    assert finding.level == "fail"
    assert finding.found.endswith("stamps are zero")


def test_a_clock_that_runs_ahead_is_named(environment: dict[str, str]) -> None:
    with node("driver") as made, Driver(made, stamp_ns=lambda now_ns: now_ns + 2_000_000_000):
        finding = states(examine_fer(environment))["stamps"]
    assert finding.level == "fail"
    assert "in the future, allowed 20 ms" in finding.found


def test_wrong_joint_names_are_named(environment: dict[str, str]) -> None:
    labels = tuple(label.replace("panda_joint7", "fer_joint7") for label in FER_LABELS)
    with node("driver") as made, Driver(made, labels):
        finding = states(examine_fer(environment))["joints"]
    assert finding.level == "fail"
    assert "joint state lacks panda_joint7" in finding.found
    assert "fer_joint7" in finding.found


def test_a_driver_that_is_open_to_the_network_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    """Started from a plain shell it takes the transport that the middleware has by itself."""
    plain = {k: v for k, v in environment.items() if "PROFILES_FILE" not in k}
    with plain_process(plain) as pid:
        findings = examine_fer({"ROS_DOMAIN_ID": environment["ROS_DOMAIN_ID"]})
    exposed = {f.check: f for f in findings if f.subject == "exposure"}
    assert f"({pid}) listens on 0.0.0.0:" in exposed["sockets"].found
    assert exposed["discovery"].level == "warn"


@contextmanager
def plain_process(variables: dict[str, str]) -> Iterator[int]:
    """A node in a process that knows nothing of our transport."""
    program = (
        "import rclpy, sys; rclpy.init(); n = rclpy.create_node('plain'); print('ready', flush=True); sys.stdin.read()"
    )
    command = ["env", "-u", "FASTDDS_DEFAULT_PROFILES_FILE", "-u", "FASTRTPS_DEFAULT_PROFILES_FILE", sys.executable]
    with subprocess.Popen(
        [*command, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.close()


def test_with_nothing_running_that_alone_is_said_of_the_graph(environment: dict[str, str], tmp_path: Path) -> None:
    examined = run_doctor(tmp_path / "found.json", "--graph", "sim", "--listen-s", "1")
    assert examined.code == 1
    assert [f.found for f in examined.findings if f.level == "fail"] == ["none of the graph's nodes runs"]
    assert not [f for f in examined.findings if f.subject in ("joint_states", CHUNK_TOPIC)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--robot", "frr"), "unknown robot 'frr'"),
        (("--domain-id", "233"), "--domain-id is '233', must be a number from 0 to 232"),
        (("--listen-s", "0"), "--listen-s is 0, must be above 0"),
        (("--policy", "nowhere"), "policy 'nowhere' is no folder"),
    ],
)
def test_a_wrong_option_is_named_with_exit_code_2(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert cli.main(["doctor", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(
    environment: dict[str, str], tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    spec = read_deployment("sim", GraphConfig(cameras=False)).spec
    checkpoint = write_checkpoint(tmp_path / "policy", spec, (JOINT_POSITION,))
    deployment = read_deployment("sim", GraphConfig(cameras=False, policy=str(checkpoint)))

    def examine_checkpoint() -> dict[str, Finding]:
        findings = examine(deployment, environment, int(environment["ROS_DOMAIN_ID"]), listen_s=0.1)
        return {f.check: f for f in findings if f.subject == "checkpoint"}

    assert [(name, f.level) for name, f in examine_checkpoint().items()] == [
        ("files", "ok"),
        ("contract", "ok"),
        ("statistics", "ok"),
    ]
    weights = checkpoint / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    finding = examine_checkpoint()["files"]
    assert finding.level == "fail"
    assert f"{weights}: damaged" in finding.found
