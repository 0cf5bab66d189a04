"""Which robot a node works for: the simulated one of a task, or a real one described by a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from armature.control.limits import ROBOTS, RobotLimits, SafetyLimits
from armature.errors import ConfigError, unknown
from armature.spec import ActionSpec, RobotSpec
from sim.defaults import limits_for
from sim.tasks import SimConfig, robot_spec, tcp_delta_of


@dataclass(frozen=True)
class RobotConfig:
    """The robot's contract: a file, or the simulated robot of sim.tasks.SimConfig, whose fields the others are."""

    spec_file: str = ""
    """JSON of armature.spec.RobotSpec; empty for the simulated robot."""
    limits_file: str = ""
    """Real robots: what it may do, a name in armature/robots or the path of such a YAML file."""
    task: str = "lift"
    action: Literal["joint_position", "tcp_delta"] = "joint_position"
    """Real robots: `tcp_delta` makes it the contract of policies that displace the tool of an arm that takes joint
    positions; see `chunk_action` of control_node."""
    cameras: bool = True
    image_size: int = 128
    horizon_steps: int = 0
    """0: the task's own."""
    privileged: bool = True

    @property
    def sim(self) -> SimConfig:
        """Return the simulator's configuration."""
        return SimConfig(
            task=self.task,
            action=self.action,
            cameras=self.cameras,
            image_size=self.image_size,
            horizon_steps=self.horizon_steps or None,
            privileged=self.privileged,
        )


def load_robot_spec(config: RobotConfig) -> RobotSpec:
    """Return the robot's contract; raise ConfigError naming the file when it cannot be read."""
    if not config.spec_file:
        return robot_spec(config.sim)
    try:
        spec = RobotSpec.from_json(json.loads(Path(config.spec_file).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"robot.spec_file '{config.spec_file}': {error}") from error
    is_asked_otherwise = config.action == "tcp_delta" and spec.action.kind != "tcp_delta"
    return replace(spec, action=tcp_delta_of(spec.action)) if is_asked_otherwise else spec


def load_limits(config: RobotConfig, action: ActionSpec, profile: str) -> SafetyLimits:
    """Return a profile of the robot's limits; raise ConfigError on a file that is missing or makes no sense."""
    if not config.spec_file:
        return limits_for(action, profile)
    return load_robot_limits(config).safety(profile)


def load_robot_limits(config: RobotConfig) -> RobotLimits:
    """Return what the file of a real robot says it may do; raise ConfigError where it cannot be read."""
    file = config.limits_file
    path = Path(file) if file.endswith(".yaml") else ROBOTS / f"{file}.yaml"
    if not path.is_file():
        raise ConfigError(unknown("robot.limits_file", file, [found.stem for found in ROBOTS.glob("*.yaml")]))
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"robot.limits_file '{path}': {error}") from error
    if not isinstance(data, Mapping):
        raise ConfigError(f"robot.limits_file '{path}' holds no mapping")
    return RobotLimits.from_mapping(cast("Mapping[str, Any]", data))
