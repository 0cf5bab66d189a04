"""What a launch does when a node ends, with stand-ins for `launch` and `launch_ros`, which no wheel brings."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from armature_ros.graph import NodeSpec
from armature_ros.up import NodeDied


@pytest.fixture
def launching(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, whose actions are what they were made with."""

    def stand_in(module: str, *names: str) -> None:
        made = ModuleType(module)
        for name in names:
            setattr(made, name, type(name, (SimpleNamespace,), {}))
        monkeypatch.setitem(sys.modules, module, made)

    stand_in("launch", "LaunchContext", "LaunchDescription")
    stand_in("launch.actions", "DeclareLaunchArgument", "LogInfo", "OpaqueFunction")
    stand_in("launch.events.process", "ProcessExited")
    stand_in("launch.substitutions", "LaunchConfiguration")
    stand_in("launch_ros.actions", "Node")
    yield importlib.import_module("armature_ros.launching")
    sys.modules.pop("armature_ros.launching")


def end_of(action: Any, returncode: int, *, is_shutdown: bool = False) -> Any:
    return action.on_exit(SimpleNamespace(returncode=returncode), SimpleNamespace(is_shutdown=is_shutdown))


def test_a_node_is_started_again_a_few_times_and_then_done_without(launching: ModuleType) -> None:
    first = launching._action(NodeSpec("learner_node", "learner_node", (), restarts=2))
    second = end_of(first, -9)
    third = end_of(second, 1)
    assert [action.name for action in (first, second, third)] == ["learner_node"] * 3
    assert end_of(third, 1).msg == "node learner_node ended with exit code 1; the graph goes on without it"


def test_a_node_that_tells_of_a_fault_is_done_without_and_bad_input_ends_the_launch(launching: ModuleType) -> None:
    learner = launching._action(NodeSpec("learner_node", "learner_node", (), restarts=2))
    assert end_of(learner, 3).msg == "node learner_node ended with exit code 3; the graph goes on without it"
    with pytest.raises(NodeDied, match="node learner_node ended with exit code 2"):
        end_of(learner, 2)
    assert end_of(learner, 1, is_shutdown=True) is None


def test_any_other_node_ends_the_launch(launching: ModuleType) -> None:
    control = launching._action(NodeSpec("control_node", "control_node", ()))
    with pytest.raises(NodeDied, match="node control_node was killed by SIGKILL"):
        end_of(control, -9)
    assert end_of(control, -9, is_shutdown=True) is None
