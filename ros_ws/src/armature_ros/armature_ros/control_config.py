"""The parameters of `control_node`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from armature.control.chunk_scheduler import SchedulerConfig, SchedulerMode
from armature.control.takeover import Takeover
from armature.errors import ConfigError
from armature_ros.robot import RobotConfig
from armature_ros.streams import StreamConfig
from armature_ros.tcp_config import TcpConfig


@dataclass(frozen=True)
class ControlNodeConfig:
    """Parameters of `control_node`."""

    streams: dict[str, StreamConfig]
    profile: str
    """How much of what the robot may do is used: a profile of its limits, such as learn or run."""
    flight_folder: str
    """Folder for the last seconds before every fault; empty keeps none."""
    robot: RobotConfig = field(default_factory=RobotConfig)
    tcp: TcpConfig | None = None
    """The workspace; a real arm does not start without one."""
    chunk_action: Literal["robot", "tcp_delta"] = "robot"
    """What chunks ask for: what the robot takes, or displacements of its tool, which become joint positions here."""
    lockstep: bool = False
    rate_hz: float = 100.0
    """Commands per second in real time; in lockstep there is one per joint state."""
    mode: SchedulerMode = "receding_horizon"
    execute_steps: int = 8
    ensemble_decay: float = 0.01
    blend_s: float = 0.2
    joint_state_topic: str = "joint_states"
    command_topic: str = "arm_controller/joint_trajectory"
    chunk_timeout_s: float = 10.0
    """Lockstep: how long a tick waits for its chunk before the arm holds."""
    residual: bool = False
    """Tell base actions on `control/base_action` and add what comes on `residual/correction`."""
    residual_timeout_s: float = 1.0
    """Lockstep: how long a tick waits for its correction before the base action passes alone; then no tick waits until
    one has come."""
    takeover: bool = False
    """Let a person drive by `takeover`, and tell on `control/takeover` at every tick who did."""
    handover_s: float = 0.3
    """How long it takes to fade from the policy's action to a person's, and back."""
    takeover_age_max_s: float = 0.2
    """A device that was silent for so long counts as let go, and what is stamped longer ago is refused."""
    autostart: bool = True
    """Configure and activate at the start, without waiting for somebody to ask."""

    def __post_init__(self) -> None:
        """Raise ConfigError on a rate that is none, and where policy or residual would be told what is not so."""
        if not 0 < self.rate_hz < math.inf:
            raise ConfigError(f"rate_hz is {self.rate_hz:g}, must be above 0 and finite")
        if self.residual and self.mode != "receding_horizon":
            raise ConfigError(
                f"mode {self.mode}: how far a residual has led the arm off a plan can only be told where chunks are "
                "executed as they are. Valid: receding_horizon"
            )
        if self.chunk_action == "tcp_delta" and self.mode == "real_time_chunking":
            others = "Valid: receding_horizon, temporal_ensemble, blend"
            raise ConfigError(
                f"mode real_time_chunking: with chunk_action tcp_delta the policy cannot be guided. {others}"
            )

    def make_takeover(self, tick_ns: int) -> Takeover | None:
        """Return what fades to a person and back at ticks of `tick_ns`; raise ConfigError on times that cannot be."""
        return Takeover(tick_ns, self.handover_s, self.takeover_age_max_s) if self.takeover else None

    @property
    def scheduler(self) -> SchedulerConfig:
        """Return the chunk scheduler's configuration."""
        return SchedulerConfig(self.mode, self.execute_steps, self.ensemble_decay, self.blend_s)
