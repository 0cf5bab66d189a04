"""What robosuite and robomimic say about the simulator: `env_info` and `env_args`, and what OSC_POSE inputs mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.config import from_plain, to_plain
from armature.errors import ConfigError, DatasetError
from armature.spec import GRIPPER_OPENING, TCP_DELTA, ActionSpec, ArraySpec

RATE_HZ = 20.0
"""robosuite's default, where a file does not say."""
_DELTA_LABELS = ("dx", "dy", "dz", "rx", "ry", "rz")
_PANDA_OPENING_MAX_M = 0.08
_ROBOSUITE_TYPE = 1
"""robomimic's number for robosuite environments."""


@dataclass(frozen=True)
class Simulator:
    """The simulated world that a file was recorded in, as far as it says."""

    env_name: str = ""
    robots: tuple[str, ...] = ()
    control_hz: float | None = None
    controller: Mapping[str, Any] | None = None
    """Of the arm: `type`, `output_max`, ... None where there is none, or several arms."""


@dataclass(frozen=True)
class OscScaling:
    """How OSC_POSE turns inputs, (6,) and a gripper command, into a TCP displacement; (6,) each."""

    input_min: tuple[float, ...]
    input_max: tuple[float, ...]
    output_min: tuple[float, ...]
    output_max: tuple[float, ...]

    def to_physical(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return displacement [m, rad] and gripper opening [m], (N, 7), as the controller clips and scales."""
        low, high, out_low, out_high = self._bounds()
        share = (np.clip(inputs[:, :6], low, high) - (high + low) / 2) / (high - low)
        opening = (1.0 - np.clip(inputs[:, 6:], -1, 1)) * (_PANDA_OPENING_MAX_M / 2)
        return np.concatenate((share * (out_high - out_low) + (out_high + out_low) / 2, opening), axis=1)

    def to_inputs(self, actions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Undo `to_physical`, up to rounding and clipping."""
        low, high, out_low, out_high = self._bounds()
        share = (actions[:, :6] - (out_high + out_low) / 2) / (out_high - out_low)
        gripper = 1.0 - actions[:, 6:] * (2 / _PANDA_OPENING_MAX_M)
        return np.concatenate((share * (high - low) + (high + low) / 2, gripper), axis=1)

    def action_spec(self, rate_hz: float) -> ActionSpec:
        """Describe the physical actions, as the simulated Panda does."""
        delta = ArraySpec(TCP_DELTA, (6,), "float32", "m,rad", "base", self.output_min, self.output_max, _DELTA_LABELS)
        opening = ArraySpec(
            GRIPPER_OPENING, (1,), "float32", "m", "", (0.0,), (_PANDA_OPENING_MAX_M,), ("panda_gripper",)
        )
        return ActionSpec("tcp_delta", (delta, opening), rate_hz)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return to_plain(self)

    def _bounds(self) -> tuple[NDArray[np.float64], ...]:
        return tuple(np.asarray(x) for x in (self.input_min, self.input_max, self.output_min, self.output_max))


def simulator_of(attributes: Mapping[str, Any], what: str) -> Simulator:
    """Read `env_args` (robomimic) or `env_info` (robosuite); raise DatasetError where they are malformed."""
    args = _json(attributes, "env_args", what)
    if not isinstance(args.get("env_kwargs") or {}, dict):
        raise DatasetError(f"{what}: env_kwargs is {args['env_kwargs']!r}, expected a JSON object")
    info: dict[str, Any] = args.get("env_kwargs") or _json(attributes, "env_info", what)
    name = args.get("env_name") or info.get("env_name") or attributes.get("env") or ""
    robots: Any = info.get("robots") or []
    if not isinstance(robots, (str, list)):
        raise DatasetError(f"{what}: robots is {robots!r}, expected a name or a list of names")
    robots = (robots,) if isinstance(robots, str) else tuple(map(str, robots))
    control_hz = info.get("control_freq")
    return Simulator(
        str(name),
        robots,
        float(control_hz) if isinstance(control_hz, (int, float)) and control_hz > 0 else None,
        _arm_controller(info.get("controller_configs")),
    )


def osc_scaling(simulator: Simulator, action_dim: int, what: str) -> OscScaling:
    """Return how the actions scale; raise DatasetError unless they are one Panda's OSC_POSE deltas and gripper."""
    controller = simulator.controller or {}
    is_delta = controller.get("control_delta", controller.get("input_type", "delta") == "delta")
    if simulator.robots != ("Panda",) or controller.get("type") != "OSC_POSE" or not is_delta or action_dim != 7:
        raise DatasetError(
            f"{what}: --action tcp_delta needs one Panda with OSC_POSE deltas and 7 action elements; found robots "
            f"{list(simulator.robots)}, controller {controller.get('type')}, {action_dim} elements: use --action raw"
        )
    bounds = {name: _six(controller.get(name), f"{what}: {name}") for name in OscScaling.__dataclass_fields__}
    for low, high in (("input_min", "input_max"), ("output_min", "output_max")):
        if any(a >= b for a, b in zip(bounds[low], bounds[high], strict=True)):
            raise DatasetError(f"{what}: {low} {bounds[low]} is not below {high} {bounds[high]}")
    return OscScaling(**bounds)


def scaling_from(data: Any) -> OscScaling:
    """Rebuild a scaling from `to_json` data; raise DatasetError where it is malformed."""
    try:
        return from_plain(OscScaling, data)
    except ConfigError as error:
        raise DatasetError(f"the dataset's tcp_delta scaling: {error}") from error


def env_args_for(attributes: Mapping[str, Any], task: str) -> str:
    """Return the `env_args` that robomimic asks for: the source's own, else made of robosuite's `env_info`."""
    if "env_args" in attributes:
        return str(attributes["env_args"])
    info = json.loads(attributes.get("env_info", "{}"))
    version = {"env_version": attributes["repository_version"]} if "repository_version" in attributes else {}
    name = info.pop("env_name", attributes.get("env", task))
    return json.dumps({"env_name": name, "type": _ROBOSUITE_TYPE, **version, "env_kwargs": info})


def _json(attributes: Mapping[str, Any], name: str, what: str) -> dict[str, Any]:
    try:
        data = json.loads(attributes.get(name) or "{}")
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{what}: attribute {name!r} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{what}: attribute {name!r} is no JSON object")
    return data


def _arm_controller(config: Any) -> Mapping[str, Any] | None:
    """Return the one arm's controller, of robosuite up to 1.4 or of a composite one from 1.5 on."""
    if isinstance(config, list):
        config = config[0] if len(config) == 1 else None
    if not isinstance(config, dict):
        return None
    parts = config.get("body_parts")
    part = parts.get("right") if isinstance(parts, dict) else config
    return part if isinstance(part, dict) else None


def _six(value: Any, what: str) -> tuple[float, ...]:
    values = [value] * 6 if isinstance(value, (int, float)) else value
    if not isinstance(values, list) or len(values) != 6 or not all(isinstance(x, (int, float)) for x in values):
        raise DatasetError(f"{what} is {value!r}, expected one number or six")
    return tuple(float(x) for x in values)
