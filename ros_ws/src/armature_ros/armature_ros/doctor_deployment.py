"""What a deployment needs: the configuration that each of its nodes would get, and the topics that they live on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from armature.config import from_plain
from armature.errors import ConfigError
from armature.spec import TCP_DELTA, RobotSpec
from armature_ros.camera_node import CameraNodeConfig
from armature_ros.config_files import read_sections
from armature_ros.control_config import ControlNodeConfig
from armature_ros.doctor_streams import Listener, WantedTopic
from armature_ros.graph import NodeSpec, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.mock_arm_node import MockArmNodeConfig
from armature_ros.parameters import put
from armature_ros.policy_loading import PolicyNodeConfig
from armature_ros.qos import newest_stream_qos, reliable_qos, stream_qos
from armature_ros.recorder_config import RecorderNodeConfig
from armature_ros.residual_config import LearnerNodeConfig, ResidualNodeConfig
from armature_ros.robot import load_robot_spec
from armature_ros.sim_node import COMMAND_TOPIC, SimNodeConfig
from armature_ros.streams import TopicArrays, topics_of
from armature_ros.teleop_node import TeleopNodeConfig

T = TypeVar("T")

GraphName = Literal["robot", "sim", "collect", "residual"]
CHUNK_TOPIC = "chunk"
AGE_MAX_S = 0.15
"""How old a sample may be when it comes, where no policy says so: a person at the keyboard drives."""
CONFIGS: dict[str, type] = {
    "sim_node": SimNodeConfig,
    "policy_node": PolicyNodeConfig,
    "teleop_node": TeleopNodeConfig,
    "takeover_node": TeleopNodeConfig,
    "control_node": ControlNodeConfig,
    "recorder_node": RecorderNodeConfig,
    "camera_node": CameraNodeConfig,
    "mock_arm_node": MockArmNodeConfig,
    "residual_node": ResidualNodeConfig,
    "learner_node": LearnerNodeConfig,
}


@dataclass(frozen=True)
class Deployment:
    """A graph as `armature up` would start it."""

    graph: GraphName
    nodes: tuple[NodeSpec, ...]
    configs: Mapping[str, Any]
    """By node; one that cannot be built is in `problems` instead."""
    problems: Mapping[str, str]
    spec: RobotSpec

    @property
    def is_simulated(self) -> bool:
        """Tell whether a simulator takes the place of the arm."""
        return any(node.executable == "sim_node" for node in self.nodes)

    @property
    def is_lockstep(self) -> bool:
        """Tell whether the ticks wait for their commands."""
        return any(getattr(config, "lockstep", False) for config in self.configs.values())

    @property
    def command_topic(self) -> str:
        """Return the topic on which the arm is commanded."""
        return getattr(self.configs.get("control_node"), "command_topic", COMMAND_TOPIC)


def read_deployment(graph: GraphName, config: GraphConfig) -> Deployment:
    """Return what `armature up GRAPH` would start; raise ConfigError when there is no telling which robot it is for."""
    nodes = make_graph(graph, config)
    configs: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for node in nodes:
        try:
            configs[node.name] = node_config(node, CONFIGS[node.executable])
        except ConfigError as error:
            problems[node.name] = " ".join(str(error).split())
    # The control node's first: what a policy says may be converted on the way to the arm.
    named = [configs[name] for name in ("control_node", *configs) if name in configs]
    robots = [c.robot for c in named if hasattr(c, "robot")]
    if not robots:
        raise ConfigError("; ".join(problems.values()))
    return Deployment(graph, nodes, configs, problems, load_robot_spec(robots[0]))


def node_config(node: NodeSpec, cls: type[T]) -> T:
    """Build the configuration that a node would get from its files and overrides; raise ConfigError naming the key."""
    tree: dict[str, Any] = {}
    for file in node.params_files:
        for pattern, parameters in read_sections(file).items():
            if _applies(pattern, node.name):
                _put(tree, [], parameters)
    _put(tree, [], node.overrides)
    return from_plain(cls, tree)


def _applies(pattern: str, name: str) -> bool:
    """Tell whether a section of a parameter file is for a node: `**` stands for any names, `*` for one."""
    wild = re.escape("/" + pattern.lstrip("/")).replace(r"/\*\*", r"(/\w+)*").replace(r"\*", r"\w+")
    return re.fullmatch(wild, f"/{name}") is not None


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a value, or all values of a mapping, in place of what was there; dots in keys descend as ROS has it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _put(tree, [*path, *str(key).split(".")], item)
        return
    put(tree, path, value)


def wanted_topics(deployment: Deployment, needed: Sequence[str]) -> tuple[WantedTopic, ...]:
    """Return the topics without which nothing works; `needed` names the observations that the policy sees."""
    found: dict[str, WantedTopic] = {}
    for topic, listener in _readings(deployment, tuple(needed)):
        before = found.get(topic.topic) or _wanted(deployment, topic)
        known = {array.labels or array.name for array in before.topic.arrays}
        added = tuple(array for array in topic.arrays if (array.labels or array.name) not in known)
        merged = replace(before.topic, arrays=(*before.topic.arrays, *added))
        found[topic.topic] = replace(before, topic=merged, listeners=(*before.listeners, listener))
    return tuple(found.values())


def _readings(deployment: Deployment, needed: tuple[str, ...]) -> Iterator[tuple[TopicArrays, Listener]]:
    """Yield every topic that a node of the graph reads, with what it takes out of it."""
    spec, configs = deployment.spec, deployment.configs
    if policy := configs.get("policy_node"):
        listener = Listener("policy_node", newest_stream_qos(lockstep=policy.lockstep))
        for topic in topics_of(spec.observation.select(needed).arrays, policy.streams):
            yield topic, listener
    # What a command is compared with.
    measured = tuple(array for array in spec.action.arrays if array.name != TCP_DELTA)
    for name in ("control_node", "teleop_node", "takeover_node"):
        if reader := configs.get(name):
            qos = newest_stream_qos(lockstep=getattr(reader, "lockstep", False))
            yield TopicArrays(reader.joint_state_topic, JointState, measured), Listener(name, qos)
    if recorder := configs.get("recorder_node"):
        # The recorder adapts to what is offered, unless it is told to insist.
        listener = Listener("recorder_node", stream_qos(1, reliable=recorder.reliability == "reliable", latched=False))
        for topic in topics_of(spec.observation.arrays, recorder.streams):
            yield topic, listener
    if "control_node" in configs:
        yield TopicArrays(CHUNK_TOPIC, JointTrajectory, ()), Listener("control_node", reliable_qos())


def _wanted(deployment: Deployment, topic: TopicArrays) -> WantedTopic:
    """Return a topic nobody reads yet, with the rate and the age that are expected of it."""
    node, camera = _camera_of(deployment, topic.topic)
    policy = deployment.configs.get("policy_node")
    rate_hz = deployment.spec.observation.rate_hz if camera is None else camera.rate_hz
    frame_id = "" if camera is None else camera.frame_id
    return WantedTopic(
        replace(topic, arrays=(), frame_id=topic.frame_id or frame_id),
        listeners=(),
        rate_hz=topic.rate_hz or rate_hz,
        age_max_s=AGE_MAX_S if policy is None else policy.max_age_s,
        publisher=_publisher(deployment, topic.topic) or node,
        is_simulated=deployment.is_simulated,
        is_lockstep=deployment.is_lockstep,
    )


def _publisher(deployment: Deployment, topic: str) -> str:
    if topic == CHUNK_TOPIC:
        return next((name for name in ("policy_node", "teleop_node") if name in deployment.configs), "")
    return "sim_node" if deployment.is_simulated else ""


def _camera_of(deployment: Deployment, topic: str) -> tuple[str, CameraNodeConfig | None]:
    """Return the camera node that publishes a topic, and its configuration; of a topic of others "" and None."""
    for name, config in deployment.configs.items():
        if isinstance(config, CameraNodeConfig) and f"{config.topic}/image_raw" == topic:
            return name, config
    return "", None
