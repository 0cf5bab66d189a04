"""`armature doctor`: looks at host, files and running nodes before anybody arms, and says in one table what to mend."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from armature.errors import ConfigError
from armature_ros.doctor_data import check_checkpoint, check_dataset, check_disk, check_robot_limits, read_disk
from armature_ros.doctor_deployment import Deployment, GraphName, read_deployment, wanted_topics
from armature_ros.doctor_findings import Finding, overall, print_findings, to_document
from armature_ros.doctor_graph import (
    SeenGraph,
    check_command_listeners,
    check_frames,
    check_nodes,
    check_writers,
    look,
)
from armature_ros.doctor_host import check_device, check_host, check_shell, read_devices, read_host
from armature_ros.doctor_refusals import check_refusals
from armature_ros.doctor_streams import WantedTopic, check_topic
from armature_ros.graph import domain_of, graph_environment
from armature_ros.graph_config import EXPERT, GraphConfig
from armature_ros.robot import load_robot_spec
from sim.evaluation_report import require_writable, write_report

EXIT_FAILED = 1


@dataclass(frozen=True)
class DoctorConfig:
    """Check a deployment before arming. Give the options of `armature up` with which it was, or will be, started.

    Exit code 0: nothing failed, warnings at most; 1: something failed; 2: an option is wrong.
    """

    config: Annotated[GraphConfig, tyro.conf.arg(name="")] = field(default_factory=GraphConfig)
    graph: GraphName = "robot"
    domain_id: int | None = None
    """ROS_DOMAIN_ID of the graph; unset: the environment's."""
    listen_s: float = 4.0
    """How long to listen to the streams [s]; up to 5 s more while a part of the graph is missing."""
    json: Path | None = None
    """File to write all findings to."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the option that cannot be."""
        if not self.listen_s > 0:
            raise ConfigError(f"--listen-s is {self.listen_s:g}, must be above 0")


def main(argv: list[str]) -> int:
    """Run `armature doctor`; return 0 when nothing failed, else 1."""
    config = tyro.cli(DoctorConfig, args=argv, prog="armature doctor")
    shell = dict(os.environ)
    domain_id = domain_of(config.domain_id, shell)
    if config.json:
        require_writable(config.json)
    # From here on this process hears what the graph's nodes hear.
    os.environ.update(graph_environment(domain_id))
    console = Console()
    console.print(f"[bold]Armature doctor[/]  graph {config.graph}, domain {domain_id}\n", highlight=False)
    with console.status(f"listening for {config.listen_s:g} s"):
        deployment = read_deployment(config.graph, config.config)
        findings = examine(deployment, shell, domain_id, config.listen_s)
    print_findings(console, findings)
    if config.json:
        about = {"graph": config.graph, "domain_id": domain_id, "robot": deployment.spec.name}
        write_report(config.json, to_document(findings, about))
    return EXIT_FAILED if overall(findings) == "fail" else 0


def examine(deployment: Deployment, shell: Mapping[str, str], domain_id: int, listen_s: float) -> list[Finding]:
    """Look at everything and return what was found; `shell` is the environment in which drivers are started."""
    policy, needed = _policy(deployment)
    topics = wanted_topics(deployment, needed)
    nodes = [node.name for node in deployment.nodes]
    seen = look(topics, deployment.command_topic, nodes, listen_s)
    files = [*_parameters(deployment), *policy, *_dataset(deployment, seen)]
    return [
        *check_host(read_host(domain_id), len(deployment.nodes)),
        *([] if deployment.is_simulated else check_shell(shell, domain_id)),
        *files,
        *_refusals(deployment, files),
        *_graph(deployment, topics, seen),
    ]


def _policy(deployment: Deployment) -> tuple[list[Finding], tuple[str, ...]]:
    """Return the findings about the policy, and the names of the observations that it sees."""
    config = deployment.configs.get("policy_node")
    if config is None:
        return [], ()
    spec = load_robot_spec(config.robot)
    if config.policy == EXPERT:
        return _expert(deployment), spec.observation.names
    # It brings torch along, which takes seconds.
    from policies.checkpoint import read_document

    findings, needed = check_checkpoint(Path(config.policy), spec, read_document)
    device = check_device(config.device, read_devices(config.device))
    return [*findings, device], needed or spec.observation.names


def _expert(deployment: Deployment) -> list[Finding]:
    if deployment.is_simulated:
        return [Finding("policy", "", "ok", "scripted expert")]
    person = ", or --operator keyboard" if deployment.graph == "robot" else ""
    remedy = f"pass --policy CHECKPOINT, the folder of a trained policy{person}"
    return [Finding("policy", "checkpoint", "fail", "the scripted expert knows simulated robots only", remedy)]


def _parameters(deployment: Deployment) -> list[Finding]:
    remedy = "mend the robot's YAML, or the node's"
    wrong = [Finding(name, "parameters", "fail", text, remedy) for name, text in deployment.problems.items()]
    right = Finding("parameters", "", "ok", f"of {', '.join(deployment.configs)}")
    control = deployment.configs.get("control_node")
    limits = [] if control is None else [check_robot_limits(control.robot, control.profile, deployment.spec.action)]
    return [*wrong, right, *limits]


def _refusals(deployment: Deployment, others: Sequence[Finding]) -> list[Finding]:
    told = {finding.found for finding in others if finding.level == "fail"}
    return [finding for finding in check_refusals(deployment) if finding.found not in told]


def _dataset(deployment: Deployment, seen: SeenGraph) -> list[Finding]:
    config = deployment.configs.get("recorder_node")
    if config is None:
        return []
    recorder_runs = "/recorder_node" in seen.nodes
    disk = check_disk(read_disk(Path(config.dataset)), config, deployment.spec, recorder_runs=recorder_runs)
    return [*disk, check_dataset(config, deployment.spec)]


def _graph(deployment: Deployment, topics: Sequence[WantedTopic], seen: SeenGraph) -> list[Finding]:
    names = [node.name for node in deployment.nodes]
    command = deployment.command_topic
    findings = [*check_nodes(names, seen.nodes, f"armature up {deployment.graph} ...")]
    if not seen.nodes:
        # Nothing runs: to name every topic that is not there would bury what to do.
        return findings
    findings += [
        check_writers(command, seen.command.publishers, seen.nodes),
        check_command_listeners(command, seen.command),
        *check_frames(seen.topics),
    ]
    running = {path.rsplit("/", 1)[-1] for path in seen.nodes}
    # What is missing because its node is was said above.
    told = {t.name for t in topics if not seen.topics[t.name].publishers and {t.publisher} - running - {""}}
    checked = [topic for topic in topics if topic.name not in told]
    return [*findings, *(finding for topic in checked for finding in check_topic(topic, seen.topics[topic.name]))]
