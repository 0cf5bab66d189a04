"""Graphs of real processes that go wrong: the fault is named, the exit code says so, and nothing is left running."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from armature.spec import CAMERA_SCENE, CAMERA_WRIST, JOINT_POSITION
from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import GraphConfig, make_graph
from armature_ros.up import RunningGraph
from data_collection.store import open_dataset
from sim.tasks import SimConfig, robot_spec

TIMEOUT_S = 60

pytestmark = pytest.mark.ros


class Up:
    """`armature up` as a process, its output so far and the node processes below it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""

    def read_until(self, *words: str) -> None:
        """Read lines until each of `words` has been seen."""
        assert self.process.stdout is not None
        while not all(word in self.output for word in words):
            line = self.process.stdout.readline()
            assert line, f"ended before {words} in:\n{self.output}"
            self.output += line

    def wait(self) -> int:
        """Read the rest and return the exit code."""
        self.output += self.process.communicate(timeout=TIMEOUT_S)[0]
        return self.process.returncode

    def nodes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def node(self, name: str) -> psutil.Process:
        (found,) = [node for node in self.nodes() if f"armature_ros.{name}" in node.cmdline()]
        return found


@contextmanager
def up(*arguments: str) -> Iterator[Up]:
    """Start `armature up sim` without cameras."""
    command = [sys.executable, "-m", "armature.cli", "up", "sim", "--no-cameras", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield Up(process)
        finally:
            process.kill()


def wait_until_gone(nodes: list[psutil.Process]) -> None:
    gone, alive = psutil.wait_procs(nodes, timeout=TIMEOUT_S)
    assert not alive, [node.cmdline() for node in alive]
    assert gone


def test_node_that_dies_stops_the_graph_and_is_named(environment: dict[str, str]) -> None:
    with up("--episodes", "1000") as graph:
        graph.read_until("episode 0, seed 0:")
        nodes = graph.nodes()
        assert len(nodes) == 3
        graph.node("control_node").kill()
        assert graph.wait() == 1
        assert "node control_node was killed by SIGKILL; the graph was stopped" in graph.output
        assert "Traceback" not in graph.output
        wait_until_gone(nodes)


def test_ctrl_c_ends_every_node(environment: dict[str, str]) -> None:
    with up() as graph:
        graph.read_until("[control_node] INFO: ready", "[policy_node] INFO: expert/lift: ready")
        nodes = graph.nodes()
        graph.process.send_signal(signal.SIGINT)
        assert graph.wait() == 0
        assert "Traceback" not in graph.output
        wait_until_gone(nodes)


def test_nodes_end_even_when_the_supervisor_is_killed(environment: dict[str, str]) -> None:
    with up() as graph:
        graph.read_until("[control_node] INFO: ready")
        nodes = graph.nodes()
        graph.process.kill()
        wait_until_gone(nodes)


@pytest.mark.fault(row=10)
def test_checkpoint_of_another_robot_is_refused_naming_the_fields(
    environment: dict[str, str], tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "policy", robot_spec(SimConfig()), (CAMERA_WRIST, JOINT_POSITION))
    with up("--policy", str(checkpoint)) as graph:
        assert graph.wait() == 1
        assert f"checkpoint {checkpoint} does not fit this robot" in graph.output
        assert "observation camera/wrist: needed" in graph.output
        assert "node policy_node ended with exit code 2; the graph was stopped" in graph.output
        assert "Traceback" not in graph.output


def test_missing_camera_is_named_and_the_arm_holds(
    environment: dict[str, str], tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    """The robot is said to have cameras, but its simulator publishes none."""
    checkpoint = write_checkpoint(tmp_path / "policy", robot_spec(SimConfig()), (CAMERA_SCENE, JOINT_POSITION))
    overrides = (
        "policy_node.robot.cameras=true",
        "control_node.chunk_timeout_s=5.0",
        "recorder_node.robot.cameras=false",
    )
    dataset = tmp_path / "dataset"
    config = GraphConfig(
        cameras=False, horizon_steps=5, policy=str(checkpoint), dataset=str(dataset), overrides=overrides
    )
    lines: list[tuple[str, str]] = []
    nodes = make_graph("sim", config)
    with (
        RunningGraph(nodes, environment, log=lambda name, line: lines.append((name, line))) as graph,
        EpisodeDriver(records=True, check=graph.check) as driver,
    ):
        outcome = driver.run_episode()
    assert ("policy_node", "WARN: waiting for camera/scene/image_raw (nobody publishes it)") in lines
    assert outcome.result["success"] is False
    (episode,) = open_dataset(dataset).episodes
    commands = episode.read("action/executed")[2]
    assert (commands == commands[0]).all()
    requested = episode.read("action/requested")[2]
    assert requested.shape == (5, 8)
    assert (requested != requested).all()
