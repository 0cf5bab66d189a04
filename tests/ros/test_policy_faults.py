"""Policies that cannot be loaded, or run out of memory: the reason is named, nothing is armed, the exit code tells."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from armature.spec import CAMERA_SCENE, JOINT_POSITION
from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.up import NodeDied, RunningGraph
from policies.nets.observation import VisionConfig
from policies.signed_folder import digest
from sim.tasks import SimConfig, robot_spec

pytestmark = pytest.mark.ros

TIMEOUT_S = 120


@pytest.fixture
def checkpoint(tmp_path: Path, write_checkpoint: Callable[..., Path]) -> Path:
    """A small policy that sees the arm and a camera."""
    return write_checkpoint(tmp_path / "policy", robot_spec(SimConfig()), (CAMERA_SCENE, JOINT_POSITION))


def flip(checkpoint: Path) -> None:
    file = checkpoint / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(checkpoint: Path) -> None:
    file = checkpoint / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def lose(checkpoint: Path) -> None:
    (checkpoint / "weights.safetensors").unlink()


DAMAGES = {
    flip: r"weights\.safetensors: damaged",
    cut: r"weights\.safetensors: damaged",
    lose: r"weights\.safetensors: cannot be read: No such file",
}


@pytest.mark.slow
@pytest.mark.fault(row=37)
@pytest.mark.parametrize(("damage", "message"), DAMAGES.items(), ids=[damage.__name__ for damage in DAMAGES])
def test_a_damaged_checkpoint_is_refused_before_anything_is_armed(
    environment: dict[str, str], checkpoint: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(checkpoint)
    command = [sys.executable, "-m", "armature.cli", "up", "sim", "--policy", str(checkpoint), "--episodes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert re.search(message, said)
    assert "node policy_node ended with exit code 2; the graph was stopped" in said
    assert "episode 0" not in said
    assert not [line for line in said.splitlines() if line.startswith("[policy_node]") and "Traceback" in line]


NO_MEMORY = r"MemoryError|can't allocate memory|Cannot allocate memory|not enough memory|bad_alloc"


def sign(checkpoint: Path, change: Callable[[dict], None]) -> None:
    """Change policy.json as somebody would who knows how to sign it."""
    document = json.loads((checkpoint / "policy.json").read_text())
    change(document)
    document["sha256"]["policy.json"] = digest(document)
    (checkpoint / "policy.json").write_text(json.dumps(document))


@pytest.mark.fault(row=36)
def test_a_network_that_does_not_fit_into_memory_ends_the_policys_process_with_the_reason(
    environment: dict[str, str], checkpoint: Path
) -> None:
    """Its layers would need 12 GB; the process may map 4, of which Python, ROS and PyTorch take more than 2."""
    sign(checkpoint, lambda document: document["method"]["unet"].update(dims=[16, 16_384]))
    nodes = make_graph("sim", GraphConfig(policy=str(checkpoint)))
    node = next(node for node in nodes if node.name == "policy_node")
    command = ["prlimit", f"--as={4 * 2**30}", *node.command()]
    variables = {**os.environ, **environment, **node.environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode not in (0, -signal.SIGKILL)
    assert re.search(NO_MEMORY, done.stderr)
    assert ": ready" not in done.stdout + done.stderr


def idle_bytes(pid: int) -> int:
    """Return how much a process has mapped while it computes nothing: the least of what is seen in two seconds."""
    seen = []
    for _ in range(40):
        seen.append(psutil.Process(pid).memory_info().vms)
        time.sleep(0.05)
    return min(seen)


def run_episodes(driver: EpisodeDriver, count: int) -> None:
    for _ in range(count):
        driver.run_episode()


@pytest.mark.slow
@pytest.mark.fault(row=36)
def test_a_policy_that_runs_out_of_memory_while_it_answers_ends_the_graph_with_the_reason(
    environment: dict[str, str], tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    """Its first layer makes 74 MB of an image, more than a heap keeps: they come from the kernel and go back to it."""
    wide = VisionConfig(channels=(1280, 8), strides=(1, 2), features=8, crop_margin_px=4)
    spec = robot_spec(SimConfig())
    checkpoint = write_checkpoint(tmp_path / "policy", spec, (CAMERA_SCENE, JOINT_POSITION), vision=wide)
    said: list[tuple[str, str]] = []
    config = GraphConfig(policy=str(checkpoint), horizon_steps=10)
    with (
        RunningGraph(make_graph("sim", config), environment, log=lambda *line: said.append(line)) as graph,
        EpisodeDriver(records=False, check=graph.check) as driver,
    ):
        assert driver.run_episode().result["steps"] == 10
        # Small things still find room, as they do when memory runs short.
        pid = graph.pids()["policy_node"]
        limit_bytes = idle_bytes(pid) + 10_000_000
        resource.prlimit(pid, resource.RLIMIT_AS, (limit_bytes, limit_bytes))
        with pytest.raises(NodeDied, match="node policy_node ended with exit code 1"):
            run_episodes(driver, 20)
    assert any(re.search(NO_MEMORY, line) for node, line in said if node == "policy_node"), said
