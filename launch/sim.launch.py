"""`ros2 launch launch/sim.launch.py [field:=value ...]`: a simulated robot under a policy."""

from __future__ import annotations

from armature_ros.launching import describe_graph
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the graph `sim`."""
    return describe_graph("sim")
