"""The description of the graphs, and parameters: what is wrong is named before anything starts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Literal

import pytest
import yaml

from armature.control.limits import check_limits
from armature.errors import ConfigError
from armature.spec import RobotSpec
from armature_ros.config_files import config_folder
from armature_ros.graph import GRAPHS, domain_of, graph_environment, make_graph
from armature_ros.graph_config import OPTIONS, GraphConfig
from armature_ros.robot import RobotConfig, load_limits
from sim.tasks import SimConfig, robot_spec

SIMULATED = {
    "panda": SimConfig(),
    "panda_tcp_delta": SimConfig(action="tcp_delta"),
    "pusht": SimConfig(task="pusht"),
}


def test_sim_graph_has_a_recorder_only_with_a_dataset() -> None:
    without = [node.name for node in make_graph("sim", GraphConfig())]
    assert without == ["sim_node", "policy_node", "control_node"]
    assert [node.name for node in make_graph("sim", GraphConfig(dataset="d"))] == [*without, "recorder_node"]


@pytest.mark.parametrize("robot", ["", "fer"])
def test_the_residual_graph_is_that_of_the_robot_with_two_more_whose_death_does_not_end_it(
    robot: str, tmp_path: Path
) -> None:
    plain = make_graph("robot" if robot else "sim", GraphConfig(robot=robot, cameras=False))
    config = GraphConfig(robot=robot, cameras=False, residual=str(tmp_path), seed=4)
    *nodes, corrector, learner = make_graph("residual", config)
    assert [node.name for node in nodes] == [node.name for node in plain]
    (control,) = (node for node in nodes if node.name == "control_node")
    assert (control.overrides["residual"], control.overrides["takeover"]) == (True, True)
    assert all(node.restarts is None for node in nodes)
    assert [(node.name, node.restarts) for node in (corrector, learner)] == [("residual_node", 5), ("learner_node", 5)]
    assert corrector.overrides["lockstep"] is not bool(robot)
    assert learner.overrides == {"residual": str(tmp_path), "seed": 4}


@pytest.mark.parametrize(
    ("robot", "reward", "told"),
    [("", "simulator", "topic"), ("", "operator", "label"), ("", "progress", "topic"), ("fer", "progress", "label")],
)
def test_residual_node_and_learner_are_told_of_the_same_rewards(
    robot: str, reward: str, told: str, tmp_path: Path
) -> None:
    config = GraphConfig(robot=robot, cameras=False, residual=str(tmp_path), reward=reward)
    *_, corrector, learner = make_graph("residual", config)
    assert (corrector.overrides["reward"], learner.overrides["reward"]) == (told, reward)


def test_a_real_robot_is_no_simulator_that_could_reward(tmp_path: Path) -> None:
    config = GraphConfig(robot="fer", cameras=False, residual=str(tmp_path), reward="simulator")
    with pytest.raises(ConfigError, match=r"reward 'simulator': robot 'fer' is none\. Valid: operator, progress"):
        make_graph("residual", config)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_node_of_every_graph_exists(name: str, tmp_path: Path) -> None:
    special = {"collect": {"operator": "keyboard"}, "residual": {"residual": str(tmp_path)}}
    for node in make_graph(name, GraphConfig(dataset="d", **special.get(name, {}))):
        assert all(path.is_file() for path in node.params_files), node
        module = Path(sys.modules["armature_ros.graph"].__file__).with_name(f"{node.executable}.py")
        assert module.is_file(), node


def test_overrides_come_last_on_the_command_line() -> None:
    (control,) = [
        node
        for node in make_graph("sim", GraphConfig(overrides=("control_node.chunk_timeout_s=0.5",)))
        if node.name == "control_node"
    ]
    assert control.command()[-2:] == ["-p", "chunk_timeout_s:=0.5"]


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("sims", GraphConfig(), "unknown graph 'sims'. Did you mean 'sim'"),
        ("sim", GraphConfig(overrides=("control.a=1",)), "unknown node of the graph 'control'"),
        ("sim", GraphConfig(overrides=("a",)), "'a' is not of the form"),
        ("collect", GraphConfig(), "needs --dataset"),
        ("residual", GraphConfig(), "needs --residual, the folder of a residual; got ''"),
        ("residual", GraphConfig(residual="nowhere"), "got 'nowhere'"),
        ("sim", GraphConfig(policy="nowhere"), "policy 'nowhere' is no folder. Valid: expert, or"),
        ("robot", GraphConfig(robot="nobody"), "unknown robot 'nobody'"),
    ],
)
def test_mistakes_are_named(name: str, config: GraphConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_graph(name, config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "while parsing a flow node"),
        ("- a", "'' holds no mapping ros__parameters"),
        ("control_node: 3", "'control_node' holds no mapping ros__parameters"),
        ("control_node: {ros__parameters: [1]}", "'control_node' holds no mapping ros__parameters"),
    ],
)
def test_a_robots_file_that_is_none_is_named_before_any_node_starts(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: .*{words}"):
        make_graph("robot", GraphConfig(robot=str(file)))


def test_the_domain_is_that_asked_for_else_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert domain_of(7, {"ROS_DOMAIN_ID": "8"}) == 7
    assert domain_of(None, {"ROS_DOMAIN_ID": "8"}) == 8
    assert domain_of(None, {"ROS_DOMAIN_ID": ""}) == domain_of(None, {}) == 0
    for asked, said in ((233, "--domain-id is '233', must be"), (None, "ROS_DOMAIN_ID is 'a', must be")):
        monkeypatch.setenv("ROS_DOMAIN_ID", "a")
        with pytest.raises(ConfigError, match=f"{said} a number from 0 to 232"):
            graph_environment(asked)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("sim", {"operator": "keyboard"}, "'sim' does not use --operator, valid with collect, robot"),
        ("robot", {"operator": "device", "scheduler": "blend", "execute_steps": 3},
         "not use --execute-steps, valid with sim, collect, robot, residual; "
         "--scheduler, valid with sim, collect, robot, residual"),
        ("residual", {"robot": "fer", "operator": "keyboard"}, "not use --operator, valid with collect, robot"),
        ("collect", {"robot": "fer"}, "'collect' does not use --robot, valid with robot, residual"),
        ("residual", {"robot": "fer", "seed": 3, "image_size": 64},
         "'residual --robot' does not use --image-size, valid with sim, collect, residual"),
        ("collect", {"operator": "keyboard", "device": "cuda"},
         "'collect --operator keyboard\\|device' does not use --device, valid with sim, collect, robot, residual"),
        ("residual", {"mock_arm": True}, "'residual' does not use --mock-arm, valid with robot, residual --robot"),
        ("robot", {"residual": "r", "reward": "operator"},
         "--residual, valid with residual; --reward, valid with residual"),
        ("robot", {"image_size": 64}, "does not use --image-size, valid with sim, collect, residual"),
    ],
)  # fmt: skip
def test_an_option_that_a_graph_does_not_use_is_refused(name: str, given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=f"{words}$"):
        make_graph(name, GraphConfig(dataset="d", **given))


def test_every_option_is_used_by_some_graph() -> None:
    assert set().union(*OPTIONS.values()) == {field.name for field in fields(GraphConfig)}
    assert {name.partition(" ")[0] for name in OPTIONS} == GRAPHS.keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["robot", "--mock-arm"], "--episodes 5: graph 'robot' has no sim_node as it is set; valid with"),
        (["collect", "--operator", "keyboard", "--dataset", "d"], "graph 'collect' has no policy_node as it is set"),
    ],
)
def test_episodes_need_a_simulator_and_a_policy(arguments: list[str], words: str) -> None:
    command = [sys.executable, "-m", "armature.cli", "up", *arguments, "--episodes", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("robot", SIMULATED)
def test_a_simulated_robot_has_a_topic_for_every_array(robot: str) -> None:
    spec = robot_spec(SIMULATED[robot])
    data = yaml.safe_load((config_folder() / "robots" / f"{robot}.yaml").read_text())
    assert set(data["/**"]["ros__parameters"]["streams"]) >= set(spec.observation.names)
    check_limits(spec.action, load_limits(RobotConfig(), spec.action, "run"))


@pytest.mark.parametrize("profile", ["learn", "run"])
def test_real_robot_has_a_spec_and_limits_that_fit_it(profile: str) -> None:
    folder = config_folder() / "robots"
    spec = RobotSpec.from_json(json.loads((folder / "fer.json").read_text()))
    parameters = yaml.safe_load((folder / "fer.yaml").read_text())["/**"]["ros__parameters"]
    config = RobotConfig(spec_file=str(folder / "fer.json"), **parameters["robot"])
    check_limits(spec.action, load_limits(config, spec.action, profile))
    assert set(parameters["streams"]) == set(spec.observation.names)


@pytest.mark.parametrize(
    ("file", "profile", "words"),
    [("fre", "run", "unknown robot.limits_file 'fre'.*fer"), ("fer", "fast", "unknown profile of fer 'fast'.*learn")],
)
def test_limits_that_do_not_exist_are_refused_by_name(file: str, profile: str, words: str) -> None:
    config = RobotConfig(spec_file="fer.json", limits_file=file)
    with pytest.raises(ConfigError, match=words):
        load_limits(config, robot_spec(SimConfig()).action, profile)


def test_unknown_parameter_ends_the_node_naming_itself_and_the_key(environment: dict[str, str]) -> None:
    (control,) = [
        node
        for node in make_graph("sim", GraphConfig(overrides=("control_node.chunk_timeout=1.0",)))
        if node.name == "control_node"
    ]
    done = subprocess.run(control.command(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "parameters of control_node: unknown key of ControlNodeConfig 'chunk_timeout'" in done.stderr
    assert "Did you mean 'chunk_timeout_s'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("graph", "operator", "driver"),
    [("sim", "policy", "expert"), ("robot", "keyboard", "keyboard"), ("robot", "device", "device")],
)
def test_a_prompt_that_reaches_nobody_is_refused(
    graph: str, operator: Literal["policy", "keyboard", "device"], driver: str
) -> None:
    with pytest.raises(ConfigError, match=rf"--prompt 'lift' reaches nobody: {driver} takes none"):
        make_graph(graph, GraphConfig(prompt="lift", operator=operator))
    assert make_graph(graph, GraphConfig(prompt="lift", dataset="d", operator=operator))


def test_a_prompt_reaches_the_checkpoint_and_what_is_recorded(tmp_path: Path) -> None:
    def told(policy: str, prompt: str) -> dict[str, object]:
        nodes = make_graph("sim", GraphConfig(policy=policy, prompt=prompt, dataset="d"))
        return {node.name: node.overrides["prompt"] for node in nodes if "prompt" in node.overrides}

    assert told(str(tmp_path), "lift it") == {"policy_node": "lift it", "recorder_node": "lift it"}
    assert told("expert", "lift it") == {"recorder_node": "lift it"}
    assert told(str(tmp_path), "") == {}
