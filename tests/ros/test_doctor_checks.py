"""Each check of the doctor by literal cases: what is wrong is named, and what is right passes. No node is started."""

from __future__ import annotations

import io
import json
import math
import re
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rich.console import Console
from sensor_msgs.msg import Image, JointState

from armature.control.limits import ROBOTS
from armature.errors import CheckpointError, ConfigError
from armature.normalizer import FieldStats, Normalizer
from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from armature_ros import doctor_data, doctor_graph, doctor_host
from armature_ros.config_files import config_folder
from armature_ros.control_config import ControlNodeConfig
from armature_ros.conversions import image_to_msg, joint_state_to_msg
from armature_ros.doctor_deployment import node_config, read_deployment, wanted_topics
from armature_ros.doctor_findings import Finding, overall, print_findings, to_document
from armature_ros.doctor_host import Socket
from armature_ros.doctor_refusals import check_refusals
from armature_ros.doctor_streams import (
    Arrivals,
    Listener,
    SeenTopic,
    WantedTopic,
    check_content,
    check_publishers,
    check_qos,
    check_rate,
    check_stamps,
    check_topic,
)
from armature_ros.graph import NodeSpec
from armature_ros.graph_config import GraphConfig
from armature_ros.parameters import load_config
from armature_ros.policy_loading import PolicyNodeConfig
from armature_ros.qos import FASTDDS_PROFILE, single_host_environment, stream_qos
from armature_ros.recorder_config import RecorderNodeConfig
from armature_ros.robot import RobotConfig, load_robot_spec
from armature_ros.streams import TopicArrays
from data_collection.store import create_dataset
from data_collection.writer_lock import WriterLock
from policies.checkpoint import load_policy, save_checkpoint

RELIABLE = stream_qos(10, reliable=True, latched=False)
BEST_EFFORT = stream_qos(1, reliable=False, latched=False)
JOINTS = ArraySpec(
    "joint/position", (2,), "float32", "rad", low=(-2.0, -1.0), high=(2.0, 1.0), labels=("shoulder", "elbow")
)
CAMERA = ArraySpec("camera/scene", (4, 6, 3), "uint8", "rgb8")
SPEC = RobotSpec("small", ObservationSpec((CAMERA, JOINTS), 20.0), ActionSpec("joint_position", (JOINTS,), 20.0))
STATES = WantedTopic(
    TopicArrays("joint_states", JointState, (JOINTS,)), (Listener("policy_node", BEST_EFFORT),), 20.0, 0.15
)
IMAGES = WantedTopic(
    TopicArrays("camera/scene/image_raw", Image, (CAMERA,), "scene"), (Listener("policy_node", BEST_EFFORT),), 30.0
)
FER = load_robot_spec(RobotConfig(str(config_folder() / "robots" / "fer.json")))
NOW_NS = 1_800_000_000_000_000_000
MS = 1_000_000


def endpoint(
    node: str, kind: str = "sensor_msgs/msg/JointState", qos: QoSProfile = RELIABLE, namespace: str = "/"
) -> TopicEndpointInfo:
    return TopicEndpointInfo(node_name=node, node_namespace=namespace, topic_type=kind, qos_profile=qos)


def arrivals(times_ms: list[float], ages_ms: list[float] | float = 5) -> Arrivals:
    """Return messages that come at `times_ms` and are `ages_ms` old by their stamp."""
    ages = ages_ms if isinstance(ages_ms, list) else [ages_ms] * len(times_ms)
    received = tuple(round(t * MS) for t in times_ms)
    clock = tuple(NOW_NS + t for t in received)
    stamps = tuple(c - round(a * MS) for c, a in zip(clock, ages, strict=True))
    return Arrivals(stamps, received, clock)


EVERY_50_MS = [50.0 * k for k in range(40)]


def state(names: tuple[str, ...] = ("shoulder", "elbow"), positions: tuple[float, ...] = (0.5, -0.5)) -> JointState:
    return joint_state_to_msg(names, np.array(positions), NOW_NS)


def test_a_stream_as_it_should_be_passes_every_check() -> None:
    seen = SeenTopic((endpoint("driver"),), (), arrivals(EVERY_50_MS), state())
    assert [(f.check, f.level, f.found) for f in check_topic(STATES, seen)] == [
        ("publisher", "ok", "from /driver"),
        ("QoS", "ok", "QoS fits"),
        ("rate", "ok", "20.0 Hz ± 0.0 ms"),
        ("stamps", "ok", "5 ms old"),
        ("joints", "ok", "2 joints in range"),
    ]


def test_a_topic_that_nobody_publishes_is_one_finding_that_says_who_needs_it() -> None:
    (finding,) = check_topic(STATES, SeenTopic())
    assert (finding.level, finding.found) == ("fail", "nobody publishes it")
    assert finding.remedy == "start its publisher; needed by policy_node"


def test_another_type_is_named_with_its_publisher_and_the_right_one() -> None:
    finding = check_publishers(STATES, [endpoint("driver", "std_msgs/msg/String", namespace="/left")])
    assert finding.level == "fail"
    assert finding.found == "/left/driver publishes std_msgs/msg/String"
    assert finding.remedy == "have it publish sensor_msgs/msg/JointState"


def test_two_publishers_of_one_stream_are_both_named() -> None:
    finding = check_publishers(STATES, [endpoint("driver"), endpoint("replay")])
    assert (finding.level, finding.found) == ("fail", "2 publishers: /driver, /replay")


@pytest.mark.fault(row=28)
@pytest.mark.parametrize(
    ("offered", "requested", "reason"),
    [
        (BEST_EFFORT, RELIABLE, "best effort publisher and reliable subscription"),
        (RELIABLE, stream_qos(1, reliable=True, latched=True), "volatile publisher and transient local subscription"),
        (RELIABLE, QoSProfile(depth=1, deadline=Duration(seconds=0.1)), "subscription has a deadline, but publisher"),
    ],
)
def test_a_publisher_that_offers_less_than_is_requested_is_named(
    offered: QoSProfile, requested: QoSProfile, reason: str
) -> None:
    wanted = replace(STATES, listeners=(Listener("control_node", requested),))
    finding = check_qos(wanted, [endpoint("driver", qos=offered)])
    assert finding.level == "fail"
    assert finding.found.startswith("/driver offers ")
    assert "control_node requests " in finding.found
    assert reason in finding.remedy


def test_a_listener_that_runs_counts_with_what_it_requests_in_fact() -> None:
    wanted = replace(STATES, listeners=(Listener("control_node", RELIABLE),))
    publisher = endpoint("driver", qos=BEST_EFFORT)
    assert check_qos(wanted, [publisher]).level == "fail"
    assert check_qos(wanted, [publisher], [endpoint("control_node", qos=BEST_EFFORT)]).level == "ok"
    assert check_qos(wanted, [publisher], [endpoint("somebody", qos=BEST_EFFORT)]).level == "fail"


@pytest.mark.parametrize(
    ("times_ms", "level", "words"),
    [
        ([], "fail", "silent: 0 messages"),
        ([0.0], "fail", "silent: 1 messages"),
        ([125.0 * k for k in range(20)], "fail", "8.0 Hz ± 0.0 ms, expected 20 Hz"),
        ([70.0 * k for k in range(20)], "warn", "14.3 Hz ± 0.0 ms, expected 20 Hz"),
        ([50.0 * k for k in range(20)] + [1200.0 + 50 * k for k in range(60)], "warn", "longest gap 250 ms"),
        ([2.0 * k for k in range(200)], "ok", "500.0 Hz"),
    ],
)
def test_the_rate_is_compared_with_the_expected_one(times_ms: list[float], level: str, words: str) -> None:
    finding = check_rate(STATES, arrivals(times_ms))
    assert finding.level == level
    assert words in finding.found


def test_between_episodes_a_simulator_may_be_silent_and_in_lockstep_slow() -> None:
    assert check_rate(replace(STATES, is_simulated=True), arrivals([])).level == "warn"
    slow = arrivals([1000.0 * k for k in range(5)])
    assert check_rate(replace(STATES, is_lockstep=True), slow).level == "ok"


@pytest.mark.parametrize(
    ("ages_ms", "level", "words"),
    [
        ([5.0, 5.0, -21.0, 5.0], "fail", "up to 21 ms in the future, allowed 20 ms"),
        ([5.0, 5.0, -19.0, 5.0], "ok", "5 ms old"),
        ([160.0] * 4, "fail", "160 ms old when it comes, allowed 150 ms"),
        ([3.6e6] * 4, "fail", "3600 s old when it comes"),
        ([5.0, 55.0, 105.0, 155.0], "fail", "all 4 stamps are the same"),
        ([5.0, 55.0, 5.0, 5.0], "warn", "1 of 4 stamps repeat"),
        ([5.0, 60.0, 5.0, 5.0], "fail", "1 of 4 stamps go backwards"),
    ],
)
def test_stamps_are_compared_with_the_clock_and_each_other(ages_ms: list[float], level: str, words: str) -> None:
    finding = check_stamps(STATES, arrivals(EVERY_50_MS[:4], ages_ms))
    assert finding.level == level
    assert words in finding.found


def test_zero_stamps_are_counted() -> None:
    come = arrivals(EVERY_50_MS[:4])
    finding = check_stamps(STATES, replace(come, stamp_ns=(0, *come.stamp_ns[1:])))
    assert (finding.level, finding.found) == ("fail", "1 of 4 stamps are zero")


def test_in_lockstep_stamps_are_far_from_the_clock_but_still_advance() -> None:
    simulated = Arrivals((1 * MS, 2 * MS, 3 * MS), (0, 1, 2), (NOW_NS,) * 3)
    assert check_stamps(replace(STATES, is_lockstep=True), simulated).level == "ok"
    assert check_stamps(STATES, simulated).level == "fail"
    stuck = replace(simulated, stamp_ns=(MS,) * 3)
    assert check_stamps(replace(STATES, is_lockstep=True), stuck).level == "fail"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (state(("shoulder", "wrist")), "lacks elbow; it has shoulder, wrist"),
        (state(("shoulder", "elbow", "elbow"), (0.0, 0.0, 0.0)), "elbow more than once"),
        (JointState(name=["shoulder", "elbow"], position=[0.0]), "2 names and 1 positions"),
        (state(positions=(math.nan, 0.0)), "not finite"),
        (state(positions=(0.0, 57.3)), "elbow is at 57.3 rad, range -1..1"),
        (state(positions=(-2.03, 0.0)), "shoulder is at -2.03 rad, range -2..2"),
    ],
)
def test_joints_are_compared_with_the_contract(message: JointState, words: str) -> None:
    finding = check_content(STATES, message)
    assert finding.level == "fail"
    assert words in finding.found
    assert finding.remedy


def test_a_joint_at_the_very_end_of_its_range_and_joints_in_another_order_are_right() -> None:
    assert check_content(STATES, state(("other", "elbow", "shoulder"), (9.0, 1.005, -2.015))).level == "ok"


def picture(**fields: Any) -> Image:
    message = image_to_msg(np.zeros((4, 6, 3), np.uint8), NOW_NS, "scene")
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def test_images_are_compared_with_the_contract() -> None:
    assert check_content(IMAGES, picture()) == Finding("camera/scene/image_raw", "image", "ok", "6x4 in scene")
    mono = check_content(IMAGES, picture(encoding="mono8"))
    assert (mono.level, "'mono8'" in mono.found) == ("fail", True)
    large = image_to_msg(np.zeros((8, 12, 3), np.uint8), NOW_NS, "scene")
    assert "(8, 12, 3), expected (4, 6, 3)" in check_content(IMAGES, large).found
    assert check_content(IMAGES, picture(data=array("B", bytes(10)))).level == "fail"


def test_a_camera_in_another_frame_or_none_is_named() -> None:
    swapped = picture()
    swapped.header.frame_id = "wrist"
    assert "'wrist', expected 'scene'" in check_content(IMAGES, swapped).found
    nameless = picture()
    nameless.header.frame_id = ""
    any_frame = replace(IMAGES, topic=replace(IMAGES.topic, frame_id=""))
    assert check_content(any_frame, nameless).level == "warn"


def test_two_cameras_in_one_frame_cannot_be_told_apart() -> None:
    seen = {name: SeenTopic(last=picture()) for name in ("camera/scene/image_raw", "camera/wrist/image_raw")}
    (finding,) = doctor_graph.check_frames(seen)
    assert finding.found == "camera/scene/image_raw and camera/wrist/image_raw share frame_id 'scene'"
    assert doctor_graph.check_frames({"camera/scene/image_raw": SeenTopic(last=picture())}) == []


CONTROL = endpoint("control_node", doctor_graph.TRAJECTORY)


def test_control_node_alone_may_write_to_the_arm() -> None:
    finding = doctor_graph.check_writers("command", [CONTROL], ["/control_node"])
    assert (finding.level, finding.found) == ("ok", "written by /control_node alone")
    assert doctor_graph.check_writers("command", [], ["/control_node"]).level == "fail"
    assert doctor_graph.check_writers("command", [], ["/policy_node"]).level == "warn"


@pytest.mark.fault(row=15)
@pytest.mark.parametrize("others", [["intruder"], ["intruder", "control_node"], ["control_node", "control_node"]])
def test_any_other_writer_to_the_arm_is_named(others: list[str]) -> None:
    writers = [endpoint(name, doctor_graph.TRAJECTORY) for name in others]
    finding = doctor_graph.check_writers("command", writers, ["/control_node", "/intruder"])
    assert finding.level == "fail"
    assert finding.found == f"written by {', '.join('/' + name for name in others)}"


def test_an_arm_that_does_not_hear_its_commands_is_named() -> None:
    def listener(kind: str = doctor_graph.TRAJECTORY, qos: QoSProfile = RELIABLE) -> SeenTopic:
        return SeenTopic((CONTROL,), (endpoint("arm", kind, qos),))

    assert doctor_graph.check_command_listeners("command", listener()).found == "heard by /arm"
    assert doctor_graph.check_command_listeners("command", SeenTopic((CONTROL,))).found == "nobody listens to it"
    other = doctor_graph.check_command_listeners("command", listener("std_msgs/msg/Float64MultiArray"))
    assert (other.level, other.found) == ("fail", "/arm expects std_msgs/msg/Float64MultiArray")
    latched = doctor_graph.check_command_listeners("command", listener(qos=stream_qos(1, reliable=True, latched=True)))
    assert (latched.level, "requests reliable, transient local" in latched.found) == ("fail", True)


@pytest.mark.fault(row=56)
def test_missing_nodes_and_nodes_of_one_name_are_named() -> None:
    check = doctor_graph.check_nodes
    assert [f.level for f in check(["a", "b"], ["/a", "/b", "/driver"], "up")] == ["ok"]
    assert check(["a", "b"], ["/a"], "up")[0].found == "missing: b"
    assert check(["a", "b"], ["/driver"], "up")[0].found == "none of the graph's nodes runs"
    (finding,) = check(["a"], ["/a", "/a", "/left/b", "/b"], "up")
    assert (finding.level, finding.found) == ("fail", "more than one node is called /a")


def test_a_shell_without_our_transport_is_told_the_lines_that_set_it() -> None:
    finding = doctor_host.check_profile({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"})
    assert finding.level == "warn"
    unset = "FASTDDS_DEFAULT_PROFILES_FILE, FASTRTPS_DEFAULT_PROFILES_FILE"
    assert finding.found == f"not set: {unset}; RMW_IMPLEMENTATION is rmw_cyclonedds_cpp"
    assert finding.commands == (
        "export RMW_IMPLEMENTATION=rmw_fastrtps_cpp",
        f"export FASTDDS_DEFAULT_PROFILES_FILE={FASTDDS_PROFILE}",
        f"export FASTRTPS_DEFAULT_PROFILES_FILE={FASTDDS_PROFILE}",
    )
    assert doctor_host.check_profile(single_host_environment()).level == "ok"


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({}, "warn"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, "warn"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_LOCALHOST_ONLY": "1"}, "warn"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, "ok"),
        ({"ROS_LOCALHOST_ONLY": "1"}, "ok"),
        ({"ROS_LOCALHOST_ONLY": "0"}, "warn"),
        (single_host_environment(), "ok"),
        ({**single_host_environment(), "ROS_STATIC_PEERS": "10.0.0.7"}, "warn"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DISCOVERY_SERVER": "10.0.0.7:11811"}, "warn"),
    ],
)
def test_discovery_that_leaves_the_host_is_a_warning(environment: dict[str, str], level: str) -> None:
    assert doctor_host.check_discovery(environment).level == level


def test_a_process_that_listens_to_the_network_is_named() -> None:
    finding = doctor_host.check_sockets([Socket("0.0.0.0", 7410, "driver (42)"), Socket("::", 7411, "driver (42)")])
    assert finding.level == "warn"
    assert finding.found == "driver (42) listens on 0.0.0.0:7410: anyone in the network can write to it"
    assert doctor_host.check_sockets([]).level == "ok"


def test_a_driver_of_another_domain_and_a_domain_beyond_the_ports_are_warnings() -> None:
    assert doctor_host.check_domain({}, 0).level == "ok"
    assert doctor_host.check_domain({"ROS_DOMAIN_ID": "7"}, 7).level == "ok"
    assert doctor_host.check_domain({}, 7).commands == ("export ROS_DOMAIN_ID=7",)
    assert doctor_host.check_domain({"ROS_DOMAIN_ID": "102"}, 102).level == "warn"


def test_shared_memory_has_room_for_a_segment_of_every_node() -> None:
    segment = 67_108_864
    assert doctor_host.check_shared_memory(8 * segment, 3 * segment, 3).level == "ok"
    assert doctor_host.check_shared_memory(8 * segment, 3 * segment - 1, 3).level == "warn"
    assert doctor_host.check_shared_memory(segment - 1, segment - 1, 3).level == "fail"


def test_what_dead_processes_left_behind_is_a_warning() -> None:
    finding = doctor_host.check_leftovers(["fastrtps_a_el", "fastrtps_b_el", "fastrtps_port7411_el"])
    assert finding.level == "warn"
    assert finding.found == "3 locks of dead processes in /dev/shm, the first is fastrtps_a_el"
    assert doctor_host.check_leftovers([]).level == "ok"


def test_a_device_that_is_not_there_fails_and_the_others_are_named() -> None:
    finding = doctor_host.check_device("cuda:1", ["cpu", "cuda", "cuda:0"])
    assert (finding.level, finding.found) == ("fail", "'cuda:1' is not there; there is cpu, cuda, cuda:0")
    assert doctor_host.check_device("cpu", doctor_host.read_devices("cpu")).level == "ok"


def test_a_small_machine_is_a_warning() -> None:
    assert doctor_host.check_machine(2, 3_000_000_000).level == "ok"
    assert doctor_host.check_machine(1, 3_000_000_000).level == "warn"
    assert doctor_host.check_machine(2, 1_900_000_000).level == "warn"


def recorder_config(dataset: Path, **fields: Any) -> RecorderNodeConfig:
    return RecorderNodeConfig(streams={}, dataset=str(dataset), **fields)


def test_the_disk_must_have_the_room_that_the_recorder_insists_on(tmp_path: Path) -> None:
    config = recorder_config(tmp_path, disk_free_min_gb=2.0, disk_free_min_s=60.0)
    # 20 Hz of 4 x 6 x 3 bytes and two float32: 96 kB in a minute.
    small = replace(config, disk_free_min_gb=0.00005)
    disk = doctor_data.Disk(tmp_path, is_writable=True, free_bytes=95_999, is_locked=False)
    assert doctor_data.bytes_per_s(SPEC) == 1600.0
    assert doctor_data.check_space(disk, config, SPEC).level == "fail"
    assert doctor_data.check_space(disk, small, SPEC).level == "warn"
    assert doctor_data.check_space(replace(disk, free_bytes=96_000), small, SPEC).level == "ok"


def test_a_folder_that_cannot_be_written_to_fails(tmp_path: Path) -> None:
    disk = doctor_data.Disk(tmp_path, is_writable=False, free_bytes=10**12, is_locked=False)
    levels = [f.level for f in doctor_data.check_disk(disk, recorder_config(tmp_path), SPEC, recorder_runs=False)]
    assert levels == ["ok", "fail"]


def test_a_dataset_that_somebody_else_writes_fails_but_our_own_recorder_may(tmp_path: Path) -> None:
    create_dataset(tmp_path / "data", SPEC, "lift")
    config = recorder_config(tmp_path / "data")
    assert not doctor_data.read_disk(tmp_path / "data").is_locked
    lock = WriterLock(tmp_path / "data")
    disk = doctor_data.read_disk(tmp_path / "data")
    lock.release()
    found = [f for f in doctor_data.check_disk(disk, config, SPEC, recorder_runs=False) if f.check == "lock"]
    assert [f.level for f in found] == ["fail"]
    assert not [f for f in doctor_data.check_disk(disk, config, SPEC, recorder_runs=True) if f.check == "lock"]


def test_a_dataset_of_another_robot_or_task_is_named(tmp_path: Path) -> None:
    config = recorder_config(tmp_path / "data")
    assert "will be created" in doctor_data.check_dataset(config, SPEC).found
    assert not (tmp_path / "data").exists()
    create_dataset(tmp_path / "data", SPEC, "lift")
    assert doctor_data.check_dataset(config, SPEC).found == "0 episodes of lift"
    other = doctor_data.check_dataset(config, replace(SPEC, name="large"))
    assert (other.level, "needs 'small', offered 'large'" in other.found) == ("fail", True)
    reach = replace(config, robot=replace(config.robot, task="reach"))
    assert "holds task 'lift', not 'reach'" in doctor_data.check_dataset(reach, SPEC).found


def document(spec: RobotSpec, **sizes: int) -> dict[str, Any]:
    fields = {name.replace("_", "/"): FieldStats.of(np.ones((3, size))) for name, size in sizes.items()}
    normalizer = Normalizer(fields, dict.fromkeys(fields, "limits"))
    return {"family": "bc", "parameters": 5_000, "spec": spec.to_json(), "normalizer": normalizer.to_json()}


def test_a_checkpoint_that_fits_passes_and_says_what_it_sees() -> None:
    seen = SPEC.select(("joint/position",))
    findings, names = doctor_data.check_checkpoint(
        Path("p"), SPEC, lambda _: document(seen, joint_position=2, action=2)
    )
    assert [(f.check, f.level) for f in findings] == [("files", "ok"), ("contract", "ok"), ("statistics", "ok")]
    assert names == ("joint/position",)


def test_a_damaged_checkpoint_is_named_and_nothing_else_said_about_it() -> None:
    def read(path: Path) -> dict[str, Any]:
        raise CheckpointError(f"{path}/weights.safetensors: damaged")

    findings, names = doctor_data.check_checkpoint(Path("p"), SPEC, read)
    assert [(f.check, f.level, f.found) for f in findings] == [("files", "fail", "p/weights.safetensors: damaged")]
    assert names == ()


def test_a_checkpoint_of_another_robot_and_missing_statistics_are_named() -> None:
    slow = replace(SPEC, observation=replace(SPEC.observation, rate_hz=10.0))
    findings, _ = doctor_data.check_checkpoint(Path("p"), SPEC, lambda _: document(slow, joint_position=3))
    found = {f.check: (f.level, f.found) for f in findings}
    assert found["contract"] == ("fail", "observation.rate_hz: needs 10.0, offered 20.0")
    assert found["statistics"] == ("fail", "action has none; joint/position has 3 elements, not 2")


def test_limits_that_are_not_there_or_leave_something_out_are_named(tmp_path: Path) -> None:
    def check(limits_file: str, profile: str = "run") -> Finding:
        return doctor_data.check_robot_limits(RobotConfig("fer.json", limits_file), profile, FER.action)

    assert check("fer") == Finding("limits", "file", "ok", "profile run of fer")
    assert "unknown robot.limits_file 'frr'. Did you mean 'fr3'?" in check("frr").found
    assert "unknown profile of fer 'fast'" in check("fer", "fast").found
    assert "panda_joint2: position limits -1.7861..1.7861 must lie in -1.7628..1.7628" in check("fr3").found
    file = tmp_path / "fer.yaml"
    file.write_text(re.sub("velocity_max_rad_s: .*", "", (ROBOTS / "fer.yaml").read_text()))
    assert check(str(file)).level == "fail"
    assert "lacks key 'velocity_max_rad_s'" in check(str(file)).found


def test_a_node_gets_the_sections_for_it_and_overrides_win(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(
        "/**: {ros__parameters: {policy: expert, execute_steps: 4, streams: {a: {topic: t, message: image}}}}\n"
        "/**/policy_node: {ros__parameters: {execute_steps: 6, robot.task: can}}\n"
        "policy_node: {ros__parameters: {robot: {image_size: 64}}}\n"
        "/left/policy_node: {ros__parameters: {execute_steps: 9}}\n"
        "/**/control_node: {ros__parameters: {limits: 3}}\n"
    )
    config = node_config(NodeSpec("policy_node", "policy_node", (file,), {"device": "cuda"}), PolicyNodeConfig)
    assert (config.policy, config.execute_steps, config.device) == ("expert", 6, "cuda")
    assert (config.robot.task, config.robot.image_size) == ("can", 64)
    assert config.streams["a"].topic == "t"
    file.write_text("/**: {ros__parameters: {polcy: expert, streams: {}}}\n")
    with pytest.raises(ConfigError, match="Did you mean 'policy'"):
        node_config(NodeSpec("policy_node", "policy_node", (file,)), PolicyNodeConfig)


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, math.nan, math.inf])
def test_a_control_rate_that_is_none_is_refused(rate_hz: float) -> None:
    with pytest.raises(ConfigError, match=f"rate_hz is {rate_hz:g}, must be above 0 and finite"):
        ControlNodeConfig({}, "learn", "", rate_hz=rate_hz)


def test_a_key_that_holds_others_cannot_have_a_value_too() -> None:
    given = {"robot": "fer", "robot.spec_file": "fer.json"}
    words = re.escape("robot is 'fer', but robot.spec_file is set too: leave out one of them")
    with pytest.raises(ConfigError, match=words):
        node_config(NodeSpec("control_node", "control_node", (), given), ControlNodeConfig)
    values = [Parameter(name, value=value) for name, value in given.items()]
    node = SimpleNamespace(
        get_name=lambda: "control_node",
        get_parameters_by_prefix=lambda _prefix: {value.name: value for value in values},
    )
    with pytest.raises(ConfigError, match=f"parameters of control_node: {words}"):
        load_config(node, ControlNodeConfig)


def test_the_topics_of_a_robot_come_with_cameras_rates_and_listeners(tmp_path: Path) -> None:
    deployment = read_deployment("robot", GraphConfig(dataset=str(tmp_path / "data")))
    found = {wanted.name: wanted for wanted in wanted_topics(deployment, ("camera/scene", "joint/position"))}
    assert set(found) == {"camera/scene/image_raw", "camera/wrist/image_raw", "joint_states", "chunk"}
    scene = found["camera/scene/image_raw"]
    assert (scene.rate_hz, scene.topic.frame_id) == (30.0, "camera_scene_optical_frame")
    assert [listener.node for listener in scene.listeners] == ["policy_node", "recorder_node"]
    assert [listener.node for listener in found["camera/wrist/image_raw"].listeners] == ["recorder_node"]
    labels = {label for joints in found["joint_states"].topic.arrays for label in joints.labels}
    assert labels == {*(f"panda_joint{i}" for i in range(1, 8)), "panda_gripper"}
    assert not found["chunk"].topic.arrays
    publishers = {name: wanted.publisher for name, wanted in found.items()}
    assert publishers == {
        "camera/scene/image_raw": "camera_scene",
        "camera/wrist/image_raw": "camera_wrist",
        "joint_states": "",
        "chunk": "policy_node",
    }


FINDINGS = [
    Finding("machine", "", "ok", "2 cores"),
    Finding("joint_states", "rate", "ok", "20.0 Hz"),
    Finding("joint_states", "stamps", "fail", "4 of 4 stamps are zero", "have its driver stamp"),
    Finding("transport", "domain", "warn", "domain [7]", "see below", ("export ROS_DOMAIN_ID=7",)),
    Finding("joint_states", "QoS", "ok", "QoS fits"),
]


def refused(graph: str, config: GraphConfig) -> dict[str, str]:
    """Return what the nodes of a graph would refuse, by node."""
    return {finding.subject: finding.found for finding in check_refusals(read_deployment(graph, config))}


def test_what_every_node_takes_is_one_row_that_says_so() -> None:
    assert refused("sim", GraphConfig(cameras=False)) == {"nodes": "none refuses what it would be given"}


def test_a_real_arm_without_its_workspace_is_named_as_its_node_would(tmp_path: Path) -> None:
    file = tmp_path / "fer.yaml"
    content = yaml.safe_load((config_folder() / "robots" / "fer.yaml").read_text())
    for section in content.values():
        section["ros__parameters"].pop("tcp", None)
    file.write_text(yaml.safe_dump(content))
    file.with_suffix(".json").write_text((config_folder() / "robots" / "fer.json").read_text())
    assert refused("robot", GraphConfig(robot=str(file), cameras=False)) == {
        "control_node": "tcp: a real arm needs a workspace: tcp.box_low_m, tcp.box_high_m, ... (see robots/fer.yaml)"
    }


def test_a_folder_that_is_no_residual_and_a_camera_that_is_none_are_named(tmp_path: Path) -> None:
    found = refused("residual", GraphConfig(cameras=False, residual=str(tmp_path)))
    assert list(found) == ["residual_node"]
    assert f"{tmp_path / 'residual.json'}" in found["residual_node"]
    none = GraphConfig(overrides=("camera_scene.source=nowhere.mp4",))
    assert "source 'nowhere.mp4' is no file" in refused("robot", none)["camera_scene"]


def test_what_a_policy_would_not_take_is_named(tmp_path: Path, write_checkpoint: Callable[..., Path]) -> None:
    spec = read_deployment("sim", GraphConfig(cameras=False)).spec
    checkpoint = str(write_checkpoint(tmp_path / "policy", spec, ("joint/position",)))
    told = GraphConfig(cameras=False, policy=checkpoint, prompt="lift the cube")
    assert refused("sim", told)["policy_node"] == f"prompt 'lift the cube': {checkpoint} takes none"
    engine = GraphConfig(cameras=False, policy=checkpoint, overrides=("policy_node.engine=fast",))
    assert "unknown engine 'fast'" in refused("sim", engine)["policy_node"]
    assert refused("sim", GraphConfig(cameras=False, policy=checkpoint, scheduler="real_time_chunking")) == {
        "nodes": "none refuses what it would be given"
    }
    guided = GraphConfig(cameras=False, overrides=("policy_node.guidance=true",))
    assert "the scripted expert cannot be guided" in refused("sim", guided)["policy_node"]
    of_can = save_checkpoint(tmp_path / "can", load_policy(checkpoint), {"training": {"task": "can"}})
    other = refused("sim", GraphConfig(cameras=False, policy=str(of_can)))
    assert other["policy_node"] == f"task 'lift': {of_can} was trained on 'can'; say --task can"


def test_the_table_has_what_is_wrong_first_and_one_row_for_what_is_well() -> None:
    console = Console(width=100, file=io.StringIO())
    print_findings(console, FINDINGS)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert [line.split()[0] for line in lines if line] == ["result", "fail", "warn", "ok", "ok", "export", "1"]
    assert "20.0 Hz, QoS fits" in lines[4]
    assert "domain [7]" in lines[2]
    assert "export ROS_DOMAIN_ID=7" in lines
    assert lines[-1] == "1 failed, 1 warning, 3 ok: do not arm before what failed is mended"
    assert max(map(len, lines)) <= 100


def test_the_document_has_every_finding_and_the_worst_is_the_result() -> None:
    found = json.loads(json.dumps(to_document(FINDINGS, {"graph": "sim"})))
    assert (found["graph"], found["result"]) == ("sim", "fail")
    assert found["counts"] == {"fail": 1, "warn": 1, "ok": 3}
    assert found["findings"][2]["found"] == "4 of 4 stamps are zero"
    assert overall(FINDINGS[3:]) == "warn"
    assert overall([]) == "ok"
