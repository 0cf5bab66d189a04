"""Row 56: processes that keep dying, what they leave behind, and two of one name."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from control_lab import PATIENCE_S, Lab, judge

from armature_ros import shared_memory
from armature_ros.graph import NodeSpec, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.qos import FASTDDS_PROFILE, PROFILE_VARIABLES
from armature_ros.shared_memory import remove_leftovers
from armature_ros.up import NodeDied, RunningGraph

pytestmark = [pytest.mark.ros, pytest.mark.fault(row=56)]

CONFIG = GraphConfig(cameras=False, mock_arm=True, overrides=('control_node.flight_folder=""',))
NODES = {node.name: node for node in make_graph("robot", CONFIG)}
ARM_AND_CONTROL = (NODES["mock_arm_node"], NODES["control_node"])


@contextmanager
def started(nodes: Sequence[NodeSpec], environment: dict[str, str]) -> Iterator[RunningGraph]:
    """Run a graph whose nodes have all said that they are ready."""
    said: list[tuple[str, str]] = []
    with RunningGraph(nodes, environment, log=lambda *line: said.append(line)) as graph:
        deadline_s = time.monotonic() + PATIENCE_S
        while {name for name, line in said if "ready" in line} != {node.name for node in nodes}:
            assert time.monotonic() < deadline_s, said
            graph.check()
            time.sleep(0.05)
        yield graph


def await_death(graph: RunningGraph) -> NodeDied:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            graph.check()
        except NodeDied as died:
            return died
        time.sleep(0.01)
    raise AssertionError(f"no node has died in {PATIENCE_S} s")


def test_a_node_that_dies_at_every_start_ends_its_graph_every_time_and_is_named(environment: dict[str, str]) -> None:
    """Nobody starts it again, so that nothing can go round and round: two starts are two deaths."""
    node = NODES["mock_arm_node"]
    broken = replace(node, overrides={**node.overrides, "rate": 1.0})
    for _ in range(2):
        said: list[tuple[str, str]] = []
        with RunningGraph([broken], environment, log=lambda *line, said=said: said.append(line)) as graph:
            assert str(await_death(graph)) == "node mock_arm_node ended with exit code 2"
        assert any("unknown key of MockArmNodeConfig 'rate'" in line for _, line in said), said


def lock_ports(domain: int) -> dict[Path, float]:
    """Leave the ports of a domain as a process does that is killed while it holds their locks (Fast DDS #3535).

    Returns the files and when they were made.
    """
    libc, names = ctypes.CDLL(None), []
    libc.sem_open.restype = ctypes.c_void_p
    for port in (7400 + 250 * domain, *range(7410 + 250 * domain, 7418 + 250 * domain)):
        name = f"fastrtps_port{port}_mutex"
        if is_held(shared_memory.FOLDER / f"fastrtps_port{port}_el"):
            continue  # of this very process
        libc.sem_unlink(f"/{name}".encode())
        assert libc.sem_open(f"/{name}".encode(), os.O_CREAT, 0o600, 0)
        names.append(name)
    files = [shared_memory.FOLDER / f"sem.{name}" for name in names]
    return {file: file.stat().st_mtime for file in files}


def dead_segments() -> set[str]:
    """Name the segments whose owner is dead: nobody holds their lock."""
    locks = shared_memory.FOLDER.glob(f"fastrtps_{'[0-9a-f]' * 16}_el")
    return {lock.name.removesuffix("_el") for lock in locks if not is_held(lock)}


def is_held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def drive_a_little() -> None:
    with closing(Lab(())) as lab:
        lab.arm()
        lab.drive()
        lab.wait(lambda: len(lab.commands) > 20, "commands")
        judge(lab.commands)


def test_what_a_killed_graph_leaves_in_shared_memory_is_removed_and_harms_no_successor(
    environment: dict[str, str], tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    before = dead_segments()
    # As a driver of somebody else's does, which shares memory.
    profile = shutil.copy(FASTDDS_PROFILE, tmp_path)
    sharing = replace(NODES["mock_arm_node"], environment=dict.fromkeys(PROFILE_VARIABLES, profile))
    with started([sharing], environment) as graph:
        os.kill(graph.pids()["mock_arm_node"], signal.SIGKILL)
        assert str(await_death(graph)) == "node mock_arm_node was killed by SIGKILL"
    left = dead_segments() - before
    assert left
    locked = lock_ports(int(environment["ROS_DOMAIN_ID"]))
    time.sleep(shared_memory.AGE_MIN_S + 0.1)
    with RunningGraph(ARM_AND_CONTROL, environment, log=lambda *_: None) as graph:
        assert not left & dead_segments()
        assert [lock.name for lock in locked if lock.exists() and lock.stat().st_mtime == locked[lock]] == []
        drive_a_little()
        graph.check()
    record_property("figure", f"{len(left)} segments of a dead process and {len(locked)} locked ports removed")


def test_only_what_nobody_holds_and_is_no_newborn_is_removed(tmp_path: Path) -> None:
    def leave(*names: str, age_s: float = 60.0) -> None:
        for name in names:
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (time.time() - age_s,) * 2)

    dead, held, born = "fastrtps_" + "d" * 16, "fastrtps_" + "a" * 16, "fastdds_" + "b" * 16
    port, free_port = "fastrtps_port7413", "fastrtps_port7415"
    others = ("sem.mp-abc", "fastrtps_port7413_copy", "data.bin", "fastrtps_" + "c" * 15)
    leave(dead, f"{dead}_el", free_port, f"sem.{free_port}_mutex", held, f"{held}_el", port, f"{port}_sl", *others)
    leave(f"sem.{port}_mutex")
    leave(born, f"{born}_el", age_s=0.0)
    with (tmp_path / f"{held}_el").open() as one, (tmp_path / f"{port}_sl").open() as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(other, fcntl.LOCK_SH)
        assert remove_leftovers(tmp_path) == [dead, free_port]
        kept = {held, f"{held}_el", port, f"{port}_sl", f"sem.{port}_mutex", born, f"{born}_el", *others}
        assert {file.name for file in tmp_path.iterdir()} == kept
    assert remove_leftovers(tmp_path) == [held, port]
    assert {file.name for file in tmp_path.iterdir()} == {born, f"{born}_el", *others}


def test_a_graph_is_not_started_beside_a_node_of_the_same_name(environment: dict[str, str], tmp_path: Path) -> None:
    with started([NODES["mock_arm_node"]], environment) as graph:
        command = ["up", "robot", "--mock-arm", "--no-cameras", "--policy", str(tmp_path)]
        done = subprocess.run(
            [sys.executable, "-m", "armature.cli", *command], capture_output=True, text=True, timeout=PATIENCE_S
        )
        graph.check()
    assert done.returncode == 2
    domain = environment["ROS_DOMAIN_ID"]
    assert f"mock_arm_node runs already in domain {domain}: end that graph first" in done.stderr
    assert "ready" not in done.stdout
