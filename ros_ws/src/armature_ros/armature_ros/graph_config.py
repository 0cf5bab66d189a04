"""What can be asked of a graph, and which graph uses which of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from armature.control.chunk_scheduler import SchedulerMode
from armature.errors import ConfigError

EXPERT = "expert"


@dataclass(frozen=True)
class GraphConfig:
    """What differs from one use of a graph to the next; everything else is in the YAML of each node."""

    task: str = "lift"
    """Task of the simulated robot; also stored with recorded data."""
    action: Literal["joint_position", "tcp_delta"] = "joint_position"
    """What a simulated robot takes; with a real one, what its policy says: displacements of the tool become joint
    positions on the way to the arm."""
    cameras: bool = True
    image_size: int = 128
    """Edge of the simulated camera images [px]."""
    horizon_steps: int = 0
    """Steps after which a simulated attempt ends; 0: the task's own."""
    policy: str = EXPERT
    """`expert` (scripted, simulated robots only) or the folder of a checkpoint."""
    prompt: str = ""
    """What the robot is told to do: told to a checkpoint, which must take prompts, and stored with recorded data."""
    device: str = "cpu"
    """Where the policy computes: cpu or cuda."""
    operator: Literal["policy", "keyboard", "device"] = "policy"
    """Who drives a real robot or demonstrates in `collect`: the policy (the scripted expert, say), or a person at the
    keyboard or at a device whose own node publishes `chunk`."""
    dataset: str = ""
    """Folder that the recorder adds to; empty: no recorder."""
    seed: int = 0
    """Seed of the first simulated episode; the next ones follow."""
    lockstep: bool = True
    """Simulated robots only: every tick waits for its command, so that a run is reproducible; else real time."""
    execute_steps: int = 8
    """How many actions of a chunk are executed before the next one is asked for."""
    scheduler: SchedulerMode = "receding_horizon"
    """How a new chunk takes over from the one before; in real_time_chunking the policy is guided as well."""
    robot: str = ""
    """Real robot: name of its files in config/robots/ (default fer), or the path of its YAML."""
    mock_arm: bool = False
    """Real robot: a stand-in for its arm and driver, which is where it is told to be, to try a graph without one."""
    residual: str = ""
    """Folder of the residual that corrects the policy in the graph `residual`, and is learned there."""
    reward: Literal["", "simulator", "operator", "progress"] = ""
    """Graph `residual`: who says how an episode went: the simulator, a person by /residual_node/label, or one of these
    two and failures earn by how near they came to successes; empty: the topic `reward`, whoever publishes it."""
    takeover: Literal["", "keyboard"] = ""
    """Device by which a person takes the arm over from the policy and gives it back; simulations then run in real
    time. With a device of your own: `control_node.takeover=true` among the overrides."""
    overrides: tuple[str, ...] = ()
    """More parameters, each `node.parameter=value`, for instance `control_node.chunk_timeout_s=5.0`."""


_EVERYWHERE = {"task", "action", "cameras", "policy", "prompt", "device", "dataset", "execute_steps", "scheduler",
               "takeover", "overrides"}  # fmt: skip
_SIMULATED = {*_EVERYWHERE, "image_size", "horizon_steps", "seed", "lockstep"}
_REAL = {*_EVERYWHERE, "robot", "mock_arm"}
_OF_POLICIES = {"policy", "device", "execute_steps", "scheduler"}
_CORRECTED = {"residual", "reward"}
OPTIONS: dict[str, set[str]] = {
    "sim": _SIMULATED,
    "collect": {*_SIMULATED, "operator"},
    "collect --operator keyboard|device": {*_SIMULATED, "operator"} - _OF_POLICIES,
    "robot": {*_REAL, "operator"},
    "robot --operator keyboard|device": {*_REAL, "operator"} - _OF_POLICIES,
    "residual": {*_SIMULATED, *_CORRECTED, "robot"},
    "residual --robot": {*_REAL, *_CORRECTED, "seed"},
}
"""By graph, the fields of GraphConfig that it uses; residuals are learned in simulation or on a real robot."""


def require_used(name: str, config: GraphConfig) -> None:
    """Raise ConfigError naming the options that are set and that the graph does not use, and who does."""
    plain, used_as = GraphConfig(), _variant(name, config)
    given = [field.name for field in fields(config) if getattr(config, field.name) != getattr(plain, field.name)]
    if unused := [option for option in given if option not in OPTIONS[used_as]]:
        named = "; ".join(f"--{option.replace('_', '-')}, valid with {', '.join(_users(option))}" for option in unused)
        raise ConfigError(f"graph '{used_as}' does not use {named}")


def _users(option: str) -> list[str]:
    """Name the graphs that use an option; variants only where the plain graph does not."""
    users = [graph for graph, used in OPTIONS.items() if option in used]
    return [graph for graph in users if " " not in graph or graph.partition(" ")[0] not in users]


def _variant(name: str, config: GraphConfig) -> str:
    """Name a graph as in OPTIONS."""
    if name == "residual" and config.robot:
        return "residual --robot"
    driven = f"{name} --operator keyboard|device"
    return driven if config.operator != "policy" and driven in OPTIONS else name
