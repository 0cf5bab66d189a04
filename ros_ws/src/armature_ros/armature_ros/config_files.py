"""Finds and reads the YAML files of the nodes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from armature.errors import ConfigError, unknown


def config_folder() -> Path:
    """Return the folder of the YAML files: installed by colcon, or in the source tree."""
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        installed = Path(prefix) / "share" / "armature_bringup" / "config"
        if prefix and installed.is_dir():
            return installed
    source = Path(__file__).resolve().parents[2] / "armature_bringup" / "config"
    if not source.is_dir():
        raise ConfigError(f"no configuration: package armature_bringup is neither on AMENT_PREFIX_PATH nor at {source}")
    return source


def robot_file(name: str) -> Path:
    """Return the YAML file of a robot by its name, or its path; raise ConfigError naming the valid ones."""
    folder = config_folder() / "robots"
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(unknown("robot", name, [file.stem for file in folder.glob("*.yaml")]))
    return path


def read_sections(file: Path) -> dict[str, Mapping[str, Any]]:
    """Return the parameters of each section of a parameter file; raise ConfigError where it has another form."""
    try:
        document = yaml.safe_load(file.read_text()) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
    sections = document.items() if isinstance(document, Mapping) else [("", document)]
    for name, section in sections:
        if not (isinstance(section, Mapping) and isinstance(section.get("ros__parameters"), Mapping)):
            raise ConfigError(f"{file}: '{name}' holds no mapping ros__parameters, which a parameter file of ROS has")
    return {str(name): section["ros__parameters"] for name, section in sections}
