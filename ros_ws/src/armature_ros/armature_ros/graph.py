"""The graphs: which nodes run together, with which parameters. `armature up` and the launch files both read this."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from armature.errors import ConfigError, unknown
from armature_ros.config_files import config_folder, read_sections, robot_file
from armature_ros.graph_config import EXPERT, GraphConfig, require_used
from armature_ros.qos import single_host_environment
from armature_ros.robot import RobotConfig

DOMAIN_MAX = 232
RESTARTS = 5
"""Of those beside the arm, without which it goes on."""

ParameterValue = bool | int | float | str | list[float] | list[str]

# robosuite's small matrices run ten times slower on several BLAS threads.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class NodeSpec:
    """One node: a process of its own, running the module `armature_ros.<executable>`."""

    name: str
    executable: str
    params_files: tuple[Path, ...]
    overrides: Mapping[str, ParameterValue] = field(default_factory=dict[str, ParameterValue])
    environment: Mapping[str, str] = field(default_factory=lambda: dict(ONE_THREAD))
    needs_terminal: bool = False
    """It reads the keyboard, so it stays in the terminal's process group."""
    restarts: int | None = None
    """None: the graph ends with it. Else it is started again so many times, and then the graph goes on without it."""

    def command(self) -> list[str]:
        """Return the command line that starts the node."""
        module = [sys.executable, "-m", f"armature_ros.{self.executable}"]
        return [*module, "--ros-args", "-r", f"__node:={self.name}", *self.ros_arguments()]

    def ros_arguments(self) -> list[str]:
        """Return its parameter files and, after them so that they win, the overrides."""
        files = [item for path in self.params_files for item in ("--params-file", str(path))]
        values = [item for name, value in self.overrides.items() for item in ("-p", f"{name}:={json.dumps(value)}")]
        return files + values


def make_graph(name: str, config: GraphConfig) -> tuple[NodeSpec, ...]:
    """Return the nodes of the graph `name`; raise ConfigError on an unknown graph, robot or override.

    So is an option that the graph does not use: who sets it expects something that would not happen.
    """
    if name not in GRAPHS:
        raise ConfigError(unknown("graph", name, GRAPHS))
    require_used(name, config)
    if config.seed < 0:
        raise ConfigError(f"--seed is {config.seed}, must be 0 or more")
    if config.policy != EXPERT and not Path(config.policy).is_dir():
        raise ConfigError(f"policy '{config.policy}' is no folder. Valid: {EXPERT}, or the folder of a checkpoint")
    is_told = config.operator == "policy" and config.policy != EXPERT
    if config.prompt and not (is_told or config.dataset):
        driver = EXPERT if config.operator == "policy" else config.operator
        raise ConfigError(
            f"--prompt '{config.prompt}' reaches nobody: {driver} takes none, and nothing is recorded. "
            "Valid: with a checkpoint as --policy, or with --dataset"
        )
    if not config.takeover:
        return _apply(config.overrides, GRAPHS[name](config))
    if config.operator != "policy":
        raise ConfigError(f"takeover '{config.takeover}': with the operator '{config.operator}' a person always drives")
    # A person cannot be waited for.
    return _apply(config.overrides, _with_takeover(GRAPHS[name](replace(config, lockstep=False))))


def graph_environment(domain_id: int | None = None) -> dict[str, str]:
    """Return the variables that every process of a single-host graph needs, on top of the present environment.

    Raises ConfigError on a domain that cannot be, be it asked for or the environment's.
    """
    plain_logs = {"RCUTILS_CONSOLE_OUTPUT_FORMAT": "{severity}: {message}", "PYTHONUNBUFFERED": "1"}
    return {**single_host_environment(), **plain_logs, "ROS_DOMAIN_ID": str(domain_of(domain_id, os.environ))}


def domain_of(asked: int | None, environment: Mapping[str, str]) -> int:
    """Return the domain that is asked for, else that of the environment; raise ConfigError where it cannot be."""
    text = (environment.get("ROS_DOMAIN_ID") or "0") if asked is None else str(asked)
    if not (text.isascii() and text.isdigit()) or int(text) > DOMAIN_MAX:
        name = "ROS_DOMAIN_ID" if asked is None else "--domain-id"
        raise ConfigError(f"{name} is '{text}', must be a number from 0 to {DOMAIN_MAX}")
    return int(text)


def _sim(config: GraphConfig) -> tuple[NodeSpec, ...]:
    robot = _sim_robot(config)
    paced = {"lockstep": config.lockstep}
    sim = _node("sim_node", robot, {**_robot_parameters(config), **paced, "seed": config.seed})
    return (sim, _policy(config, robot, paced), *_control_and_recorder(config, robot, paced))


def _collect(config: GraphConfig) -> tuple[NodeSpec, ...]:
    if not config.dataset:
        raise ConfigError("graph 'collect' needs --dataset, the folder to record into")
    if config.operator == "policy":
        return _sim(config)
    robot = _sim_robot(config)
    # A person cannot be waited for.
    paced: dict[str, ParameterValue] = {"lockstep": False}
    sim = _node("sim_node", robot, {**_robot_parameters(config), **paced, "seed": config.seed})
    person = _person(config, robot, {**_robot_parameters(config), "simulator": True})
    return (sim, *person, *_control_and_recorder(config, robot, paced))


def _robot(config: GraphConfig) -> tuple[NodeSpec, ...]:
    robot = robot_file(config.robot or "fer")
    spec: dict[str, ParameterValue] = {"robot.spec_file": str(robot.with_suffix(".json")), "robot.task": config.task}
    shared: dict[str, ParameterValue] = {"lockstep": False, "execute_steps": config.execute_steps, **spec}
    acts: dict[str, ParameterValue] = {**spec, "robot.action": config.action}
    policy = _node("policy_node", robot, {**shared, **acts, **_told(config), **_guided(config)})
    displaces: dict[str, ParameterValue] = {"chunk_action": "tcp_delta"} if config.action == "tcp_delta" else {}
    nodes = (
        *_cameras(config),
        *((_node("mock_arm_node", robot, spec),) if config.mock_arm else ()),
        *((policy,) if config.operator == "policy" else _person(config, robot, acts)),
        _node("control_node", robot, {**shared, "mode": config.scheduler, **displaces}),
    )
    recorder = _node("recorder_node", robot, {**spec, **_recorded(config)})
    return (*nodes, recorder) if config.dataset else nodes


def _residual(config: GraphConfig) -> tuple[NodeSpec, ...]:
    """Return the graph of the robot, whose actions are corrected, and who corrects and learns beside it."""
    if not Path(config.residual).is_dir() or not config.residual:
        raise ConfigError(f"graph 'residual' needs --residual, the folder of a residual; got '{config.residual}'")
    if config.scheduler != "receding_horizon":
        raise ConfigError(
            f"scheduler {config.scheduler}: a residual corrects chunks as they are. Valid: receding_horizon"
        )
    is_real = bool(config.robot)
    nodes = [_corrected(node) for node in (_robot if is_real else _sim)(config)]
    robot = robot_file(config.robot) if is_real else _sim_robot(config)
    of_robot: dict[str, ParameterValue] = {"robot.spec_file": str(robot.with_suffix(".json"))} if is_real else {}
    parameters = {**(of_robot or _robot_parameters(config)), "lockstep": config.lockstep and not is_real}
    told, counted = _rewarded(config, is_real=is_real)
    corrector = _node("residual_node", robot, {**parameters, "residual": config.residual, **told})
    learner = NodeSpec("learner_node", "learner_node", (config_folder() / "learner_node.yaml",),
                       {"residual": config.residual, "seed": config.seed, **counted})  # fmt: skip
    return (*nodes, *(replace(node, restarts=RESTARTS) for node in (corrector, learner)))


def _rewarded(config: GraphConfig, *, is_real: bool) -> tuple[dict[str, ParameterValue], dict[str, ParameterValue]]:
    """Return what residual node and learner are told of rewards."""
    if not config.reward:
        return {}, {}
    if config.reward == "simulator" and is_real:
        raise ConfigError(f"reward 'simulator': robot '{config.robot}' is none. Valid: operator, progress")
    is_labelled = config.reward == "operator" or is_real
    return {"reward": "label" if is_labelled else "topic"}, {"reward": config.reward}


def _corrected(node: NodeSpec) -> NodeSpec:
    if node.name != "control_node":
        return node
    return replace(node, overrides={**node.overrides, "residual": True, "takeover": True})


def _with_takeover(nodes: tuple[NodeSpec, ...]) -> tuple[NodeSpec, ...]:
    """Return the nodes and the keyboard by which a person takes over, to which the control node listens."""
    control = next(node for node in nodes if node.name == "control_node")
    robot = {key: value for key, value in control.overrides.items() if key.startswith("robot.")}
    keyboard = replace(_node("takeover_node", control.params_files[0], robot), needs_terminal=True)
    told = replace(control, overrides={**control.overrides, "takeover": True})
    return (*(told if node is control else node for node in nodes), keyboard)


GRAPHS: dict[str, Callable[[GraphConfig], tuple[NodeSpec, ...]]] = {
    "sim": _sim,
    "collect": _collect,
    "robot": _robot,
    "residual": _residual,
}


def _policy(config: GraphConfig, robot: Path, paced: dict[str, ParameterValue]) -> NodeSpec:
    parameters = {**_robot_parameters(config), **paced, "execute_steps": config.execute_steps}
    node = _node("policy_node", robot, {**parameters, **_told(config), **_guided(config)})
    # In lockstep the simulator waits while the network computes, so that all cores are free for it.
    threads = str(os.cpu_count() or 1) if config.lockstep and config.policy != EXPERT else "1"
    return replace(node, environment={**ONE_THREAD, "OMP_NUM_THREADS": threads})


def _person(config: GraphConfig, robot: Path, parameters: dict[str, ParameterValue]) -> tuple[NodeSpec, ...]:
    """Return the node by which a person drives in the place of a policy; a device has one of its own."""
    teleop = _node("teleop_node", robot, {**parameters, "recorder": bool(config.dataset)})
    return (replace(teleop, needs_terminal=True),) if config.operator == "keyboard" else ()


def _control_and_recorder(config: GraphConfig, robot: Path, paced: dict[str, ParameterValue]) -> tuple[NodeSpec, ...]:
    parameters = _robot_parameters(config)
    scheduled: dict[str, ParameterValue] = {"mode": config.scheduler, "execute_steps": config.execute_steps}
    control = _node("control_node", robot, {**parameters, **paced, **scheduled})
    if not config.dataset:
        return (control,)
    return control, _node("recorder_node", robot, {**parameters, **_recorded(config)})


def _told(config: GraphConfig) -> dict[str, ParameterValue]:
    """Return which policy runs, where, and what it is told; the expert does one thing only."""
    prompt = {} if config.policy == EXPERT or not config.prompt else {"prompt": config.prompt}
    return {"policy": config.policy, "device": config.device, **prompt}


def _guided(config: GraphConfig) -> dict[str, ParameterValue]:
    """Return that the policy is to go on from what is executed meanwhile, where that is what the scheduler expects."""
    return {"guidance": True} if config.scheduler == "real_time_chunking" else {}


def _recorded(config: GraphConfig) -> dict[str, ParameterValue]:
    return {"dataset": config.dataset, **({"prompt": config.prompt} if config.prompt else {})}


def _cameras(config: GraphConfig) -> tuple[NodeSpec, ...]:
    """Return one node per camera section of camera_node.yaml."""
    if not config.cameras:
        return ()
    file = config_folder() / "camera_node.yaml"
    names = [section.rsplit("/", 1)[-1] for section in read_sections(file)]
    return tuple(NodeSpec(name, "camera_node", (file,)) for name in names)


def _node(name: str, robot: Path, overrides: dict[str, ParameterValue]) -> NodeSpec:
    return NodeSpec(name, name, (robot, config_folder() / f"{name}.yaml"), overrides)


def _robot_parameters(config: GraphConfig) -> dict[str, ParameterValue]:
    fields = ("task", "action", "cameras", "image_size", "horizon_steps")
    robot = RobotConfig(**{name: getattr(config, name) for name in fields})
    return {f"robot.{name}": getattr(robot, name) for name in fields}


def _sim_robot(config: GraphConfig) -> Path:
    if config.task == "pusht":
        return robot_file("pusht")
    return robot_file("panda" if config.action == "joint_position" else "panda_tcp_delta")


def _apply(overrides: tuple[str, ...], nodes: tuple[NodeSpec, ...]) -> tuple[NodeSpec, ...]:
    by_name = {node.name: node for node in nodes}
    for file in {file for node in nodes for file in node.params_files}:
        # A node would end with a traceback of ROS's own parser.
        read_sections(file)
    for override in overrides:
        target, _, value = override.partition("=")
        name, _, parameter = target.partition(".")
        if not value or not parameter:
            raise ConfigError(f"override '{override}' is not of the form node.parameter=value")
        if name not in by_name:
            raise ConfigError(unknown("node of the graph", name, by_name))
        node = by_name[name]
        by_name[name] = replace(node, overrides={**node.overrides, parameter: _parsed(value)})
    return tuple(by_name.values())


def _parsed(value: str) -> ParameterValue:
    try:
        return json.loads(value)
    except ValueError:
        return value
