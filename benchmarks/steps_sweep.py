"""How many evaluations of its network does a family need? Coverage in Push-T against their number, family by family.

Policies come from --checkpoints, as `benchmarks/pusht.py` leaves them: DIR/FAMILY/checkpoint. Nothing is trained: only
the sampler is changed: its number of steps and, of up to three, where they lie (`for_few`; chosen on 100 to 200 starts
of seeds from 200,000 on, none of which is evaluated here). An evaluation of EBT is one step down its energy,
which costs about three passes through its network; the table states milliseconds beside evaluations.

    python benchmarks/steps_sweep.py [--checkpoints DIR] [--families ebt score] [--episodes N] [--quick] [--json FILE]
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from harness import ROOT, Arguments, Criterion, at_least, main, require_number
from rich.console import Console
from rich.progress import track
from rich.table import Table

from armature.errors import ConfigError, unknown
from armature.testing import random_observation
from policies.checkpoint import load_policy, read_document
from policies.chunk_policy import ChunkPolicy
from policies.diffusion import DiffusionConfig
from policies.hrdt import HrdtConfig
from policies.mode import ModeConfig
from policies.registry import METHODS
from policies.sampler import resampled
from policies.score import ScoreConfig
from policies.train_config import MethodConfig
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.intervals import mean_interval
from sim.tasks import SimConfig
from sim.vector_rollout import vector_rollout

EVALUATIONS = (1, 2, 3, 5, 10, 50, 100)
QUICK_EVALUATIONS, QUICK_EPISODES = (2, 3, 10), 2
ENOUGH = {"ebt": 2, "hrdt": 2, "mode": 3, "score": 3}
"""Evaluations at which a family has to be within POINTS of its own best."""
POINTS = 3.0
FEW = 3
"""Up to so many evaluations steps are placed for few; more lie where the training's recipe has them."""
FIRST_SEED = 100_000
"""As in Chi et al. 2023: no demonstration begins there."""
TIMED_CHUNKS = 20


@dataclass(frozen=True)
class SweepArguments(Arguments):
    checkpoints: Path = ROOT / "runs" / "pusht"
    """Folder with FAMILY/checkpoint for every family."""
    families: tuple[str, ...] = tuple(METHODS)
    """Which of them to measure."""
    episodes: int = 200
    """Starts per number of evaluations, the same for all: of 50, two means differ by POINTS by chance alone."""
    evaluations: tuple[int, ...] = EVALUATIONS
    threads: int = 2
    """CPU threads of torch."""


@dataclass(frozen=True)
class Point:
    """One family at one number of evaluations."""

    family: str
    evaluations: int
    coverage: float
    """Mean over the episodes of the largest part of the mark that was covered."""
    low: float
    high: float
    successes: int
    chunk_ms: float
    """Median time per chunk, one observation at a time."""
    coverages: tuple[float, ...]


def measure(arguments: SweepArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Evaluate every family at every number of evaluations; criteria are about each family's own best."""
    # An interval needs two.
    require_number("episodes", arguments.episodes, 2)
    torch.set_num_threads(arguments.threads)
    if quick:
        arguments = replace(arguments, episodes=QUICK_EPISODES, evaluations=QUICK_EVALUATIONS)
    points = [point for family in arguments.families for point in sweep(family, arguments)]
    compared = [against_best(point, of_family(points, point.family)) for point in points]
    print_points(points, compared, arguments.episodes)
    criteria = [_criterion(points, family, ENOUGH[family]) for family in arguments.families if family in ENOUGH]
    rows = [asdict(point) | {"against_best": vars(other)} for point, other in zip(points, compared, strict=True)]
    documents = {family: read_document(checkpoint_of(family, arguments)) for family in arguments.families}
    provenance = {family: document["provenance"] for family, document in documents.items()}
    return criteria, {"episodes": arguments.episodes, "points": rows, "provenance": provenance}


@dataclass(frozen=True)
class Gap:
    """How far a point is from the best one of its family, from the same starts, in points of coverage."""

    best: int
    """Evaluations of the best one."""
    points: float
    low: float
    high: float


def of_family(points: list[Point], family: str) -> list[Point]:
    """Return the points of one family."""
    return [point for point in points if point.family == family]


def against_best(point: Point, family: list[Point]) -> Gap:
    """Compare a point with the best one of its family, start by start."""
    best = max(family, key=lambda other: other.coverage)
    gaps = 100 * (np.array(point.coverages) - best.coverages)
    return Gap(best.evaluations, float(gaps.mean()), *mean_interval(gaps))


def _criterion(points: list[Point], family: str, wanted: int) -> Criterion:
    """Ask of the wanted number that it is near the best of all that were tried; without larger ones none is told."""
    found = {point.evaluations: point for point in of_family(points, family)}
    others = ", ".join(str(number) for number in sorted(found) if number != wanted)
    is_told = wanted in found and max(found) > wanted
    gap = against_best(found[wanted], list(found.values())).points if is_told else float("nan")
    return at_least(f"{family}: {wanted} evaluations against the best of {others or 'none'}", gap, "points", -POINTS)


def checkpoint_of(family: str, arguments: SweepArguments) -> Path:
    """Return where the policy of a family lies."""
    return arguments.checkpoints / family / "checkpoint"


def sweep(family: str, arguments: SweepArguments) -> list[Point]:
    """Evaluate one family at every number of evaluations, or once if it takes no steps."""
    if family not in METHODS:
        raise ConfigError(unknown("policy family", family, METHODS))
    policy = load_policy(checkpoint_of(family, arguments))
    numbers = arguments.evaluations if hasattr(policy.method_config, steps_field(family)) else (1,)
    shown = track(numbers, family, console=Console(stderr=True))
    return [evaluate(with_evaluations(policy, number), number, arguments.episodes) for number in shown]


def steps_field(family: str) -> str:
    """Name the field of the family's config that says how many evaluations a chunk takes."""
    return {"ebt": "steps_max"}.get(family, "sampling_steps")


def with_evaluations(policy: ChunkPolicy, number: int) -> ChunkPolicy:
    """Build the policy again with the same weights and another number of evaluations per chunk."""
    method = for_few(policy.method_config) if number <= FEW else policy.method_config
    if hasattr(method, steps_field(policy.family)):
        method = replace(method, **{steps_field(policy.family): number})
    return resampled(policy, method)


def for_few(method: MethodConfig) -> MethodConfig:
    """Place the steps of the sampler so that few are enough; each field says why."""
    match method:
        case DiffusionConfig():
            return replace(method, spacing="trailing")
        case HrdtConfig():
            return replace(method, last_time=0.9)
        case ModeConfig():
            return replace(method, edm=replace(method.edm, first_sigma=5.0, last_sigma=0.05))
        case ScoreConfig():
            return replace(method, edm=replace(method.edm, last_sigma=0.1))
        case _:
            return method


def evaluate(policy: ChunkPolicy, evaluations: int, episodes: int) -> Point:
    """Run all episodes at once, in simulated time."""
    worlds = [make_env(SimConfig("pusht", cameras=False)) for _ in range(episodes)]
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    try:
        limits = limits_for(worlds[0].robot_spec.action)
        results = vector_rollout(worlds, policy, seeds, default_scheduler(), limits)
    finally:
        for world in worlds:
            world.close()
    coverages = tuple(result.maxima["coverage"] for result in results)
    successes = sum(result.success for result in results)
    figures = (float(np.mean(coverages)), *mean_interval(coverages), successes, chunk_ms(policy))
    return Point(policy.family, evaluations, *figures, coverages)


def chunk_ms(policy: ChunkPolicy) -> float:
    """Measure the median time from an observation to its chunk [ms]."""
    observation = random_observation(policy.spec, policy.obs_steps, np.random.default_rng(0), 0)
    times_s = []
    for _ in range(TIMED_CHUNKS):
        begin_s = time.perf_counter()
        policy.infer(observation)
        times_s.append(time.perf_counter() - begin_s)
    return 1e3 * float(np.median(times_s))


def print_points(points: list[Point], compared: list[Gap], episodes: int) -> None:
    """Show every family at every number of evaluations."""
    table = Table(title=f"Push-T, {episodes} episodes each; 95 % intervals", title_justify="left")
    for heading in ("family", "evaluations", "coverage", "points to the best", "successes", "ms per chunk"):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    for p, gap in zip(points, compared, strict=True):
        coverage = f"{p.coverage:.3f} ({p.low:.3f} to {p.high:.3f})"
        to_best = f"{gap.points:.1f} ({gap.low:.1f} to {gap.high:.1f})"
        shown = "" if gap.best == p.evaluations else to_best
        table.add_row(p.family, f"{p.evaluations}", coverage, shown, f"{p.successes}", f"{p.chunk_ms:.1f}")
    Console().print(table)


if __name__ == "__main__":
    chosen = tyro.cli(SweepArguments, prog="benchmarks/steps_sweep.py")
    # The other families have no goal.
    reports_only = bool(chosen.families) and not set(chosen.families) & set(ENOUGH)
    raise SystemExit(main("steps_sweep", partial(measure, chosen), chosen, reports_only=reports_only))
