"""In real time nobody waits: the robot moves by the newest command, and control ticks by its own clock.

A reset in the middle of an episode leaves nothing of it in the next one, at either pace.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from std_msgs.msg import String
from std_srvs.srv import Trigger

from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.sim_node import SimNode
from armature_ros.up import RunningGraph
from data_collection.store import open_dataset
from sim.defaults import panda_limits

pytestmark = pytest.mark.ros


def test_expert_moves_the_arm_within_its_limits(environment: dict[str, str], tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    config = GraphConfig(cameras=False, lockstep=False, horizon_steps=20, dataset=str(dataset))
    with (
        RunningGraph(make_graph("sim", config), environment) as graph,
        EpisodeDriver(records=True, check=graph.check) as driver,
    ):
        outcome = driver.run_episode()
    (episode,) = open_dataset(dataset).episodes
    published = outcome.result["published"]
    assert {name: episode.length(name) for name in published} == dict.fromkeys(published, 20)
    commands = episode.read("action/executed")[2]
    steps = np.abs(np.diff(commands, axis=0))[:, :7]
    assert steps.max() > 0
    # A hundred commands a second.
    assert (steps <= np.array(panda_limits().velocity_max)[:7] * 0.01 + 1e-9).all()
    stamps = episode.read("joint/position")[0]
    assert (np.diff(stamps) > 0).all()


class Resetting:
    """An executor whose callbacks command the arm; with the third comes a reset, and nothing afterwards."""

    def __init__(self, node: SimNode) -> None:
        self.node, self.calls, self.requested = node, 0, False

    def spin_once(self, timeout_sec: float) -> None:
        time.sleep(max(0.0, timeout_sec) if not self.node.config.lockstep else 0.0)
        running = self.node._running
        assert running is not None
        running.command, running.commanded_ns = np.array([100.0, 100.0]), time.monotonic_ns()
        self.calls += 1
        if self.calls == 3:
            self.reset()
            self.requested = True

    def reset(self) -> None:
        assert self.node._on_reset(Trigger.Request(), Trigger.Response()).success


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_reset_amid_an_episode_tells_its_counts_and_leaves_the_next_one_as_it_is_prepared(
    environment: dict[str, str], lockstep: bool
) -> None:
    config = GraphConfig(task="pusht", cameras=False, lockstep=lockstep)
    spec = next(node for node in make_graph("sim", config) if node.name == "sim_node")
    rclpy.init(args=["--ros-args", *spec.ros_arguments()])
    node = SimNode()
    told: list[String] = []
    node._result_publisher = SimpleNamespace(publish=told.append)
    try:
        executor = Resetting(node)
        executor.reset()
        node._running.is_started = True
        node.loop(executor, executor)
        (result,) = (json.loads(message.data) for message in told)
        assert (result["episode"], result["steps"], result["published"]["reward"]) == (0, 2, 2)
        assert set(result["published"].values()) == {2, 3}
        assert node._running.episode.episode == 1
        assert not any({**node._streams.counts, **node._rewards.counts}.values())
    finally:
        node.destroy_node()
        rclpy.shutdown()
