"""What drives the arm shares no memory: who is stopped or killed there with a lock in hand would stop it as well."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ros

NODE = """
import sys
import rclpy
from armature_ros.qos import leave_shared_memory
if sys.argv[1] == "leaves":
    leave_shared_memory()
rclpy.init()
node = rclpy.create_node("probe")
print(sum("/dev/shm/fastrtps" in line for line in open("/proc/self/maps")))
"""


def segments(environment: dict[str, str], how: str) -> int:
    """Count the parts of Fast DDS's shared memory that a process with a node has mapped."""
    command = [sys.executable, "-c", NODE, how]
    return int(
        subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True).stdout
    )


def test_a_node_that_leaves_shared_memory_has_none_of_it(environment: dict[str, str]):
    assert segments(environment, "stays") > 0
    assert segments(environment, "leaves") == 0


@pytest.mark.parametrize("name", ["control_node", "mock_arm_node", "residual_node"])
def test_what_drives_the_arm_leaves_it_before_its_first_ros_call(name: str, environment: dict[str, str]):
    script = f"""
import rclpy
from armature_ros import {name}
def init(**_):
    print(sorted(v.rsplit("/", 1)[-1] for k, v in __import__("os").environ.items() if "PROFILES_FILE" in k))
    raise SystemExit(0)
rclpy.init = init
{name}.main([])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "['fastdds_sockets.xml', 'fastdds_sockets.xml']", done.stderr
