"""The workspace of a real arm: where its tool may be, and the model that says where it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from armature.control.tcp_guard import TcpGuard, TcpLimits
from armature.errors import ConfigError
from armature.spec import JOINT_POSITION, ActionSpec
from armature_ros.robot import RobotConfig, load_robot_limits


@dataclass(frozen=True)
class TcpConfig:
    """Parameters `tcp` of `control_node`, in the frame of the arm's base; they have no defaults, since they depend on
    what stands around the arm. How fast the tool may be belongs to the profile."""

    box_low_m: tuple[float, float, float]
    box_high_m: tuple[float, float, float]
    wall_deceleration_m_s2: float
    condition_slow: float
    condition_stop: float
    model_file: str = ""
    """MJCF or URDF of the arm; empty for the arms that the simulator has."""
    tcp: str = ""
    """Site or body of the tool in that model."""


def make_guard(config: TcpConfig | None, robot: RobotConfig, action: ActionSpec, profile: str) -> TcpGuard | None:
    """Return what keeps the tool slow and in its box; None for a simulated robot, which has nothing to break.

    Raises ConfigError where a real arm lacks its workspace, or its model is not there.
    """
    if not robot.spec_file:
        return None
    if config is None:
        raise ConfigError("tcp: a real arm needs a workspace: tcp.box_low_m, tcp.box_high_m, ... (see robots/fer.yaml)")
    used = load_robot_limits(robot).profiles[profile]
    limits = TcpLimits(
        config.box_low_m,
        config.box_high_m,
        used.tcp_speed_max_m_s,
        used.tcp_turn_max_rad_s,
        config.wall_deceleration_m_s2,
        config.condition_slow,
        config.condition_stop,
    )
    # Simulator and models are heavy; a simulated robot's control node does without them.
    from sim.arms import arm_with
    from sim.kinematics import ArmKinematics, ModelKinematics

    labels = action[JOINT_POSITION].labels
    if config.model_file:
        return TcpGuard(limits, ModelKinematics.from_file(Path(config.model_file), labels, config.tcp))
    return TcpGuard(limits, ArmKinematics(arm_with(labels)))
