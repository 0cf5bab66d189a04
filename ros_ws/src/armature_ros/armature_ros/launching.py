"""The graphs for launch_ros: what the files in launch/ share. Needs `launch` and `launch_ros` of a ROS installation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from armature.config import from_plain, to_plain
from armature.errors import ConfigError, unknown
from armature_ros.graph import NodeSpec, graph_environment, make_graph
from armature_ros.graph_config import OPTIONS, GraphConfig
from armature_ros.spin import EXIT_BAD_INPUT, EXIT_FAULT, PARENT_VARIABLE
from armature_ros.up import STOP_TIMEOUT_S, NodeDied, require_free
from launch import LaunchContext, LaunchDescription

LAUNCH_ARGUMENTS = (
    "launch-prefix",
    "launch-prefix-filter",
    "emulate_tty",
    "sigterm_timeout",
    "sigkill_timeout",
    "log_level",
)
"""Of launch itself."""


def describe_graph(name: str) -> LaunchDescription:
    """Return the launch description of a graph; its launch arguments are the fields of GraphConfig that it uses."""
    used = set().union(*(options for graph, options in OPTIONS.items() if graph.partition(" ")[0] == name))
    arguments = [
        DeclareLaunchArgument(key, default_value=_text(value), description=f"as {_option(key)} of armature up {name}")
        for key, value in to_plain(GraphConfig()).items()
        if key in used
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_nodes, args=[name])])


def _nodes(context: LaunchContext, name: str) -> list[Any]:
    defaults = to_plain(GraphConfig())
    _require_known(context, defaults)
    given = {key: LaunchConfiguration(key, default=_text(value)).perform(context) for key, value in defaults.items()}
    config = from_plain(GraphConfig, {key: _value(text, defaults[key]) for key, text in given.items()})
    nodes = make_graph(name, config)
    require_free(nodes, graph_environment())
    return [_action(node, context) for node in nodes]


def _require_known(context: LaunchContext, names: Iterable[str]) -> None:
    """Raise ConfigError on an argument of the command line that looks like one misspelt: launch passes over it.

    Others may be those of a launch file that includes this one.
    """
    known = {*names, *LAUNCH_ARGUMENTS}
    for argument in context.argv:
        key, assigned, _ = argument.partition(":=")
        if assigned and key not in known and get_close_matches(key, names):
            raise ConfigError(unknown("launch argument", key, names))


def _action(node: NodeSpec, context: LaunchContext) -> Node:
    # Under a prefix (gdb, xterm) the parent of the node is the prefix.
    is_child = not context.launch_configurations.get("launch-prefix")
    parent = {PARENT_VARIABLE: str(os.getpid())} if is_child else {}
    return Node(
        executable=sys.executable,
        arguments=["-m", f"armature_ros.{node.executable}"],
        ros_arguments=node.ros_arguments(),
        name=node.name,
        exec_name=node.name,
        # SIGTERM and SIGKILL end `ros2 launch` at once, its processes not asked: the kernel ends them then.
        additional_env={**graph_environment(), **node.environment, **parent},
        output="screen",
        sigterm_timeout=LaunchConfiguration("sigterm_timeout", default=str(STOP_TIMEOUT_S)),
        on_exit=partial(_on_exit, node),
    )


def _on_exit(node: NodeSpec, event: ProcessExited, context: LaunchContext) -> Node | LogInfo | None:
    """Do what `armature up` does: end the whole launch, or start the node again, or go on without it."""
    if context.is_shutdown:
        return None
    died = NodeDied(node.name, event.returncode)
    if node.restarts is None or event.returncode == EXIT_BAD_INPUT:
        # An exception ends the whole launch with exit code 1, which the action Shutdown would not.
        raise died
    if node.restarts == 0 or event.returncode == EXIT_FAULT:
        return LogInfo(msg=f"{died}; the graph goes on without it")
    # Not by `respawn`, which asks for no exit code.
    return _action(replace(node, restarts=node.restarts - 1), context)


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _value(text: str, default: Any) -> Any:
    """Read a launch argument as the type of the field's default."""
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(default, list):
        return text.split()
    return int(text) if isinstance(default, int) and text.removeprefix("-").isdecimal() else text
