"""A residual for the scripted expert of Lift, and what runs it: real nodes, real learner, weights from the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from std_msgs.msg import String, UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory

from armature.normalizer import FieldStats, Normalizer
from armature_ros.control_corrections import base_action_from_msg
from armature_ros.conversions import ns_from_time
from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import NodeSpec, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import latched_qos, reliable_qos
from armature_ros.residual_link import WEIGHTS, bytes_to_msg
from policies.actor_weights import ActorWeights
from policies.residual_folder import ResidualFolder, ResidualSettings, save_residual
from policies.residual_td3 import ResidualActor
from policies.residual_view import ResidualView
from sim.defaults import limits_for
from sim.tasks import SimConfig, robot_spec

STATE_ONLY = SimConfig(cameras=False)
BASE_ID = "expert/lift"
LEARNER = {
    "td3": {"hidden": [16, 16], "critics": 3},
    "warmup_steps": 20,
    "critic_warmup_updates": 10,
    "batch_size": 32,
    "capacity": 5000,
}


def view_and_normalizer() -> tuple[ResidualView, Normalizer]:
    spec = robot_spec(STATE_ONLY)
    rng = np.random.default_rng(0)
    fields = {array.name: FieldStats.of(rng.normal(size=(64, array.size))) for array in spec.observation.vectors}
    normalizer = Normalizer(fields, dict.fromkeys(fields, "gaussian"))
    return ResidualView(spec, limits_for(spec.action), normalizer), normalizer


def actor_weights(version: int, *, size: float = 0.3, seed: int = 0, **changes: Any) -> ActorWeights:
    """Weights whose answers are of about `size`."""
    view, _ = view_and_normalizer()
    torch.manual_seed(seed)
    actor = ResidualActor(view.observation_dim, view.action_dim, (16, 16))
    with torch.no_grad():
        actor.layers[-2].weight.normal_(std=size / 4)
    arrays = {name: tensor.numpy().copy() for name, tensor in actor.state_dict().items()}
    plain = {"share": 1.0, "noise_std": 0.0, "base_id": BASE_ID, **changes}
    return ActorWeights(version, plain["share"], plain["noise_std"], plain["base_id"], arrays)


def write_residual(path: Path, **changes: Any) -> Path:
    """Write a residual of the expert at `path`; `changes` as of `actor_weights`."""
    view, normalizer = view_and_normalizer()
    settings = ResidualSettings(scale=0.5, steps=3, discount=0.99)
    weights = actor_weights(**{"version": 0, **changes})
    save_residual(path, ResidualFolder.of("lift", view, normalizer, settings, weights, LEARNER))
    return path


def nodes_of(residual: Path, *names: str, overrides: tuple[str, ...] = (), **config: Any) -> tuple[NodeSpec, ...]:
    """Return nodes of the graph `residual`, all but `learner_node` unless named otherwise."""
    graph = make_graph("residual", GraphConfig(cameras=False, residual=str(residual), overrides=overrides, **config))
    kept = names or tuple(node.name for node in graph if node.name != "learner_node")
    return tuple(replace(node, restarts=None) if not names else node for node in graph if node.name in kept)


class Watch:
    """Notes what control node and residual say to each other, on the node of an EpisodeDriver."""

    def __init__(self, driver: EpisodeDriver) -> None:
        self.driver, self.node = driver, driver.node
        self.base: dict[int, np.ndarray] = {}
        self.corrections: dict[int, tuple[np.ndarray, str]] = {}
        self.corrected: dict[int, tuple[np.ndarray, str]] = {}
        self.executed: dict[int, np.ndarray] = {}
        self.requested: dict[int, np.ndarray] = {}
        self.status: dict[str, Any] = {}
        self.control: dict[str, Any] = {}
        self.plans: dict[int, int] = {}
        """Of every base action, the stamp of what its policy had seen."""
        self.node.create_subscription(JointTrajectory, "control/base_action", self._on_base, latched_qos(100))
        self._listen("control/executed", self.executed, latched_qos(100))
        self._listen("control/requested", self.requested, latched_qos(100))
        self._listen("residual/correction", self.corrections, reliable_qos(1000), with_frame=True)
        self._listen("control/corrected", self.corrected, latched_qos(100), with_frame=True)
        self.node.create_subscription(String, "residual_node/status", self._on_status, latched_qos())
        self.node.create_subscription(String, "control_node/status", self._on_control, reliable_qos(100))
        self._weights = self.node.create_publisher(UInt8MultiArray, WEIGHTS, latched_qos())

    def give(self, content: bytes) -> None:
        """Give out weights as a learner does."""
        self._weights.publish(bytes_to_msg(content))

    def wait(self, is_done: Callable[[], Any], what: str) -> None:
        self.driver.spin_until(lambda: bool(is_done()), f"{what}; {self.status} {self.control}")

    def await_status(self, **expected: Any) -> None:
        self.wait(lambda: {name: self.status.get(name) for name in expected} == expected, f"status {expected}")

    def _listen(self, topic: str, into: dict[int, Any], qos: Any, *, with_frame: bool = False) -> None:
        def on_message(message: JointTrajectory) -> None:
            value = np.array(message.points[0].positions)
            into[ns_from_time(message.header.stamp)] = (value, message.header.frame_id) if with_frame else value

        self.node.create_subscription(JointTrajectory, topic, on_message, qos)

    def _on_base(self, message: JointTrajectory) -> None:
        told = base_action_from_msg(message, message.joint_names)
        self.base[told.stamp_ns], self.plans[told.stamp_ns] = told.value, told.planned_ns

    def _on_status(self, message: String) -> None:
        self.status = json.loads(message.data)

    def _on_control(self, message: String) -> None:
        self.control = json.loads(message.data)
