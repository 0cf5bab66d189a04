"""Which room may import which: read from the sources, and for the kernel also seen in a running process."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("armature", "policies", "sim", "data_collection")
ROS_PACKAGES = ("armature_ros", "armature_bringup")
OURS = {*ROOMS, *ROS_PACKAGES}
JOINING = {
    "policies/dataset_torch.py",
    "sim/collect.py",
    "sim/evaluate.py",
    "sim/replay.py",
    *(f"policies/{p.name}" for p in ROOT.glob("policies/train*.py")),
}
ROS_MODULES = {
    "rclpy",
    "launch",
    "launch_ros",
    "ament_index_python",
    "cv_bridge",
    "rcl_interfaces",
    "builtin_interfaces",
}
HEAVY = {"torch", "zarr", "mujoco", "robosuite", "rclpy", "diffusers", "gymnasium"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    """Return the top-level names of everything that a file imports, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def is_ros(package: str) -> bool:
    return package in ROS_MODULES or package in ROS_PACKAGES or package.endswith(("_msgs", "_srvs"))


def test_the_kernel_imports_only_the_standard_library_and_numpy():
    allowed = {*sys.stdlib_module_names, "numpy", "armature"}
    for path in sources("armature"):
        assert imported_packages(path) <= allowed, path


@pytest.mark.parametrize("room", ["policies", "sim", "data_collection"])
def test_a_room_imports_only_itself_and_the_kernel_except_where_rooms_are_joined(room):
    for path in sources(room):
        if path.relative_to(ROOT).as_posix() not in JOINING:
            assert imported_packages(path) & OURS <= {room, "armature"}, path


def test_ros_is_imported_only_in_the_workspace_the_launch_files_and_their_tests():
    inside = [path for folder in (*ROOMS, "tests") for path in sources(folder)]
    for path in inside:
        if not path.is_relative_to(ROOT / "tests" / "ros"):
            assert not {package for package in imported_packages(path) if is_ros(package)}, path


def test_packages_export_nothing_so_that_no_circle_can_arise():
    for path in [path for room in ROOMS for path in sources(room)]:
        if path.name == "__init__.py":
            assert not path.read_text().strip(), path


def test_the_launch_folder_does_not_shadow_the_launch_package():
    assert not (ROOT / "launch" / "__init__.py").exists()


def test_importing_the_whole_kernel_loads_nothing_heavy():
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources("armature")]
    modules = [module.removesuffix(".__init__") for module in modules]
    assert "armature.control.control_step" in modules
    program = f"import sys\nimport {', '.join(modules)}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
