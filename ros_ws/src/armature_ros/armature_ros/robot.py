"""Which robot a node works for: the simulated one of a task, or a real one described by a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from armature.errors import ConfigError
from armature.spec import RobotSpec
from sim.tasks import SimConfig, robot_spec


@dataclass(frozen=True)
class RobotConfig:
    """The robot's contract: a file, or the simulated robot of sim.tasks.SimConfig, whose fields the others are."""

    spec_file: str = ""
    """JSON of armature.spec.RobotSpec; empty for the simulated robot."""
    task: str = "lift"
    action: Literal["joint_position", "tcp_delta"] = "joint_position"
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
        return RobotSpec.from_json(json.loads(Path(config.spec_file).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"robot.spec_file '{config.spec_file}': {error}") from error
