"""`armature demo`: from cameras to a robot that does its task, on the real graph, measured, recorded and reported.

    runs/demo/<UTC time>/summary.json, report.html, episodes.mp4, dataset/, measurements.json, nodes.log

With `--from-scratch` it makes the checkpoint first: scripted demonstrations through the same graph, then training.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

import policies
from armature.errors import ConfigError
from armature.provenance import git_commit
from armature.spec import RobotSpec, require_compatible
from armature_ros.demo_graph import SAME_PICTURES, GraphRun, run_episodes
from armature_ros.from_scratch import ScratchConfig, make_checkpoint
from armature_ros.graph_config import GraphConfig
from armature_ros.measurements import Measurements, MemoryMonitor, Stopwatch
from armature_ros.report import write_report
from armature_ros.summary import build_summary, print_summary
from armature_ros.up import EpisodeFailed, NodeDied, interrupt_on_hangup
from armature_ros.video import write_video
from data_collection.store import open_dataset
from sim.tasks import SimConfig, robot_spec

EXPERT = "expert"
EMBEDDED = Path(policies.__path__[0]) / "pretrained" / "lift_pixels"


@dataclass(frozen=True)
class DemoConfig:
    """Run episodes of a policy on the simulated robot through ROS 2, record and measure them, write a report."""

    checkpoint: str | None = None
    """Folder of the policy to run, or `expert` for the scripted one; unset: the checkpoint that comes with Armature."""
    task: str = "lift"
    episodes: int = 20
    seed: int = 1000
    """Seed of the first episode; the next ones follow."""
    out: Path | None = None
    """Folder for the results, must not hold any yet; unset: runs/demo/<UTC time>."""
    from_scratch: bool = False
    """Make the checkpoint first: record scripted demonstrations, train on them."""
    state: bool = False
    """With --from-scratch: learn from the simulator's object poses instead of pixels, which is faster."""
    demos: int | None = None
    """With --from-scratch: how many demonstrations to record; unset: what is known to be enough."""
    training_steps: int | None = None
    """With --from-scratch: optimiser steps; unset: what is known to be enough."""


def main(argv: list[str]) -> int:
    """Run `armature demo`; return 0 when done, 1 when a node failed, 2 on bad input, 130 after Ctrl-C."""
    config = tyro.cli(DemoConfig, args=argv, prog="armature demo", description=__doc__)
    _check(config)
    # They and a closed terminal look the same from here on; a shell starts background jobs with Ctrl-C ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    interrupt_on_hangup()
    out = _make_folder(config)
    console = Console(highlight=False)
    try:
        run_demo(config, out, console, shlex.join(["armature", "demo", *argv]))
        return 0
    except NodeDied as died:
        print(f"armature demo: {died}; what the nodes said: {out / 'nodes.log'}", file=sys.stderr)
        return died.returncode if died.returncode == 2 else 1
    except EpisodeFailed as failed:
        print(f"armature demo: {failed}; what the nodes said: {out / 'nodes.log'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"armature demo: interrupted; what was committed can be read in {out}", file=sys.stderr)
        return 130


def run_demo(config: DemoConfig, out: Path, console: Console, command: str) -> dict[str, Any]:
    """Do the whole demonstration into the folder `out` and return the summary that it wrote there."""
    watch = Stopwatch()
    with MemoryMonitor() as memory:
        made = _make_checkpoint(config, out, console, watch)
        policy = str(made["checkpoint"]) if made else config.checkpoint or _shortest(EMBEDDED)
        document = _policy_document(policy, config)
        console.print(f"[bold]Armature demo[/]  {config.task}, {config.episodes} episodes of [bold]{policy}[/]")
        run = GraphRun(_graph(config, policy, out), out / "nodes.log", console, watch)
        measurements = Measurements(_replan_steps(run.config, document))
        run_episodes(run, config.episodes, measurements)
        with watch.phase("film"), console.status("film"):
            dataset = open_dataset(out / "dataset")
            write_video(out / "episodes.mp4", dataset)
    summary = build_summary(
        measurements,
        dataset,
        watch.phases_s,
        memory.peak_bytes,
        title="demo" if made is None else "demo from scratch",
        description=_description(config, dataset.spec, document),
        provenance={"command": command, **_provenance(policy, document), "recorded dataset": dataset.fingerprint},
        from_scratch=made,
    )
    _write_json(out / "summary.json", summary)
    _write_json(out / "measurements.json", asdict(measurements))
    report = write_report(out)
    print_summary(console, summary)
    console.print(f"\nreport: {report}\nfilm:   {out / 'episodes.mp4'}", soft_wrap=True)
    return summary


def _check(config: DemoConfig) -> None:
    """Raise ConfigError naming the argument that makes no sense."""
    for name, least in (("episodes", 1), ("seed", 0), ("demos", 1), ("training_steps", 1)):
        if (value := getattr(config, name)) is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}, must be at least {least}")
    if config.from_scratch and config.checkpoint:
        raise ConfigError("--checkpoint and --from-scratch exclude each other: from scratch makes its own checkpoint")
    for name in ("state", "demos", "training_steps"):
        if getattr(config, name) not in (None, False) and not config.from_scratch:
            raise ConfigError(f"--{name.replace('_', '-')} only means something with --from-scratch")
    robot_spec(_sim(config))
    if not config.from_scratch and config.checkpoint != EXPERT:
        _policy_document(config.checkpoint or str(EMBEDDED), config)


def _sim(config: DemoConfig) -> SimConfig:
    return SimConfig(task=config.task)


def _make_folder(config: DemoConfig) -> Path:
    """Create the run's folder; raise ConfigError when it already holds something."""
    out = config.out or Path("runs/demo") / time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be created: {error.strerror}") from error
    if any(out.iterdir()):
        raise ConfigError(f"--out {out}: is not empty; choose another folder")
    return out


def _make_checkpoint(config: DemoConfig, out: Path, console: Console, watch: Stopwatch) -> dict[str, Any] | None:
    if not config.from_scratch:
        return None
    scratch = ScratchConfig(config.task, config.state, config.demos, config.training_steps)
    return make_checkpoint(scratch, out, console, watch)


def _policy_document(policy: str, config: DemoConfig) -> dict[str, Any] | None:
    """Return what the checkpoint says about itself; raise an ArmatureError when it does not fit the simulated robot."""
    if policy == EXPERT:
        return None
    from policies.checkpoint import read_document

    document = read_document(policy)
    needed = RobotSpec.from_json(document["spec"])
    require_compatible(needed, robot_spec(_sim(config)), f"checkpoint {policy}")
    return document


def _graph(config: DemoConfig, policy: str, out: Path) -> GraphConfig:
    dataset = str(out / "dataset")
    return GraphConfig(config.task, policy=policy, dataset=dataset, seed=config.seed, overrides=SAME_PICTURES)


def _shortest(path: Path) -> str:
    """Write a path below the present folder relative to it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _replan_steps(graph: GraphConfig, document: dict[str, Any] | None) -> int:
    """Return after how many ticks a new chunk is asked for; the scripted expert answers every tick."""
    return 1 if document is None else min(graph.execute_steps, int(document["policy"]["chunk_steps"]))


def _description(config: DemoConfig, spec: RobotSpec, document: dict[str, Any] | None) -> str:
    inputs = "the simulator's state" if document is None else ", ".join(_observed(document))
    who = "the scripted expert" if document is None else f"a {document['family']} policy"
    where = f"{config.task.capitalize()} on the simulated {spec.name} at {spec.action.rate_hz:g} Hz"
    return f"{where}; {who} acting on {inputs}."


def _observed(document: dict[str, Any]) -> list[str]:
    return [array["name"] for array in document["spec"]["observation"]["arrays"]]


def _provenance(policy: str, document: dict[str, Any] | None) -> dict[str, str]:
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    rows = {"commit": git_commit(), "time": now, "policy": policy}
    if document is None:
        return rows
    origin = document["provenance"]
    return rows | {
        "policy trained by": origin.get("command", "unknown"),
        "policy's commit": origin.get("git_commit", "unknown"),
        "policy's dataset": origin.get("dataset_fingerprint", "unknown"),
        "policy's parameters": f"{document['parameters']:,}",
    }


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")
