"""Makes the checkpoint of a demo: scripted demonstrations through the ROS graph, then training, each timed."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from armature.errors import ArmatureError, ConfigError, unknown
from armature_ros.demo_graph import SAME_PICTURES, GraphRun, record_demonstrations
from armature_ros.graph_config import GraphConfig
from armature_ros.measurements import Measurements, Stopwatch
from data_collection.store import open_dataset

DEMONSTRATION_SEED = 0
PATIENCE_S = 20.0


@dataclass(frozen=True)
class ScratchConfig:
    """What to demonstrate and how much of it; None takes what is known to be enough."""

    task: str
    state: bool
    demonstrations: int | None
    training_steps: int | None

    @property
    def preset(self) -> str:
        """Name the training preset."""
        return f"{self.task}_{'state' if self.state else 'pixels'}"


KNOWN_DEMONSTRATIONS = {"lift_pixels": 120, "lift_state": 60}


def make_checkpoint(config: ScratchConfig, out: Path, console: Console, watch: Stopwatch) -> dict[str, Any]:
    """Record and train below `out`; return where the checkpoint lies and what went into it."""
    if config.preset not in KNOWN_DEMONSTRATIONS:
        raise ConfigError(unknown("training of --from-scratch", config.preset, KNOWN_DEMONSTRATIONS))
    count = config.demonstrations or KNOWN_DEMONSTRATIONS[config.preset]
    console.print(f"[bold]Demonstrations[/]  {count} of the scripted expert, {config.task}")
    dataset = out / "demonstrations"
    graph = GraphConfig(
        config.task,
        cameras=not config.state,
        policy="expert",
        dataset=str(dataset),
        seed=DEMONSTRATION_SEED,
        overrides=SAME_PICTURES,
    )
    record_demonstrations(GraphRun(graph, out / "nodes.log", console, watch), count, Measurements())
    console.print(f"[bold]Training[/]  preset {config.preset}")
    with watch.phase("training"):
        train(dataset, out / "training", config)
    recorded = open_dataset(dataset)
    episodes = [episode for episode in recorded.episodes if episode.is_complete]
    return {
        "checkpoint": str(out / "training" / "checkpoint"),
        "demonstrations": len(episodes),
        "demonstration_steps": sum(episode.steps for episode in episodes),
        "dataset_fingerprint": recorded.fingerprint,
        "preset": config.preset,
    }


def train(dataset: Path, out: Path, config: ScratchConfig) -> None:
    """Run `armature train` as a process of its own, so that its memory is given back; it shows its own progress."""
    steps = [] if config.training_steps is None else ["--steps", str(config.training_steps)]
    arguments = ["train", "--preset", config.preset, "--dataset", str(dataset), "--out", str(out), *steps]
    process = subprocess.Popen([sys.executable, "-m", "armature.cli", *arguments])
    try:
        returncode = process.wait()
    except BaseException:
        _end(process)
        raise
    if returncode:
        raise ArmatureError(f"armature {' '.join(arguments)} ended with exit code {returncode}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have the training save its state and end; kill it when that takes too long."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
