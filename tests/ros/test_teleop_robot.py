"""A person at a real pseudo-terminal drives a robot without any policy, under `armature up`, and records episodes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from control_lab import PATIENCE_S
from std_msgs.msg import String

from armature.errors import ConfigError
from armature.types import Reason
from armature_ros.config_files import config_folder
from armature_ros.graph import make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.held_back import HeldBack
from armature_ros.teleop_episode import BEGIN, TeleopEpisode, in_words
from data_collection.store import open_dataset
from data_collection.streams import TAKEOVER

UP = b"\x1b[A"


@pytest.fixture
def blind_fer(tmp_path: Path) -> Path:
    """The files of the FER without its cameras."""
    robots = config_folder() / "robots"
    spec = json.loads((robots / "fer.json").read_text())
    arrays = spec["observation"]["arrays"]
    spec["observation"]["arrays"] = [array for array in arrays if not array["name"].startswith("camera/")]
    (tmp_path / "blind.json").write_text(json.dumps(spec))
    parameters = yaml.safe_load((robots / "fer.yaml").read_text())
    streams = parameters["/**"]["ros__parameters"]["streams"]
    for name in [name for name in streams if name.startswith("camera/")]:
        del streams[name]
    file = tmp_path / "blind.yaml"
    file.write_text(yaml.safe_dump(parameters))
    return file


class Operator:
    """Types at the terminal of `armature up robot --operator keyboard`."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self._log = folder / "up.log"
        self._keys, theirs = pty.openpty()
        command = [sys.executable, "-m", "armature.cli", "up", "robot", "--operator", "keyboard", *arguments]
        with self._log.open("wb") as file:
            self._process = subprocess.Popen(command, stdin=theirs, stdout=file, stderr=file, cwd=folder)
        os.close(theirs)
        self._heard = 0

    def hears(self, *words: str) -> bool:
        """Tell whether all this was said since the last key was pressed."""
        return all(each in self._log.read_text()[self._heard :] for each in words)

    def hold(self, keys: bytes, is_done: Callable[[], bool]) -> None:
        """Hold a key down: terminals repeat it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_done():
            assert time.monotonic() < deadline_s, self._log.read_text()
            assert self._process.poll() is None, self._log.read_text()
            os.write(self._keys, keys)
            time.sleep(0.03)

    def type(self, key: bytes) -> None:
        self._heard = len(self._log.read_text())
        os.write(self._keys, key)

    def press(self, key: bytes, *words: str) -> None:
        self.type(key)
        self.hold(b"", lambda: self.hears(*words))

    def close(self) -> int:
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(PATIENCE_S)
        os.close(self._keys)
        return code


@pytest.fixture
def operate(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[list[str]], Operator]]:
    made: list[Operator] = []

    def start(arguments: list[str]) -> Operator:
        made.append(Operator(arguments, tmp_path))
        made[0].hold(b"", lambda: made[0].hears("h: help", "profile run, not armed", "dataset: ready"))
        return made[0]

    yield start
    assert [operator.close() for operator in made] == [0]


@pytest.mark.ros
@pytest.mark.alone
@pytest.mark.parametrize(
    ("action", "keys", "wall"),
    [
        ("joint_position", b"4" + UP, "wall of the workspace"),
        pytest.param("tcp_delta", UP, "near a singularity", marks=pytest.mark.slow),
    ],
)
def test_a_person_arms_moves_and_records_a_real_arm_and_hears_what_holds_it_back(
    operate: Callable[[list[str]], Operator], blind_fer: Path, tmp_path: Path, action: str, keys: bytes, wall: str
) -> None:
    folder = tmp_path / "dataset"
    told = ["--action", action, "--dataset", str(folder)]
    person = operate(["--robot", str(blind_fer), "--mock-arm", "--no-cameras", *told])
    person.hold(keys, lambda: person.hears("held back: not armed"))
    person.type(b"n")
    # Held while the episode begins, too.
    person.hold(keys, lambda: person.hears(f"held back: {wall}"))
    person.press(b"n", "an episode is recorded: y, x or Backspace ends it first")
    person.press(b"y", "episode 0: success, ")
    assert not person.hears("LOST")
    person.press(b"n", "episode 1 is recorded", "armed: the keys move the arm")
    person.press(b"x", "episode 1: failure, ")

    first, second = open_dataset(folder).episodes
    assert (first.metadata["outcome"], second.metadata["outcome"]) == ("success", "failure")
    start = first.read("joint/position")[2][0]
    # What was asked for before the arming is not made up for: the arm begins to move from where it was.
    requested = first.read("action/requested")[2][:, :7]
    assert np.abs(requested[np.isfinite(requested).all(axis=1)][0] - start).max() < 0.02
    assert first.read("action/executed")[2][-1, 3] - start[3] > 0.3
    assert first.read(TAKEOVER)[2].max() == 1.0


@pytest.mark.parametrize(("graph", "arm"), [("robot", "mock_arm_node"), ("collect", "sim_node")])
def test_for_a_device_there_is_neither_policy_nor_keyboard(graph: str, arm: str) -> None:
    simulated = {"mock_arm": True} if graph == "robot" else {}
    nodes = make_graph(graph, GraphConfig(operator="device", cameras=False, dataset="d", **simulated))
    assert {node.name for node in nodes} == {arm, "control_node", "recorder_node"}
    assert next(node for node in nodes if node.name == "control_node").overrides["lockstep"] is False


def test_the_keyboard_takes_the_place_of_the_policy() -> None:
    nodes = {node.name: node for node in make_graph("robot", GraphConfig(operator="keyboard", action="tcp_delta"))}
    assert "policy_node" not in nodes
    assert nodes["teleop_node"].needs_terminal
    assert nodes["teleop_node"].overrides["robot.action"] == "tcp_delta"
    assert nodes["teleop_node"].overrides["recorder"] is False
    with pytest.raises(ConfigError, match=r"does not use --device, valid with sim, collect, robot, residual$"):
        make_graph("robot", GraphConfig(operator="keyboard", device="cuda"))


@pytest.mark.parametrize(
    ("service", "answer", "words"),
    [
        ("recorder_node/end",
         {"episode": 7, "success": True, "steps": 120, "duration_s": 6.04,
          "counts": {"camera/scene": {"dropped": {"queue full": 2, "late": 1}}, "reward": {"dropped": {}}}},
         "episode 7: success, 120 steps in 6.0 s, LOST: 3 of camera/scene"),
        ("recorder_node/start", {"episode": 3, "begin_ns": 1}, "episode 3 is recorded"),
        ("recorder_node/start", {"number": 3}, 'recorder_node/start: {"number": 3}'),
        ("control_node/reset", {}, ""),
    ],
)  # fmt: skip
def test_answers_of_services_are_worded_for_a_person(service: str, answer: dict[str, object], words: str) -> None:
    assert in_words(service, json.dumps(answer)) == words


def test_of_what_the_gate_counts_the_newest_that_keeps_the_arm_from_moving_is_the_reason(
    environment: dict[str, str],
) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    held_back = HeldBack(rclpy.create_node("person", context=context))

    def after(text: str) -> Reason | None:
        held_back._on_status(String(data=text))
        return held_back.reason

    # What was counted before it listened is long past.
    assert after('{"state": "armed", "counts": {"tcp_box": 5, "not_armed": 900}}') is None
    assert (
        after('{"state": "armed", "counts": {"tcp_box": 6, "not_armed": 900, "velocity_limit": 4}}') is Reason.TCP_BOX
    )
    assert not held_back.is_stopped
    assert after('{"state": "disarmed", "counts": {"tcp_box": 7, "not_armed": 901}}') is Reason.NOT_ARMED
    assert held_back.is_stopped
    assert after('{"state": "armed", "counts": {"tcp_box": 7, "not_armed": 901, "velocity_limit": 9}}') is None
    # A control node that was reset, or started again, counts anew.
    assert after('{"state": "armed", "counts": {"singularity": 1}}') is Reason.SINGULARITY
    assert after("nonsense") is Reason.SINGULARITY
    rclpy.shutdown(context=context)


def test_without_a_recorder_it_is_said_that_nothing_is_recorded(
    environment: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    begun: list[None] = []
    episode = TeleopEpisode(rclpy.create_node("person", context=context), (), on_reset=lambda: begun.append(None))
    for key, calls in (("n", len(BEGIN)), ("y", 1), ("\b", 1)):
        assert episode.press(key)
        for _ in range(calls):
            episode.advance()
    rclpy.shutdown(context=context)
    said = capfd.readouterr()
    assert len(begun) == 1
    assert (said.out + said.err).count("nothing is recorded: the graph has no --dataset") == 3
    assert "armed: the keys move the arm; nothing" in said.out + said.err
