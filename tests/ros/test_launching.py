"""What a launch does when a node ends, with stand-ins for `launch` and `launch_ros`, which no wheel brings."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from armature.errors import ConfigError
from armature_ros.graph import NodeSpec
from armature_ros.spin import PARENT_VARIABLE
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
    monkeypatch.setitem(sys.modules, "launch.substitutions", SimpleNamespace(LaunchConfiguration=lambda *_, **__: None))
    stand_in("launch_ros.actions", "Node")
    yield importlib.import_module("armature_ros.launching")
    sys.modules.pop("armature_ros.launching")


def context_of(*, is_shutdown: bool = False, **configurations: str) -> Any:
    return SimpleNamespace(is_shutdown=is_shutdown, launch_configurations=configurations, argv=[])


def end_of(action: Any, returncode: int, *, is_shutdown: bool = False) -> Any:
    return action.on_exit(SimpleNamespace(returncode=returncode), context_of(is_shutdown=is_shutdown))


def test_a_node_is_started_again_a_few_times_and_then_done_without(launching: ModuleType) -> None:
    first = launching._action(NodeSpec("learner_node", "learner_node", (), restarts=2), context_of())
    second = end_of(first, -9)
    third = end_of(second, 1)
    assert [action.name for action in (first, second, third)] == ["learner_node"] * 3
    assert end_of(third, 1).msg == "node learner_node ended with exit code 1; the graph goes on without it"


def test_a_node_that_tells_of_a_fault_is_done_without_and_bad_input_ends_the_launch(launching: ModuleType) -> None:
    learner = launching._action(NodeSpec("learner_node", "learner_node", (), restarts=2), context_of())
    assert end_of(learner, 3).msg == "node learner_node ended with exit code 3; the graph goes on without it"
    with pytest.raises(NodeDied, match="node learner_node ended with exit code 2"):
        end_of(learner, 2)
    assert end_of(learner, 1, is_shutdown=True) is None


def test_any_other_node_ends_the_launch(launching: ModuleType) -> None:
    control = launching._action(NodeSpec("control_node", "control_node", ()), context_of())
    with pytest.raises(NodeDied, match="node control_node was killed by SIGKILL"):
        end_of(control, -9)
    assert end_of(control, -9, is_shutdown=True) is None


def test_a_node_dies_with_the_launch_unless_a_prefix_is_between_them(launching: ModuleType) -> None:
    node = NodeSpec("control_node", "control_node", ())
    assert launching._action(node, context_of()).additional_env[PARENT_VARIABLE] == str(os.getpid())
    prefixed = launching._action(node, context_of(**{"launch-prefix": "gdb --args"}))
    assert PARENT_VARIABLE not in prefixed.additional_env


def test_an_argument_that_is_misspelt_is_refused_and_that_of_a_file_around_is_not(launching: ModuleType) -> None:
    context = context_of()
    context.argv = ["policy:=expert", "launch-prefix:=nice", "camera_height:=2"]
    launching._require_known(context, ["policy", "task"])
    context.argv.append("polciy:=expert")
    with pytest.raises(ConfigError, match=r"unknown launch argument 'polciy'\. Did you mean 'policy'"):
        launching._require_known(context, ["policy", "task"])
