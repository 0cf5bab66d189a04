"""A person at a real pseudo-terminal takes the arm over from a policy, moves it, labels the episode, gives it back."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from control_lab import PATIENCE_S, START, Lab, judge
from std_srvs.srv import SetBool

from armature.errors import ConfigError
from armature_ros.graph import NodeSpec, make_graph
from armature_ros.graph_config import GraphConfig

GRIPPER = 7


def graph_of(flights: Path | str) -> tuple[NodeSpec, ...]:
    overrides = (f"control_node.flight_folder={flights}",)
    return make_graph("robot", GraphConfig(cameras=False, mock_arm=True, takeover="keyboard", overrides=overrides))


class Person:
    """Types at the terminal of takeover_node, while a policy asks for the start with an open gripper."""

    def __init__(self, lab: Lab, command: list[str], log: Path) -> None:
        self.lab, self._log = lab, log
        self.labels: list[bool] = []
        lab.node.create_service(SetBool, "residual_node/label", self._on_label)
        self._keys, theirs = pty.openpty()
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdin=theirs, stdout=file, stderr=file)
        os.close(theirs)

    def close(self) -> None:
        self.process.terminate()
        assert self.process.wait(10) == 0
        os.close(self._keys)

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def position(self) -> np.ndarray:
        return self.lab.commands[-1][1]

    def type_until(self, keys: bytes, is_done: Callable[[], bool]) -> None:
        """Hold a key down: terminals repeat it; the policy goes on with its chunks."""
        deadline_s, turn = time.monotonic() + PATIENCE_S, 0
        while not is_done():
            assert time.monotonic() < deadline_s, (self.lab.status, self.said)
            if turn % 10 == 0:
                self.lab.plan()
            if keys:
                os.write(self._keys, keys)
            turn += 1
            time.sleep(0.02)

    def press(self, key: bytes, is_done: Callable[[], bool]) -> None:
        os.write(self._keys, key)
        self.type_until(b"", is_done)

    def take_over(self) -> None:
        """Press t, again for as long as it is not known where the arm is."""
        while "YOU DRIVE" not in self.said:
            known = len(self.said)
            self.press(b"t", lambda known=known: len(self.said) > known)
        self.type_until(b"", lambda: self.lab.status["human"] == 1.0)

    def _on_label(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.labels.append(request.data)
        response.success, response.message = request.data, "nothing to label" if not request.data else "noted"
        return response


@pytest.fixture
def person(environment: dict[str, str], tmp_path: Path) -> Iterator[Person]:
    nodes = {node.name: node for node in graph_of(tmp_path / "flights")}
    lab = Lab((nodes["control_node"], nodes["mock_arm_node"]))
    lab.arm()
    made = Person(lab, nodes["takeover_node"].command(), tmp_path / "takeover.log")
    yield made
    made.close()
    lab.close()


@pytest.mark.ros
def test_a_key_takes_the_arm_over_others_move_and_label_and_the_same_key_gives_it_back(person: Person) -> None:
    lab = person.lab
    person.type_until(b"", lambda: lab.status["state"] == "armed" and "take over, give back" in person.said)
    lab.commands.clear()
    # Keys do nothing while the policy drives.
    person.type_until(b"2\x1b[A", lambda: len(lab.commands) > 30)
    assert np.array_equal(person.position, START)
    person.take_over()
    assert np.allclose(person.position, START)
    person.type_until(b"2\x1b[A", lambda: person.position[1] > START[1] + 0.05)
    person.press(b"g", lambda: person.position[GRIPPER] == 0.08)
    assert np.allclose(np.delete(person.position, [1, GRIPPER]), np.delete(START, [1, GRIPPER]))
    person.press(b"y", lambda: person.labels == [True] and "label: noted" in person.said)
    person.press(b"x", lambda: person.labels == [True, False] and "label: nothing to label" in person.said)
    person.press(b"t", lambda: lab.status["human"] == 0.0 and np.allclose(person.position, START))
    assert lab.status["state"] == "armed"
    judge(lab.commands)


@pytest.mark.ros
def test_a_person_whose_arm_falls_silent_has_given_back(person: Person) -> None:
    lab = person.lab
    person.type_until(b"", lambda: lab.status["state"] == "armed" and "take over, give back" in person.said)
    person.take_over()
    lab.kill("mock_arm_node")
    lab.wait(lambda: "the arm is silent: given back" in person.said, "the person is told")
    lab.await_state("latched")


def test_the_keyboard_is_of_the_same_robot_and_the_control_node_listens_to_it() -> None:
    nodes = {node.name: node for node in graph_of("flights")}
    assert nodes["control_node"].overrides["takeover"] is True
    assert nodes["takeover_node"].needs_terminal
    assert nodes["takeover_node"].overrides["robot.spec_file"] == nodes["control_node"].overrides["robot.spec_file"]
    sim = {node.name: node for node in make_graph("sim", GraphConfig(takeover="keyboard"))}
    assert (sim["sim_node"].overrides["lockstep"], sim["control_node"].overrides["lockstep"]) == (False, False)


def test_who_drives_all_the_time_takes_nothing_over() -> None:
    config = GraphConfig(takeover="keyboard", operator="keyboard", dataset="unused")
    with pytest.raises(ConfigError, match="with the operator 'keyboard' a person always drives"):
        make_graph("collect", config)
