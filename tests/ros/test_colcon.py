"""`colcon build` makes an installable workspace inside the virtual environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]


def test_colcon_builds_both_packages(tmp_path: Path) -> None:
    folders = ["--build-base", str(tmp_path / "build"), "--install-base", str(tmp_path / "install")]
    command = [sys.executable, "-m", "colcon", "--log-base", str(tmp_path / "log"), "build", *folders]
    built = subprocess.run([*command, "--base-paths", str(ROOT / "ros_ws" / "src")], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert all(f"Finished <<< {name}" in built.stdout for name in ("armature_ros", "armature_bringup"))
    nodes = {path.name for path in (tmp_path / "install" / "armature_ros" / "lib").rglob("*_node")}
    assert {"sim_node", "policy_node", "control_node", "recorder_node", "camera_node", "teleop_node"} <= nodes
    assert "mock_arm_node" in nodes
    share = tmp_path / "install" / "armature_bringup" / "share" / "armature_bringup"
    assert {path.name for path in (share / "config").glob("*_node.yaml")} >= {"control_node.yaml", "policy_node.yaml"}
    assert (share / "launch" / "sim.launch.py").is_file()
