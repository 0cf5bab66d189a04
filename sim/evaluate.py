"""`armature eval`: seeded episodes of a checkpoint or a scripted expert in simulation, headless and without ROS."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from armature.config import to_plain
from armature.control.chunk_scheduler import SchedulerConfig
from armature.errors import ConfigError
from armature.policy import Policy
from armature.spec import RobotSpec, require_compatible
from armature.types import Reason
from sim.arms import ARMS
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.evaluation_report import print_report, require_writable, write_report
from sim.intervals import wilson_interval
from sim.rollout import EpisodeResult, rollout
from sim.tasks import SimConfig, horizon_steps, require_learned, robot_spec, task_of

CONFIDENCE = 0.95
_CHECKPOINTS_ONLY = ("prompt", "engine", "device", "render_profile")


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
    action: Literal["joint_position", "tcp_delta"] | None = None
    """Action of the expert, joint_position if unset; a checkpoint brings its own."""
    robot: str | None = None
    """Arm of the expert, panda (if unset) or ur5e; a checkpoint brings its own."""
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
    """Write the result to this file as JSON."""
    success_min: float = 0.0
    """Exit with 1 when a smaller fraction of the episodes succeeds."""


def main(argv: list[str]) -> int:
    """Run `armature eval` and return its exit code: 1 when fewer episodes succeed than --success-min asks for."""
    config = tyro.cli(EvalConfig, prog="armature eval", description=__doc__, args=argv)
    began_s = time.monotonic()
    policy, world, results = evaluate(config, Console(stderr=True))
    report = summarize(config, policy, world, results, time.monotonic() - began_s)
    print_report(Console(), report)
    if config.json is not None:
        write_report(config.json, report)
    return 0 if report["success"]["rate"] >= config.success_min else 1


def evaluate(config: EvalConfig, console: Console) -> tuple[Policy, SimConfig, list[EpisodeResult]]:
    """Run all episodes; raise ConfigError for contradictory options, SpecMismatch when policy and robot differ."""
    _check(config)
    policy, world = _load(config)
    require_compatible(policy.spec, robot_spec(world), policy.policy_id)
    with _progress(console) as progress:
        advance = _progress_bar(progress, policy, config.episodes)
        seeds = range(config.seed, config.seed + config.episodes)
        return policy, world, run_episodes(policy, world, seeds, config.scheduler, advance)


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


def require_task_of(checkpoint: Path, task: str) -> None:
    """Raise ConfigError where a checkpoint has learned another task."""
    from policies.checkpoint import read_document

    require_learned(task, read_document(checkpoint)["provenance"], checkpoint)


def require_own(policy: Policy, asked: Mapping[str, Any]) -> None:
    """Raise ConfigError where an option that is set contradicts what a checkpoint brings."""
    images = policy.spec.observation.images
    own = {"robot": policy.spec.name, "action": policy.spec.action.kind}
    own |= {"image_size": images[0].shape[0]} if images else {}
    for name, value in asked.items():
        if value is not None and value != own.get(name, value):
            raise ConfigError(f"{name} '{value}': the checkpoint brings its own, '{own[name]}'; leave it unset")


def summarize(
    config: EvalConfig, policy: Policy, world: SimConfig, results: list[EpisodeResult], wall_s: float
) -> dict[str, Any]:
    """Return the result as JSON data."""
    k, n = sum(result.success for result in results), len(results)
    low, high = wilson_interval(k, n, CONFIDENCE)
    return {
        "task": config.task,
        "robot": policy.spec.name,
        "action": policy.spec.action.kind,
        "horizon_steps": horizon_steps(world),
        "render_profile": _render_profile(world),
        "policy_id": policy.policy_id,
        "prompt": config.prompt,
        **({} if config.checkpoint is None else {"checkpoint": str(config.checkpoint), "engine": config.engine}),
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
    for name in _CHECKPOINTS_ONLY:
        if config.expert and (value := getattr(config, name)) != getattr(EvalConfig, name):
            raise ConfigError(f"{name} '{value}': the scripted expert takes none")
    if config.episodes < 1:
        raise ConfigError(f"episodes: {config.episodes} is below 1")
    if config.seed < 0:
        raise ConfigError(f"seed: {config.seed} is below 0")
    if not 0 <= config.success_min <= 1:
        raise ConfigError(f"success_min: {config.success_min}, must lie in 0 to 1")
    if config.json is not None:
        require_writable(config.json)


def _load(config: EvalConfig) -> tuple[Policy, SimConfig]:
    if config.checkpoint is None:
        from sim.expert import make_expert

        action, robot = config.action or SimConfig.action, config.robot or SimConfig.robot
        world = SimConfig(config.task, action, cameras=False, horizon_steps=config.horizon_steps, robot=robot)
        return make_expert(world), world
    from policies.checkpoint import load_policy

    policy = load_policy(config.checkpoint, config.device, config.prompt, config.engine)
    require_task_of(config.checkpoint, config.task)
    require_own(policy, {"robot": config.robot, "action": config.action})
    # Now, before the world is built, it says whether it lacks a prompt.
    policy.reset()
    world = world_for(policy.spec, config.task, config.horizon_steps, config.render_profile)
    if config.render_profile is not None and _render_profile(world) is None:
        raise ConfigError(f"render_profile '{config.render_profile}': {config.checkpoint} looks at no simulated camera")
    return policy, world


def _render_profile(world: SimConfig) -> str | None:
    """Return how cameras are drawn; None where none are, or in one way alone."""
    if not world.cameras or task_of(world).world != "arm":
        return None
    from sim.rendering import default_profile

    return world.render_profile or default_profile()


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
