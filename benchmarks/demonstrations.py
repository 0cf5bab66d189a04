"""Demonstrations for benchmarks: scripted experts, recorded without ROS by the real store."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.control.chunk_scheduler import SchedulerConfig
from armature.types import Command
from data_collection.dataset_writer import DatasetWriter
from data_collection.store import create_dataset
from data_collection.streams import ACTION_EXECUTED
from sim.defaults import limits_for
from sim.environment import make_env
from sim.expert import make_expert
from sim.rollout import rollout
from sim.tasks import SimConfig, robot_spec


def record(path: Path, worlds: Sequence[SimConfig], episodes: int, first_seed: int = 0) -> Path:
    """Record `episodes` successful episodes of the expert in each world; all worlds have the same robot.

    Seeds go up from `first_seed`; those of failed attempts are passed over. A dataset that is there is kept.
    """
    if path.exists():
        return path
    spec, task = robot_spec(worlds[0]), "+".join(world.task for world in worlds)
    draft = path.with_name(f".{path.name}.draft")
    with create_dataset(draft, spec, task).writer() as writer:
        for world in worlds:
            _record_world(writer, world, episodes, first_seed)
    return draft.rename(path)


def _record_world(writer: DatasetWriter, world: SimConfig, episodes: int, first_seed: int) -> None:
    env, expert = make_env(world), make_expert(world)
    try:
        done = 0
        for seed in count(first_seed):
            if done == episodes:
                return
            done += _record_episode(writer, env, expert, seed)
    finally:
        env.close()


def _record_episode(writer: DatasetWriter, env: Any, expert: Any, seed: int) -> bool:
    rows: list[dict[str, NDArray[Any]]] = []

    def keep(values: dict[str, NDArray[Any]], command: Command) -> None:
        rows.append({**{name: np.array(value) for name, value in values.items()}, ACTION_EXECUTED: command.action})

    every_tick = SchedulerConfig("receding_horizon", execute_steps=1)
    if not rollout(env, expert, seed, every_tick, limits_for(env.robot_spec.action), keep).success:
        return False
    episode = writer.begin({"seed": seed})
    stamps_ns = np.arange(len(rows), dtype=np.int64) * env.robot_spec.action.period_ns
    for stream in rows[0]:
        episode.append(stream, stamps_ns, stamps_ns, np.stack([row[stream] for row in rows]))
    episode.end({"success": True})
    return True
