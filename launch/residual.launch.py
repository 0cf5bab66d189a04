"""`ros2 launch launch/residual.launch.py [field:=value ...]`: a policy that is corrected, and learned from."""

from __future__ import annotations

from armature_ros.launching import describe_graph
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the graph `residual`."""
    return describe_graph("residual")
