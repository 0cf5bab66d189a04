"""`ros2 launch launch/collect.launch.py [field:=value ...]`: a simulated robot, demonstrated and recorded."""

from __future__ import annotations

from armature_ros.launching import describe_graph
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the graph `collect`."""
    return describe_graph("collect")
