"""In real time nobody waits: the robot moves by the newest command, and control ticks by its own clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
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
