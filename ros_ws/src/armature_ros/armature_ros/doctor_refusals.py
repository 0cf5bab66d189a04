"""What nodes would refuse at their start, before anybody starts them: the doctor calls what they call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from armature.errors import ArmatureError
from armature_ros.camera_node import CameraNodeConfig, load_calibration, source_of
from armature_ros.camera_source import check_source
from armature_ros.control_config import ControlNodeConfig
from armature_ros.doctor_deployment import Deployment
from armature_ros.doctor_findings import Finding
from armature_ros.policy_loading import PolicyNodeConfig, require_usable
from armature_ros.residual_config import ResidualNodeConfig
from armature_ros.robot import load_limits, load_robot_spec
from armature_ros.tcp_config import make_guard, make_tcp_actions
from policies.residual_folder import load_residual


def check_refusals(deployment: Deployment) -> list[Finding]:
    """Return a finding for each node that would end at once, by what it says then."""
    refusals = {name: _refusal(config) for name, config in deployment.configs.items()}
    remedy = "set what is named otherwise: in the robot's YAML, the node's, or by an option"
    wrong = [Finding(name, "start", "fail", text, remedy) for name, text in refusals.items() if text]
    return wrong or [Finding("nodes", "start", "ok", "none refuses what it would be given")]


def _refusal(config: Any) -> str:
    try:
        if check := _CHECKS.get(type(config)):
            check(config)
    except (ArmatureError, OSError) as error:
        return " ".join(str(error).split())
    return ""


def _control(config: ControlNodeConfig) -> None:
    action = load_robot_spec(config.robot).action
    limits = load_limits(config.robot, action, config.profile)
    make_guard(config.tcp, config.robot, action, config.profile)
    _ = config.scheduler
    period_ns = action.period_ns if config.lockstep else round(1e9 / config.rate_hz)
    if config.chunk_action == "tcp_delta":
        make_tcp_actions(config.tcp, action, limits, period_ns)
    config.make_takeover(period_ns)


def _residual(config: ResidualNodeConfig) -> None:
    residual, spec = load_residual(Path(config.residual)), load_robot_spec(config.robot)
    residual.require_no_cameras("residual_node")
    residual.view(spec, load_limits(config.robot, spec.action, config.profile))


def _camera(config: CameraNodeConfig) -> None:
    load_calibration(config)
    check_source(source_of(config))


_CHECKS: Mapping[type, Callable[[Any], None]] = {
    ControlNodeConfig: _control,
    PolicyNodeConfig: require_usable,
    ResidualNodeConfig: _residual,
    CameraNodeConfig: _camera,
}
