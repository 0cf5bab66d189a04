"""Demonstrations as transitions: at every step the frozen policy says what it would have done there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from armature.errors import DatasetError
from armature.normalizer import FieldStats, Normalizer
from armature.spec import RobotSpec, require_compatible
from armature.types import Observation
from data_collection.store import Dataset, Episode, open_dataset
from data_collection.windows import ACTION, aligned_episode
from policies.chunk_policy import ChunkPolicy
from policies.replay import Layout, NStep, Replay, Step, Vector
from policies.residual_td3 import ResidualConfig
from policies.residual_view import ResidualView
from policies.standing import Standing
from policies.train_data import is_successful

TOGETHER = 64
"""Questions to the policy that are answered in one batch."""
SPREAD_MIN = 0.01
"""Deviation of a value that hardly varies in the demonstrations [rad, m or 1]: later it may, and is no outlier."""

Arrays = dict[str, NDArray[Any]]


def open_demonstrations(path: Path, spec: RobotSpec, task: str) -> list[Arrays]:
    """Return the successful episodes as arrays by name, `action` (T, D) among them.

    Raises DatasetError where there is none, one is of another task, or a number is not finite; SpecMismatch where they
    are of another robot.
    """
    dataset = open_dataset(path)
    require_compatible(spec, dataset.spec, "the residual")
    episodes = [episode for episode in dataset.episodes if is_successful(episode)]
    if not episodes:
        raise DatasetError(f"{path}: has {len(dataset.episodes)} episodes, none successful: nothing to learn from")
    for episode in episodes:
        # What was imported may not say.
        if (shown := episode.metadata.get("task") or task) != task:
            raise DatasetError(f"{path}: episode {episode.index} shows task '{shown}', to be learned is '{task}'")
    return [_arrays(dataset, episode, spec) for episode in episodes]


def _arrays(dataset: Dataset, episode: Episode, spec: RobotSpec) -> Arrays:
    arrays = aligned_episode(episode, spec)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise DatasetError(f"{episode.dataset}: episode {episode.index}, {name}, step {row}: not finite")
    return arrays


def statistics_of(episodes: list[Arrays], spec: RobotSpec) -> Normalizer:
    """Return mean and deviation of every vector of the robot over the demonstrations, the deviation floored."""
    fields: dict[str, FieldStats] = {}
    for array in spec.observation.vectors:
        stats = FieldStats.of(np.concatenate([episode[array.name] for episode in episodes]))
        std = tuple(max(each, SPREAD_MIN) for each in stats.std)
        fields[array.name] = FieldStats(stats.minimum, stats.maximum, stats.mean, std, stats.count)
    return Normalizer(fields, dict.fromkeys(fields, "gaussian"))


def demonstration_rows(
    episodes: list[Arrays], base: ChunkPolicy | Standing, view: ResidualView, config: ResidualConfig, execute_steps: int
) -> Replay:
    """Return the demonstrations as transitions, with the base's actions beside those of the demonstrator.

    The base begins every episode anew and is asked every `execute_steps`, as it is on the robot.
    """
    layout = Layout(view.observation_dim, view.action_dim)
    replay = Replay(layout, sum(len(episode[ACTION]) for episode in episodes))
    for episode in track(episodes, "relabelling demonstrations", transient=True):
        asked = _base_actions(episode, base, min(execute_steps, base.chunk_shape[0]))
        replay.add(_rows(episode, asked, view, NStep(layout, config.steps, config.discount)))
    return replay


def _base_actions(episode: Arrays, base: ChunkPolicy | Standing, execute_steps: int) -> NDArray[np.float64]:
    """Return what the base asks for at every step (T, D)."""
    steps, period_ns = len(episode[ACTION]), base.spec.action.period_ns
    starts = range(0, steps, execute_steps)
    questions = [_observation(episode, base, start, start * period_ns) for start in starts]
    state = base.begin(0)
    chunks = [
        chunk
        for first in range(0, len(questions), TOGETHER)
        for chunk in base.infer_batch(
            questions[first : first + TOGETHER], [state] * len(questions[first : first + TOGETHER])
        )
    ]
    return np.concatenate([chunk.actions[:execute_steps] for chunk in chunks])[:steps]


def _observation(episode: Arrays, base: ChunkPolicy | Standing, step: int, stamp_ns: int) -> Observation:
    """Return what the policy sees at a step; before the first one the world stood still."""
    rows = np.maximum(np.arange(step - base.obs_steps + 1, step + 1), 0)
    return Observation(stamp_ns, {array.name: episode[array.name][rows] for array in base.spec.observation})


def _rows(episode: Arrays, asked: NDArray[np.float64], view: ResidualView, nstep: NStep) -> list[Vector]:
    measured, executed = _measured(episode, view), episode[ACTION].astype(np.float64)
    before = np.concatenate((measured[:1], executed[:-1]))
    last = len(executed) - 1
    seen = [
        view.observe({name: episode[name][t] for name in view.names}, measured[t], before[t]) for t in range(last + 1)
    ]
    base = view.frame.encode(asked, measured)
    done = view.frame.encode(executed, measured)
    rows: list[Vector] = []
    for t in range(last + 1):
        following = min(t + 1, last)
        step = Step(seen[t], base[t], done[t], float(t == last))
        rows += nstep.add(step, seen[following], base[following], terminated=t == last)
    return rows


def _measured(episode: Arrays, view: ResidualView) -> NDArray[np.float64]:
    """Return where the robot was at every step, in the layout of the action (T, D)."""
    steps = len(episode[ACTION])
    parts = {part.name: episode.get(part.name, np.zeros((steps, part.size))) for part in view.spec.action.arrays}
    return view.spec.action.join(parts).astype(np.float64)
