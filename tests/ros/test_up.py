"""Graphs of real processes that go wrong: the fault is named, the exit code says so, and nothing is left running."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from armature.spec import CAMERA_SCENE, CAMERA_WRIST, JOINT_POSITION
from armature_ros.episodes import EpisodeDriver
from armature_ros.graph import NodeSpec, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.up import EpisodeFailed, RunningGraph, interrupt_on_hangup, main
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


@pytest.mark.slow
def test_a_second_ctrl_c_kills_nobody_who_is_about_to_end(environment: dict[str, str], tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    with up("--no-lockstep", "--dataset", str(dataset), "--episodes", "50") as graph:
        graph.read_until("[recorder_node] INFO:")
        while not (dataset / "episodes" / "000000").exists():
            assert graph.process.poll() is None, graph.wait()
            time.sleep(0.05)
        for _ in range(2):
            graph.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert graph.wait() == 0
        assert "is kept as incomplete: the recorder was stopped" in graph.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--episodes", "-1"], "--episodes is -1, must be 0 or more"),
        (["--seed", "-3"], "--seed is -3, must be 0 or more"),
    ],
)
def test_numbers_that_cannot_be_are_refused(arguments: list[str], words: str) -> None:
    with up(*arguments) as graph:
        assert (graph.wait(), words in graph.output) == (2, True), graph.output


def test_what_a_node_refuses_ends_the_graph_as_any_bad_input_does(environment: dict[str, str]) -> None:
    with up("--overrides", "control_node.profile=fast") as graph:
        assert graph.wait() == 2
        assert "unknown profile" in graph.output
        assert "node control_node ended with exit code 2; the graph was stopped" in graph.output


@contextmanager
def hearing_hangups() -> Iterator[None]:
    """Have what is started hear that a terminal was closed, also where these tests are run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_every_node_in_order(environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "armature.cli", "up", "sim", "--no-cameras"]
    with hearing_hangups():
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        output = b""
        while not all(
            word in output for word in (b"[control_node] INFO: ready", b"expert/lift: ready", b"lift: ready")
        ):
            output += os.read(ours, 4096)
        nodes = psutil.Process(process.pid).children()
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        # Of one that was killed, or failed over what it could not print, it would be 3 or 1.
        assert process.wait(TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()
    assert len(nodes) == 3
    wait_until_gone(nodes)


@pytest.mark.slow
def test_under_nohup_a_closed_terminal_changes_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupt_on_hangup()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_node_that_has_to_be_killed_at_the_end_is_named_and_the_exit_code_says_so(
    environment: dict[str, str],
) -> None:
    with up() as graph:
        graph.read_until("[control_node] INFO: ready", "[policy_node] INFO: expert/lift: ready")
        nodes = graph.nodes()
        graph.node("policy_node").suspend()
        graph.process.send_signal(signal.SIGINT)
        assert graph.wait() == 3
        assert "[policy_node] policy_node: did not end within 8 s, killed" in graph.output
        assert "armature up: policy_node had a fault, of the disk or of what it learned, or did not" in graph.output
        wait_until_gone(nodes)


class Script(NodeSpec):
    """A node that is a few lines of Python: `executable`."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", f"import signal, sys, time\n{self.executable}\nprint('ready'); time.sleep(60)"]


def script(name: str, lines: str, restarts: int | None = None) -> Script:
    return Script(name, lines, (), restarts=restarts, environment={"PYTHONUNBUFFERED": "1"})


def test_nodes_that_crash_at_the_end_or_do_not_hear_are_faulty_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("armature_ros.up.STOP_TIMEOUT_S", 1.0)
    nodes = (
        script("orderly", ""),
        script("deaf", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"),
        script("crashing", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))"),
        script("reporting", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))"),
        script("given_up", "sys.exit(7)", restarts=0),
    )
    said: list[tuple[str, str]] = []

    def log(*line: str) -> None:
        said.append(line)
        raise OSError("no terminal any more")

    with RunningGraph(nodes, {}, log) as graph:
        deadline_s = time.monotonic() + TIMEOUT_S
        while [line for _, line in said].count("ready") < 4 or len(said) < 5:
            assert time.monotonic() < deadline_s, said
            graph.check()
            time.sleep(0.05)
    assert ("given_up", "node given_up ended with exit code 7; the graph goes on without it") in said
    assert [line for line in said if "killed" in line[1]] == [("deaf", "deaf: did not end within 1 s, killed")]
    assert graph.faulty() == ["deaf", "crashing", "reporting"]


def test_an_episode_that_fails_is_no_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = script("faulty", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))")

    def fail(*_: object) -> int:
        while "ready" not in capsys.readouterr().out:
            time.sleep(0.05)
        raise EpisodeFailed("answer of control_node/arm: nothing for 120 s")

    monkeypatch.setattr("armature_ros.up.make_graph", lambda *_: (faulty,))
    monkeypatch.setattr("armature_ros.up.require_free", lambda *_: None)
    monkeypatch.setattr("armature_ros.up._watch", fail)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        assert main(["sim"]) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    said = capsys.readouterr().err
    assert "armature up: answer of control_node/arm: nothing for 120 s; the graph was stopped" in said
    assert "armature up: faulty had a fault" in said


def test_nodes_end_even_when_the_supervisor_is_killed(environment: dict[str, str]) -> None:
    with up() as graph:
        graph.read_until("[control_node] INFO: ready")
        nodes = graph.nodes()
        graph.process.kill()
        wait_until_gone(nodes)


@pytest.mark.slow
@pytest.mark.fault(row=10)
def test_checkpoint_of_another_robot_is_refused_naming_the_fields(
    environment: dict[str, str], tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "policy", robot_spec(SimConfig()), (CAMERA_WRIST, JOINT_POSITION))
    with up("--policy", str(checkpoint)) as graph:
        assert graph.wait() == 2
        assert f"checkpoint {checkpoint} does not fit this robot" in graph.output
        assert "observation camera/wrist: needed" in graph.output
        assert "node policy_node ended with exit code 2; the graph was stopped" in graph.output
        assert "Traceback" not in graph.output


@pytest.mark.slow
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
