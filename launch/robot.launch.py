"""`ros2 launch launch/robot.launch.py [field:=value ...]`: a real robot, driven by a policy or a person."""

from __future__ import annotations

from armature_ros.launching import describe_graph
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the graph `robot`."""
    return describe_graph("robot")
