"""`armature eval`: seeded episodes of a checkpoint or a scripted expert in simulation, headless and without ROS."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from armature.config import to_plain
from armature.control.chunk_scheduler import SchedulerConfig
from armature.errors import ConfigError
from armature.policy import Policy
from armature.spec import RobotSpec, require_compatible
from armature.types import Reason
from sim.arms import ARMS
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.intervals import wilson_interval
from sim.rollout import EpisodeResult, rollout
from sim.tasks import SimConfig, robot_spec

CONFIDENCE = 0.95


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate, on which episodes."""

    checkpoint: Path | None = None
    """Folder of a checkpoint; either this or --expert."""
    expert: bool = False
    """Evaluate the scripted expert of the task."""
    task: str = "lift"
    """lift, can, square or pusht."""
    prompt: str | None = None
    """What to tell a checkpoint that was trained with prompts."""
    action: Literal["joint_position", "tcp_delta"] = "joint_position"
    """Action of the expert; a checkpoint brings its own."""
    robot: str = "panda"
    """Arm of the expert, panda or ur5e; a checkpoint brings its own."""
    episodes: int = 20
    """Number of episodes, with the seeds seed, seed + 1, ..."""
    seed: int = 1000
    """Seed of the first episode."""
    horizon_steps: int | None = None
    """Steps after which an attempt has failed; the task's own number if unset."""
    render_profile: Literal["fast", "full"] | None = None
    """How cameras are drawn; see SimConfig. A checkpoint does best with what it was trained on."""
    scheduler: Annotated[SchedulerConfig, tyro.conf.arg(name="")] = field(default_factory=default_scheduler)
    device: str = "cpu"
    """Where the checkpoint runs: cpu, cuda, cuda:1, ..."""
    engine: str = "eager"
    """How it runs: eager, or one that is faster and equal to 1e-4: auto, openvino, compiled, cuda_graph."""
    json: Path | None = None
    """Write the result here as JSON."""
    success_min: float = 0.0
    """Exit with 1 when a smaller fraction of the episodes succeeds."""


def main(argv: list[str]) -> int:
    """Run `armature eval` and return its exit code: 1 when fewer episodes succeed than --success-min asks for."""
    config = tyro.cli(EvalConfig, prog="armature eval", description=__doc__, args=argv)
    console = Console()
    began_s = time.monotonic()
    policy, results = evaluate(config, Console(stderr=True))
    report = summarize(config, policy, results, time.monotonic() - began_s)
    if config.json is not None:
        config.json.parent.mkdir(parents=True, exist_ok=True)
        config.json.write_text(json.dumps(report, indent=2) + "\n")
    _print(console, report)
    return 0 if report["success"]["rate"] >= config.success_min else 1


def evaluate(config: EvalConfig, console: Console) -> tuple[Policy, list[EpisodeResult]]:
    """Run all episodes; raise ConfigError for contradictory options, SpecMismatch when policy and robot differ."""
    _check(config)
    policy, world = _load(config)
    require_compatible(policy.spec, robot_spec(world), policy.policy_id)
    with _progress(console) as progress:
        advance = _progress_bar(progress, policy, config.episodes)
        seeds = range(config.seed, config.seed + config.episodes)
        return policy, run_episodes(policy, world, seeds, config.scheduler, advance)


def run_episodes(
    policy: Policy,
    world: SimConfig,
    seeds: Iterable[int],
    scheduler: SchedulerConfig,
    on_episode: Callable[[list[EpisodeResult]], None] = lambda _results: None,
) -> list[EpisodeResult]:
    """Run one episode per seed; raise SpecMismatch when policy and robot differ."""
    env = make_env(world)
    limits = limits_for(env.robot_spec.action)
    results: list[EpisodeResult] = []
    try:
        for seed in seeds:
            results.append(rollout(env, policy, seed, scheduler, limits))
            on_episode(results)
    finally:
        env.close()
    return results


def world_for(
    spec: RobotSpec,
    task: str,
    horizon_steps: int | None = None,
    render_profile: Literal["fast", "full"] | None = None,
) -> SimConfig:
    """Describe the world that shows a policy what its spec names and no more: cameras only if it looks at them."""
    images = spec.observation.images
    size = images[0].shape[0] if images else SimConfig.image_size
    action = "tcp_delta" if spec.action.kind == "tcp_delta" else "joint_position"
    robot = spec.name if spec.name in ARMS else SimConfig.robot
    return SimConfig(task, action, bool(images), size, horizon_steps, render_profile=render_profile, robot=robot)


def summarize(config: EvalConfig, policy: Policy, results: list[EpisodeResult], wall_s: float) -> dict[str, Any]:
    """Return the result as JSON data."""
    k, n = sum(result.success for result in results), len(results)
    low, high = wilson_interval(k, n, CONFIDENCE)
    return {
        "task": config.task,
        "policy_id": policy.policy_id,
        "prompt": config.prompt,
        "engine": config.engine,
        "spec_fingerprint": policy.spec.fingerprint,
        "scheduler": to_plain(config.scheduler),
        "seeds": [result.seed for result in results],
        "success": {"k": k, "n": n, "rate": k / n, "low": low, "high": high, "confidence": CONFIDENCE},
        "interventions": _by_name(sum((result.reasons for result in results), Counter())),
        "episodes": [_episode(result) for result in results],
        "wall_s": wall_s,
    }


def _check(config: EvalConfig) -> None:
    if config.expert == (config.checkpoint is not None):
        raise ConfigError("give either --checkpoint PATH or --expert")
    if config.expert and config.prompt is not None:
        raise ConfigError(f"prompt '{config.prompt}': the scripted expert takes none")
    if config.episodes < 1:
        raise ConfigError(f"episodes: {config.episodes} is below 1")
    if config.seed < 0:
        raise ConfigError(f"seed: {config.seed} is below 0")


def _load(config: EvalConfig) -> tuple[Policy, SimConfig]:
    if config.checkpoint is None:
        from sim.expert import make_expert

        sim_config = SimConfig(
            config.task, config.action, cameras=False, horizon_steps=config.horizon_steps, robot=config.robot
        )
        return make_expert(sim_config), sim_config
    from policies.checkpoint import load_policy

    policy = load_policy(config.checkpoint, config.device, config.prompt, config.engine)
    # Now, before the world is built, it says whether it lacks a prompt.
    policy.reset()
    return policy, world_for(policy.spec, config.task, config.horizon_steps, config.render_profile)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _progress_bar(progress: Progress, policy: Policy, episodes: int) -> Callable[[list[EpisodeResult]], None]:
    bar = progress.add_task(policy.policy_id, total=episodes)

    def advance(results: list[EpisodeResult]) -> None:
        k = sum(result.success for result in results)
        progress.update(bar, completed=len(results), description=f"{policy.policy_id}  {k}/{len(results)} succeeded")

    return advance


def _episode(result: EpisodeResult) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "success": result.success,
        "steps": result.steps,
        "duration_s": result.duration_s,
        "interventions": _by_name(result.reasons),
    }


def _by_name(reasons: Counter[Reason]) -> dict[str, int]:
    return {reason.name.lower(): count for reason, count in reasons.items()}


def _print(console: Console, report: dict[str, Any]) -> None:
    table = Table("seed", "success", "steps", "simulated s", "gate interventions", title=report["policy_id"])
    for episode in report["episodes"]:
        table.add_row(
            str(episode["seed"]),
            "[green]yes[/]" if episode["success"] else "[red]no[/]",
            str(episode["steps"]),
            f"{episode['duration_s']:.1f}",
            _counts(episode["interventions"]),
        )
    console.print(table)
    success = report["success"]
    interval = f"95 % interval {success['low']:.3f} to {success['high']:.3f}"
    median = np.median([episode["steps"] for episode in report["episodes"]])
    console.print(f"success {success['k']}/{success['n']} ({interval}), median {median:.0f} steps", highlight=False)
    console.print(f"gate interventions: {_counts(report['interventions'])}; {report['wall_s']:.1f} s", highlight=False)


def _counts(interventions: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in interventions.items()) or "none"
