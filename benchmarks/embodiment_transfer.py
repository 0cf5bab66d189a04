"""Does a trunk that knows one arm help another one to learn from few demonstrations?

The trunk of an H-RDT policy is trained on Lift and Can with the Panda, from state. Then the UR5e, which has other
joints and another number of them, learns one task from ten demonstrations: once with that trunk and adapters and
decoder of its own (`--init-from … --new-embodiment`), once from nothing. Both trainings of a pair have the same
demonstrations, seed and steps, and both are judged on the same episodes. By default policies see and move the TCP,
which means the same for every arm; with `--action joint_position` they see and move joints.

Trainings scatter more than episodes do: the interval of the difference is Student's over pairs of trainings, each of
which counts once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from harness import Arguments, Criterion, main
from kept_training import trained
from numpy.typing import NDArray
from rich.progress import Progress
from scipy.stats import t as student

from armature.errors import ConfigError
from armature.spec import JOINT_POSITION
from data_collection.store import create_dataset
from policies.checkpoint import load_policy, read_document
from policies.hrdt import HrdtConfig
from policies.policy_config import PolicyConfig
from policies.presets.hrdt import small
from policies.train_config import TrainConfig
from sim.collect import CollectConfig, record
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.expert import make_expert
from sim.intervals import wilson_interval
from sim.tasks import STATE, SimConfig, robot_spec
from sim.vector_rollout import vector_rollout

ROBOT, OTHER_ROBOT = "panda", "ur5e"
DEMONSTRATIONS = 10
FIRST_SEED, FIRST_TEST_SEED = 10_000, 100_000
TOGETHER = 10
"""Episodes that are simulated at once."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class TransferArguments(Arguments):
    """What can be asked of this benchmark."""

    task: Literal["lift", "can"] = "can"
    """What the other arm has to learn."""
    action: Literal["tcp_delta", "joint_position"] = "tcp_delta"
    """What policies move, and see of the arm: its TCP, or its joints and its TCP."""
    trainings: int = 5
    """Pairs of trainings, each with demonstrations and a seed of its own."""
    episodes: int = 50
    """Episodes on which each training is judged."""
    work: Path | None = None
    """Folder for demonstrations and checkpoints, which are used again where they are there; by default a new one."""


@dataclass(frozen=True)
class Effort:
    """How much is done; `width` and `layers` are those of the trunk."""

    trunk_demonstrations: int
    trunk_steps: int
    steps: int
    width: int
    layers: int


FULL = Effort(trunk_demonstrations=100, trunk_steps=5000, steps=1500, width=128, layers=4)
QUICK = Effort(trunk_demonstrations=10, trunk_steps=600, steps=200, width=64, layers=3)


def measure(quick: bool, arguments: TransferArguments, work: Path) -> tuple[list[Criterion], dict[str, Any]]:
    """Train all policies and compare them."""
    if arguments.trainings < 2:
        raise ConfigError(f"trainings is {arguments.trainings}: an interval over pairs needs two or more")
    effort, begin_s = QUICK if quick else FULL, time.monotonic()
    worlds = [SimConfig(task, arguments.action, cameras=False, robot=ROBOT) for task in ("lift", "can")]
    demonstrations = _recorded(work / "trunk_demonstrations", worlds, effort.trunk_demonstrations, FIRST_SEED)
    trunk = trained(_config(worlds[0], demonstrations, work / "trunk", effort, effort.trunk_steps))
    world = replace(worlds[0], task=arguments.task, robot=OTHER_ROBOT)
    pairs = [_pair(work, world, trunk, effort, k) for k in range(arguments.trainings)]
    # (trainings, from nothing | with trunk, episodes)
    outcomes = np.array([[_outcomes(each, world, arguments.episodes) for each in pair] for pair in pairs])
    low, high = difference_interval(outcomes)
    rates = outcomes.mean(axis=(0, 2))
    name = f"{OTHER_ROBOT} {arguments.task}, {arguments.action}: success gained by the trunk, lower end of its interval"
    criteria = [Criterion(name, low, "rate", "> 0", low > 0)]
    details = {
        "effort": vars(effort) | {"demonstrations": DEMONSTRATIONS, "task": arguments.task, "action": arguments.action},
        "from_nothing": _described(outcomes[:, 0]),
        "with_trunk": _described(outcomes[:, 1]),
        "difference": {"mean": rates[1] - rates[0], "low": low, "high": high, "confidence": CONFIDENCE},
        "provenance": {"trunk": _provenance(trunk), "pairs": [list(map(_provenance, pair)) for pair in pairs]},
        "seconds": round(time.monotonic() - begin_s),
    }
    return criteria, details


def difference_interval(outcomes: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the 95 % interval of (with - without) from outcomes (trainings, 2, episodes), by Student's t over pairs.

    The episodes of a pair say how good its two trainings are, and not how good others would be.
    """
    gains = np.diff(outcomes.mean(axis=2), axis=1)[:, 0]
    half = student.ppf((1 + CONFIDENCE) / 2, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return float(gains.mean() - half), float(gains.mean() + half)


def _pair(work: Path, world: SimConfig, trunk: Path, effort: Effort, k: int) -> tuple[Path, Path]:
    """Train from nothing and with the trunk on the same demonstrations; return both checkpoints."""
    folder = work / f"{world.task}{k}"
    data = _recorded(folder / "demonstrations", [world], DEMONSTRATIONS, FIRST_SEED + 1000 * (k + 1))
    nothing = replace(_config(world, data, folder / "nothing", effort, effort.steps), seed=k)
    moved = replace(nothing, out=folder / "with_trunk", init_from=trunk, new_embodiment=True)
    return trained(nothing), trained(moved)


def _provenance(checkpoint: Path) -> dict[str, Any]:
    return read_document(checkpoint)["provenance"]


def _recorded(path: Path, worlds: list[SimConfig], episodes: int, seed: int) -> Path:
    """Record `episodes` of the scripted expert in each world into one dataset; one that is there is kept."""
    if path.exists():
        return path
    draft = path.with_name(f".{path.name}.{time.time_ns()}.draft")
    spec, task = robot_spec(worlds[0]), "+".join(world.task for world in worlds)
    with create_dataset(draft, spec, task).writer() as writer, Progress(disable=True) as silent:
        for world in worlds:
            env = make_env(world)
            try:
                record(CollectConfig(draft, world.task, episodes, seed=seed), make_expert(world), env, writer, silent)
            finally:
                env.close()
    return draft.rename(path)


def _config(world: SimConfig, dataset: Path, out: Path, effort: Effort, steps: int) -> TrainConfig:
    moves_joints = world.action == "joint_position"
    seen = STATE if moves_joints else tuple(name for name in STATE if name != JOINT_POSITION)
    policy = PolicyConfig(observations=seen, relative_actions=moves_joints)
    method = HrdtConfig(effort.width, effort.layers, heads=4, kv_heads=2, hidden=3 * effort.width)
    every = {"validate_every_steps": steps, "save_every_steps": steps, "validation_fraction": 0.0, "threads": 1}
    return replace(small(dataset, out), policy=policy, method=method, steps=steps, **every)


def _outcomes(checkpoint: Path, world: SimConfig, episodes: int) -> list[bool]:
    policy, envs = load_policy(checkpoint), [make_env(world) for _ in range(min(episodes, TOGETHER))]
    try:
        seeds, limits = range(FIRST_TEST_SEED, FIRST_TEST_SEED + episodes), limits_for(envs[0].robot_spec.action)
        return [result.success for result in vector_rollout(envs, policy, seeds, default_scheduler(), limits)]
    finally:
        for env in envs:
            env.close()


def _described(outcomes: NDArray[np.bool_]) -> dict[str, Any]:
    low, high = wilson_interval(int(outcomes.sum()), outcomes.size)
    each = outcomes.mean(axis=1).tolist()
    return {"rate": outcomes.mean().item(), "low": low, "high": high, "each_training": each, "n": outcomes.size}


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = tyro.cli(TransferArguments, prog="benchmarks/embodiment_transfer.py", description=__doc__)
    with tempfile.TemporaryDirectory() as fresh:
        place = (given.work or Path(fresh)) / ("quick" if given.quick else "full") / given.action
        place.mkdir(parents=True, exist_ok=True)
        sys.exit(main("embodiment_transfer", lambda quick: measure(quick, given, place), given))
