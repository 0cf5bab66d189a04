"""`armature collect`: record demonstrations in simulation, headless and without ROS.

Who demonstrates is the scripted expert of the task or a checkpoint. The control path and the dataset are those of the
robot; `armature up collect` records the same through the ROS 2 graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from armature.errors import ConfigError, DatasetError
from armature.policy import Policy
from armature.spec import RobotSpec, require_compatible
from armature.types import Command
from data_collection.dataset_writer import DatasetWriter
from data_collection.store import create_dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED, REWARD
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.evaluate import require_own, require_task_of, world_for
from sim.expert import make_expert
from sim.rollout import EpisodeResult, rollout
from sim.tasks import SimConfig, robot_spec

ATTEMPTS_PER_EPISODE = 3


@dataclass(frozen=True)
class CollectConfig:
    """What to record, and how much of it."""

    dataset: Path
    """Folder of the new dataset."""
    task: str = "lift"
    """lift, can or square; pusht with a checkpoint."""
    episodes: int = 60
    """Episodes to keep."""
    keep: Literal["successful", "all"] = "successful"
    """Which attempts are recorded."""
    checkpoint: Path | None = None
    """Folder of the checkpoint that demonstrates; unset: the scripted expert."""
    seed: int = 100_000
    """Seed of the first attempt; the next ones follow."""
    cameras: bool = False
    """Record the cameras too, as always with a checkpoint that looks at them: rendering takes most of the time."""
    image_size: int | None = None
    """Edge of the camera images [px], 128 if unset; a checkpoint that looks at cameras brings its own."""
    prompt: str = ""
    """What the robot was told to do, in words; kept with each episode, and told to a checkpoint that takes a prompt."""
    robot: str | None = None
    """Arm that the expert drives, panda (if unset) or ur5e; a checkpoint brings its own."""


class _Tape:
    """What happened in one episode, tick by tick."""

    def __init__(self) -> None:
        self.columns: dict[str, list[NDArray[Any]]] = {}
        self.stamps_ns: list[int] = []

    def __call__(self, values: dict[str, NDArray[Any]], command: Command) -> None:
        asked = np.full_like(command.action, np.nan) if command.requested is None else command.requested
        self.stamps_ns.append(command.stamp_ns)
        for name, value in {**values, ACTION_EXECUTED: command.action, ACTION_REQUESTED: asked}.items():
            self.columns.setdefault(name, []).append(value)

    def write(self, writer: DatasetWriter, result: EpisodeResult, metadata: dict[str, Any]) -> None:
        """Commit the episode."""
        stamps_ns = np.array(self.stamps_ns, np.int64)
        rewards = np.zeros((len(stamps_ns), 1))
        rewards[-1] = float(result.success)
        episode = writer.begin(metadata)
        for name, values in {**self.columns, REWARD: rewards}.items():
            episode.append(name, stamps_ns, stamps_ns, np.stack(values))
        episode.end({"success": result.success, "outcome": "success" if result.success else "failure"})


def main(argv: list[str]) -> int:
    """Run `armature collect`; print what was recorded."""
    config = tyro.cli(CollectConfig, prog="armature collect", description=__doc__, args=argv)
    attempts = collect(config, Console(stderr=True))
    kept = f"{config.episodes} episodes of {attempts} attempts"
    Console().print(f"{config.dataset}: {kept}", highlight=False, soft_wrap=True)
    return 0


def collect(config: CollectConfig, console: Console) -> int:
    """Record a dataset and return how many attempts it took; raise DatasetError when too many fail.

    Raises ConfigError or SpecMismatch, and makes nothing, where no attempt can be made.
    """
    for name, least in (("episodes", 1), ("seed", 0)):
        if (value := getattr(config, name)) < least:
            raise ConfigError(f"{name}: {value} is below {least}")
    policy, sim = _demonstrator(config)
    require_compatible(policy.spec, robot_spec(sim), policy.policy_id)
    env = make_env(sim)
    try:
        with create_dataset(config.dataset, env.robot_spec, config.task).writer() as writer, _progress(console) as bar:
            return record(config, policy, env, writer, bar)
    finally:
        env.close()


def record(config: CollectConfig, policy: Policy, env: Any, writer: DatasetWriter, progress: Progress) -> int:
    """Record the episodes of one world and return how many attempts it took; raise DatasetError when too many fail."""
    spec: RobotSpec = env.robot_spec
    limits, bar = limits_for(spec.action), progress.add_task(policy.policy_id, total=config.episodes)
    kept = 0
    for attempt in range(ATTEMPTS_PER_EPISODE * config.episodes):
        tape, seed = _Tape(), config.seed + attempt
        result = rollout(env, policy, seed, default_scheduler(), limits, tape)
        if result.success or config.keep == "all":
            tape.write(writer, result, {"seed": seed, "operator": policy.policy_id, "prompt": config.prompt})
            kept += 1
        progress.update(bar, completed=kept)
        if kept == config.episodes:
            return attempt + 1
    raise DatasetError(f"{config.dataset}: only {kept} of {attempt + 1} attempts at {config.task} succeeded")


def _demonstrator(config: CollectConfig) -> tuple[Policy, SimConfig]:
    size = SimConfig.image_size if config.image_size is None else config.image_size
    if config.checkpoint is None:
        _require_looked_at(config, is_looking=config.cameras)
        robot = config.robot or SimConfig.robot
        sim = SimConfig(config.task, cameras=config.cameras, image_size=size, robot=robot)
        return make_expert(sim), sim
    from policies.checkpoint import load_policy

    policy = load_policy(config.checkpoint)
    require_task_of(config.checkpoint, config.task)
    require_own(policy, {"robot": config.robot, "image_size": config.image_size})
    if policy.config.takes_prompt:
        policy.set_prompt(config.prompt)
    sim = world_for(policy.spec, config.task)
    _require_looked_at(config, is_looking=sim.cameras or config.cameras)
    # What it does not look at may be recorded all the same.
    return policy, sim if sim.cameras else replace(sim, cameras=config.cameras, image_size=size)


def _require_looked_at(config: CollectConfig, *, is_looking: bool) -> None:
    if config.image_size is not None and not is_looking:
        raise ConfigError(f"image_size {config.image_size}: nothing is looked at; add --cameras")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
