"""The tool of an arm: where it may be, the model that says where it is, and what moves it where policies want it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from armature.control.limits import SafetyLimits
from armature.control.tcp_guard import TcpGuard, TcpLimits
from armature.errors import ConfigError
from armature.spec import JOINT_POSITION, ActionSpec
from armature_ros.robot import RobotConfig, load_robot_limits
from armature_ros.tcp_actions import TcpActions
from sim.tasks import tcp_delta_of

if TYPE_CHECKING:
    from sim.kinematics import ModelKinematics


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
    home_rad: tuple[float, ...] = ()
    """Where policies that displace the tool draw joints of which the tool leaves a choice; must be given with a
    `model_file`, the simulator's arms have one."""


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
    return TcpGuard(limits, _kinematics(config, action[JOINT_POSITION].labels))


def make_tcp_actions(config: TcpConfig | None, action: ActionSpec, limits: SafetyLimits, period_ns: int) -> TcpActions:
    """Return what turns displacements of the tool into the joint positions that `action` consists of.

    They stay in its ranges, and each so near to the one before that the gate believes it; that the arm is not too fast
    is up to the gate, which slows it along its path. Raises ConfigError on an arm that takes no joint positions.
    """
    asked = tcp_delta_of(action)
    joints, labels = action.slice_of(JOINT_POSITION), action[JOINT_POSITION].labels
    from sim.arms import arm_with
    from sim.differential_ik import TcpDeltaIk

    has_own_model = config is not None and config.model_file
    if has_own_model and not config.home_rad:
        raise ConfigError("tcp.home_rad: with a model_file, displacements of the tool need a posture to keep near")
    home_rad = config.home_rad if config is not None and config.home_rad else arm_with(labels).home_rad
    ik = TcpDeltaIk(
        _kinematics(config, labels),
        np.array(limits.position_low[joints]),
        np.array(limits.position_high[joints]),
        np.array(limits.velocity_max[joints]) * limits.request.first_command_s,
        np.array(home_rad),
    )
    return TcpActions(asked, action, ik, period_ns, limits.request.chunk_age_max_s)


def _kinematics(config: TcpConfig | None, labels: tuple[str, ...]) -> ModelKinematics:
    # Simulator and models are heavy; a simulated robot's control node does without them.
    from sim.arms import arm_with
    from sim.kinematics import ArmKinematics, ModelKinematics

    if config is not None and config.model_file:
        return ModelKinematics.from_file(Path(config.model_file), labels, config.tcp)
    return ArmKinematics(arm_with(labels))
