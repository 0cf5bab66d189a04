"""The graphs for launch_ros: what the files in launch/ share. Needs `launch` and `launch_ros` of a ROS installation."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from functools import partial
from typing import Any

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from armature.config import from_plain, to_plain
from armature_ros.graph import NodeSpec, graph_environment, make_graph
from armature_ros.graph_config import GraphConfig
from armature_ros.spin import EXIT_BAD_INPUT, EXIT_FAULT
from armature_ros.up import NodeDied
from launch import LaunchContext, LaunchDescription


def describe_graph(name: str) -> LaunchDescription:
    """Return the launch description of a graph; its launch arguments are the fields of GraphConfig."""
    defaults = to_plain(GraphConfig())
    arguments = [DeclareLaunchArgument(key, default_value=_text(value)) for key, value in defaults.items()]
    return LaunchDescription([*arguments, OpaqueFunction(function=_nodes, args=[name])])


def _nodes(context: LaunchContext, name: str) -> list[Any]:
    defaults = to_plain(GraphConfig())
    given = {field.name: LaunchConfiguration(field.name).perform(context) for field in fields(GraphConfig)}
    config = from_plain(GraphConfig, {key: _value(text, defaults[key]) for key, text in given.items()})
    return [_action(node) for node in make_graph(name, config)]


def _action(node: NodeSpec) -> Node:
    return Node(
        executable=sys.executable,
        arguments=["-m", f"armature_ros.{node.executable}"],
        ros_arguments=node.ros_arguments(),
        name=node.name,
        exec_name=node.name,
        additional_env={**graph_environment(), **node.environment},
        output="screen",
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
    return _action(replace(node, restarts=node.restarts - 1))


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _value(text: str, default: Any) -> Any:
    """Read a launch argument as the type of the field's default."""
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(default, list):
        return text.split()
    return int(text) if isinstance(default, int) and text.removeprefix("-").isdecimal() else text
