"""The parameters of `residual_node` and of `learner_node`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from armature.errors import ConfigError
from armature_ros.robot import RobotConfig
from armature_ros.streams import StreamConfig


@dataclass(frozen=True)
class ResidualNodeConfig:
    """Parameters of `residual_node`."""

    streams: dict[str, StreamConfig]
    profile: str
    """That of control_node: what its gate lets pass is how far a correction reaches."""
    residual: str
    """Folder of the residual, see `policies/residual_folder.py`."""
    log_folder: str = ""
    """Where steps and the weights in use are kept; empty: `log` in the residual's folder."""
    robot: RobotConfig = field(default_factory=RobotConfig)
    explore: bool = True
    """Add the noise that the weights ask for; every third episode goes without, to be compared with the base's."""
    control_every: int = 5
    """Every so manyth episode is the base's alone, without noise, to compare; 0: none."""
    reward: Literal["topic", "label"] = "topic"
    """Who tells rewards: the topic `reward`, or the label alone that a person gives an episode, 1 for success."""
    lockstep: bool = False
    joint_state_topic: str = "joint_states"
    max_age_s: float = 0.15
    """Real time: older observations are not acted upon."""
    future_max_s: float = 0.02
    """Real time: how far a stamp may be ahead of the clock."""
    skew_max_s: float = 0.05
    """Real time: how far apart the streams of one observation may lie."""
    patience_s: float = 1.0
    """What is still missing of a step so long after it began breaks its episode off."""
    seed: int = 0
    """Of the noise."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        if self.control_every < 0:
            raise ConfigError(f"control_every is {self.control_every}, must be 0 or more")
        if not self.patience_s > 0:
            raise ConfigError(f"patience_s is {self.patience_s}, must be positive")

    @property
    def log_path(self) -> Path:
        """Return the folder of the log."""
        return Path(self.log_folder) if self.log_folder else Path(self.residual) / "log"


@dataclass(frozen=True)
class LearnerNodeConfig:
    """Parameters of `learner_node`."""

    residual: str
    """Folder of the residual that is learned."""
    seed: int = 0
    device: str = "cpu"
    """cpu, or cuda: where it learns."""
    reward: Literal["simulator", "operator", "progress"] = "simulator"
    """Who says how an episode went: the topic `reward` (of a simulator), a person by /residual_node/label, or either of
    them, and each failure earns by how near it came to the successes before, see `policies/progress_reward.py`."""
    weights_period_s: float = 10.0
    """How often new weights are given out."""
    flush_period_s: float = 2.0
    """How often what came is made safe, and acknowledged."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("weights_period_s", "flush_period_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be positive")
