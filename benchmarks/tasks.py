"""How often does each family lift the cube, place the can, fit the nut? Trained on scripted demonstrations.

Every family learns one policy per task from the same demonstrations of the scripted expert (`armature collect`), from
simulator state, and is judged on the same 100 starts that were not demonstrated. Lift is also learned from pixels.

Demonstrations and trainings are kept under --out and are not repeated: one at a time, and at last the table of all.

    python benchmarks/tasks.py [--tasks lift can] [--families diffusion bc] [--out runs/tasks] [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from harness import ROOT, Arguments, Criterion, at_least, main
from kept_training import trained
from rich.console import Console
from rich.table import Table

from armature.errors import ConfigError, unknown
from data_collection.store import open_dataset
from policies.checkpoint import load_policy, read_document
from policies.presets.catalog import PRESETS
from policies.registry import METHODS, compiled_families
from policies.train_config import TrainConfig
from sim.collect import CollectConfig, collect
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.evaluate import world_for
from sim.intervals import wilson_interval
from sim.vector_rollout import vector_rollout

SUCCESS_MIN = {"lift": 0.95, "can": 0.85, "lift_pixels": 0.85}
"""What each family has to reach; the rest is reported."""
TASKS = ("lift", "can", "square", "lift_pixels")
PIXEL_FAMILIES = ("diffusion", "hrdt")
FIRST_SEED, FIRST_TEST_SEED, EPISODES, TOGETHER = 100_000, 1000, 100, 10
QUICK_EPISODES, QUICK_DEMONSTRATIONS = 4, 4
QUICK = {"steps": 20, "batch_size": 16, "validate_every_steps": 20}


@dataclass(frozen=True)
class TasksArguments(Arguments):
    """What can be asked of this benchmark."""

    tasks: tuple[str, ...] = TASKS
    """lift, can, square: from state; lift_pixels: Lift from two cameras."""
    families: tuple[str, ...] = tuple(METHODS)
    """Which to train, where that has not been done, and to evaluate; from pixels only diffusion and hrdt of them."""
    out: Path = ROOT / "runs" / "tasks"
    """Folder of the demonstrations and of the trainings."""
    steps: int | None = None
    """Of each training; unset: as many as the recipe has."""
    demonstrations: int = 200
    """Successful episodes of the expert per task."""
    threads: int = 2
    """CPU threads of torch."""
    device: str = "cpu"
    compiled: bool = False
    """Compile the trainings of families for which that can be done (ebt): needs a C++ compiler."""


@dataclass(frozen=True)
class Score:
    """One line of the table."""

    task: str
    family: str
    successes: int
    episodes: int
    low: float
    high: float
    parameters: int
    training_minutes: float
    provenance: dict[str, Any]


def measure(arguments: TasksArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Record and train what is not there yet, then evaluate all."""
    torch.set_num_threads(arguments.threads)
    for task in arguments.tasks:
        if task not in TASKS:
            raise ConfigError(unknown("task", task, TASKS))
    rows = [
        (task, family)
        for task in arguments.tasks
        for family in arguments.families
        if task != "lift_pixels" or family in PIXEL_FAMILIES
    ]
    scores = [evaluate(*row, trained(_config(*row, arguments, quick)), arguments.device, quick) for row in rows]
    Console().print(_table(scores))
    criteria = [
        at_least(f"{score.task}, {score.family}", score.successes / score.episodes, "", SUCCESS_MIN[score.task])
        for score in scores
        if score.task in SUCCESS_MIN
    ]
    return criteria, {"threads": arguments.threads, "device": arguments.device, "scores": list(map(asdict, scores))}


def _config(task: str, family: str, arguments: TasksArguments, quick: bool) -> TrainConfig:
    """Return what a row trains, with its demonstrations recorded."""
    root = arguments.out / "quick" if quick else arguments.out
    out = root / task / family
    count = QUICK_DEMONSTRATIONS if quick else arguments.demonstrations
    name = f"arm_{'pixels' if task == 'lift_pixels' else 'state'}_{family}"
    if name not in PRESETS:
        raise ConfigError(unknown("recipe", name, PRESETS))
    config = PRESETS[name](demonstrations_of(root / f"{task}_demonstrations", task, count), out)
    if arguments.steps is not None:
        config = replace(config, steps=arguments.steps)
    compiled = arguments.compiled and family in compiled_families()
    changes = {"threads": arguments.threads, "device": arguments.device, "compiled": compiled}
    return replace(config, **changes, **(QUICK if quick else {}))


def demonstrations_of(path: Path, task: str, count: int) -> Path:
    """Record the expert, once; what an interrupted recording left is begun anew."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{time.time_ns()}.draft")
        draft.parent.mkdir(parents=True, exist_ok=True)
        cameras = task == "lift_pixels"
        name = task.removesuffix("_pixels")
        collect(CollectConfig(draft, name, count, seed=FIRST_SEED, cameras=cameras), Console(stderr=True))
        draft.rename(path)
    elif (found := len(open_dataset(path).episodes)) != count:
        raise ConfigError(f"{path}: holds {found} demonstrations, asked for are {count}; choose another --out")
    return path


def evaluate(task: str, family: str, checkpoint: Path, device: str, quick: bool) -> Score:
    """Judge a policy on the starts that are the same for all."""
    policy, document = load_policy(checkpoint, device), read_document(checkpoint)
    count = QUICK_EPISODES if quick else EPISODES
    world = world_for(policy.spec, task.removesuffix("_pixels"))
    envs = [make_env(world) for _ in range(min(count, TOGETHER))]
    try:
        seeds, limits = range(FIRST_TEST_SEED, FIRST_TEST_SEED + count), limits_for(envs[0].robot_spec.action)
        results = vector_rollout(envs, policy, seeds, default_scheduler(), limits)
    finally:
        for env in envs:
            env.close()
    successes = sum(result.success for result in results)
    low, high = wilson_interval(successes, count)
    training = document["provenance"]["training"]
    figures = (document["parameters"], training["seconds"] / 60, document["provenance"])
    return Score(task, family, successes, count, low, high, *figures)


def _table(scores: list[Score]) -> Table:
    table = Table(title="Tasks of the arm, from scripted demonstrations", title_justify="left")
    for heading in ("task", "family", "successes", "95 % interval", "parameters", "training min"):
        table.add_column(heading, justify="left" if heading in ("task", "family") else "right")
    for s in scores:
        rate, interval = f"{s.successes}/{s.episodes}", f"{s.low:.3f} to {s.high:.3f}"
        table.add_row(s.task, s.family, rate, interval, f"{s.parameters / 1e6:.2f} M", f"{s.training_minutes:.1f}")
    return table


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(TasksArguments, prog=f"benchmarks/{name}.py", description=__doc__)
    # Square has no bound.
    reports_only = bool(arguments.tasks) and not set(arguments.tasks) & set(SUCCESS_MIN)
    sys.exit(main(name, partial(measure, arguments), arguments, reports_only=reports_only))
