"""ROS parameters to frozen dataclasses: the YAML file is the source of truth, and unknown keys are errors."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from armature.config import from_plain, to_plain
from armature.errors import ConfigError

T = TypeVar("T")

# What rclpy declares on every node by itself.
_OF_RCLPY = ("use_sim_time", "start_type_description_service", "qos_overrides")


def load_config(node: Node, cls: type[T]) -> T:
    """Build the configuration `cls` from the parameters given to `node`, and declare the defaults of the rest.

    The node must have been made with `automatically_declare_parameters_from_overrides=True`. Nested dataclasses are
    dotted names (`tcp.box_low_m`). Raises ConfigError naming the node and the key.
    """
    given = {
        name: _plain(parameter.value)
        for name, parameter in node.get_parameters_by_prefix("").items()
        if name.split(".")[0] not in _OF_RCLPY
    }
    try:
        config = from_plain(cls, _nested(given))
    except ConfigError as error:
        raise ConfigError(f"parameters of {node.get_name()}: {error}") from None
    for name, value in _flat(to_plain(config)).items():
        # ROS has no type for an empty list or for nothing.
        if not node.has_parameter(name) and value not in (None, []):
            node.declare_parameter(name, value, ParameterDescriptor(read_only=True))
    node.add_on_set_parameters_callback(_refuse_changes)
    return config


def _refuse_changes(parameters: list[Parameter]) -> SetParametersResult:
    names = [p.name for p in parameters if p.name.split(".")[0] not in _OF_RCLPY]
    return SetParametersResult(successful=not names, reason="read at start only: " + ", ".join(names) if names else "")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (array, tuple)) else value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn {"a.b": 1} into {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        put(tree, name.split("."), value)
    return tree


def put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set the value at the keys `path`; raise ConfigError where one that would hold others has a value of its own."""
    for depth, key in enumerate(path[:-1], start=1):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            owner = ".".join(path[:depth])
            raise ConfigError(f"{owner} is {tree!r}, but {'.'.join(path)} is set too: leave out one of them")
    tree[path[-1]] = value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn {"a": {"b": 1}} into {"a.b": 1}; inverse of `_nested`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
