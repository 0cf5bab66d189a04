"""`armature replay`: drive robosuite by the states or the actions of demonstrations that were imported from it.

A fresh world is set to the recorded state. The model that a file brings is not loaded: it names folders and bodies of
its own version of robosuite, whereas the layout of the states has stayed the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from armature.errors import ConfigError, DatasetError, unknown
from data_collection.converters.robomimic.robosuite import Simulator, scaling_from, simulator_of
from data_collection.store import Dataset, Episode, open_dataset
from data_collection.streams import ACTION_EXECUTED
from sim.backend import robosuite

STATES = "states"
By = Literal["states", "actions"]
_CONTROLLER_KEYS = ("input_min", "input_max", "output_min", "output_max", "kp", "damping_ratio", "impedance_mode")


@dataclass(frozen=True)
class ReplayConfig:
    """Replay imported robosuite demonstrations in robosuite and say which succeed."""

    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """A dataset from `armature data import robomimic`."""
    by: Literal["states", "actions", "both"] = "both"
    """states: set each recorded state. actions: set the first, then execute the actions."""
    episodes: tuple[int, ...] = ()
    """Numbers of the episodes; all of them if empty."""


@dataclass(frozen=True)
class Replay:
    """What one replay came to."""

    episode: int
    source_episode: str
    by: By
    steps: int
    success_step: int | None
    """The first step at which the task counts as done, None where it never did."""
    deviation: float
    """Largest difference of any coordinate (joints [rad], fingers and objects [m], quaternions) from the recorded one,
    up to success."""


def main(argv: list[str]) -> int:
    """Run `armature replay` and return its exit code: 1 when any replay does not succeed."""
    config = tyro.cli(ReplayConfig, prog="armature replay", description=__doc__, args=argv)
    dataset = open_dataset(config.dataset)
    modes: tuple[By, ...] = ("states", "actions") if config.by == "both" else (config.by,)
    replays = [replay for by in modes for replay in replay_dataset(dataset, by, config.episodes)]
    Console().print(_table(dataset, replays))
    return 0 if all(replay.success_step is not None for replay in replays) else 1


def replay_dataset(dataset: Dataset, by: By, episodes: tuple[int, ...] = ()) -> Iterator[Replay]:
    """Replay the episodes of these numbers, all if there are none, one after another in one world.

    Raises DatasetError where the dataset has no episodes or does not say what it was recorded in, or this robosuite has
    no such world.
    """
    found = {episode.index: episode for episode in dataset.episodes}
    for index in episodes:
        if index not in found:
            raise ConfigError(unknown("episode", str(index), map(str, found)))
    world = _make_world(dataset)
    try:
        if not found:
            raise DatasetError(f"{dataset.path}: has no episodes to replay")
        for index in episodes or found:
            yield _replay(world, dataset, found[index], by)
    finally:
        world.close()


def _replay(world: Any, dataset: Dataset, episode: Episode, by: By) -> Replay:
    states = _states(world, episode)
    inputs = _controller_inputs(dataset, episode, world.action_dim) if by == "actions" else None
    with threadpool_limits(limits=1, user_api="blas"):
        world.reset()
        _set_state(world, states[0])
        success_step, deviation = _by_states(world, states) if inputs is None else _by_actions(world, states, inputs)
    name = str(episode.metadata.get("source_episode", episode.index))
    return Replay(episode.index, name, by, len(states), success_step, deviation)


def _by_states(world: Any, states: NDArray[np.float64]) -> tuple[int | None, float]:
    for step, state in enumerate(states):
        _set_state(world, state)
        if world._check_success():
            return step, 0.0
    return None, 0.0


def _by_actions(world: Any, states: NDArray[np.float64], inputs: NDArray[np.float64]) -> tuple[int | None, float]:
    deviation = 0.0
    positions = slice(1, 1 + world.sim.model.nq)
    for step, action in enumerate(inputs):
        world.step(action)
        if step + 1 < len(states):
            now = world.sim.get_state().flatten()[positions]
            deviation = max(deviation, float(np.abs(now - states[step + 1][positions]).max()))
        if world._check_success():
            return step, deviation
    return None, deviation


def _states(world: Any, episode: Episode) -> NDArray[np.float64]:
    where = f"{episode.dataset}: episode {episode.index}"
    if STATES not in episode.streams or episode.length(STATES) == 0:
        raise DatasetError(f"{where}: has no stream {STATES!r}; only what was imported from robosuite can be replayed")
    states = episode.read(STATES)[2]
    size = world.sim.get_state().flatten().size
    if states.shape[1:] != (size,):
        raise DatasetError(f"{where}: its states have {states.shape[1:]} elements, this robosuite's world has {size}")
    return states


def _set_state(world: Any, state: NDArray[np.float64]) -> None:
    world.sim.set_state_from_flattened(state)
    world.sim.forward()


def _controller_inputs(dataset: Dataset, episode: Episode, size: int) -> NDArray[np.float64]:
    """Return the actions as the controller took them, (T, size)."""
    actions = episode.read(ACTION_EXECUTED)[2]
    scaling = dataset.attributes["source"].get("tcp_delta")
    inputs = actions if scaling is None else scaling_from(scaling).to_inputs(actions)
    if inputs.shape[1:] != (size,):
        where = f"{dataset.path}: episode {episode.index}"
        raise DatasetError(f"{where}: its actions have {inputs.shape[1]} elements, the world takes {size}")
    return inputs


def _make_world(dataset: Dataset) -> Any:
    source = dataset.attributes.get("source", {})
    if source.get("format") != "robomimic":
        raise DatasetError(f"{dataset.path}: was not imported from robosuite or robomimic")
    simulator = simulator_of(source.get("data_attributes", {}), str(dataset.path))
    if simulator.env_name not in robosuite.ALL_ENVIRONMENTS:
        raise DatasetError(
            f"{dataset.path}: {unknown('robosuite environment', simulator.env_name, robosuite.ALL_ENVIRONMENTS)}"
        )
    controller = _controller_config(simulator, str(dataset.path))
    try:
        return robosuite.make(
            simulator.env_name,
            robots=list(simulator.robots),
            controller_configs=controller,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            control_freq=dataset.spec.action.rate_hz,
            ignore_done=True,
            hard_reset=False,
            seed=0,
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{dataset.path}: robosuite refuses its controller or robots: {error!r}") from error


def _controller_config(simulator: Simulator, what: str) -> dict[str, Any]:
    """Return robosuite 1.5's composite controller with the gains and scales that the file recorded."""
    recorded = simulator.controller or {}
    if recorded.get("type") != "OSC_POSE" or len(simulator.robots) != 1:
        raise DatasetError(
            f"{what}: robots {list(simulator.robots)} with controller {recorded.get('type')!r}; one arm with OSC_POSE "
            "is what can be replayed"
        )
    if (robot := simulator.robots[0]) not in robosuite.ALL_ROBOTS:
        raise DatasetError(f"{what}: {unknown('robosuite robot', robot, robosuite.ALL_ROBOTS)}")
    config = copy.deepcopy(robosuite.load_composite_controller_config(controller="BASIC", robot=robot))
    config["body_parts"]["right"] |= {key: recorded[key] for key in _CONTROLLER_KEYS if key in recorded}
    return config


def _table(dataset: Dataset, replays: list[Replay]) -> Table:
    done = sum(replay.success_step is not None for replay in replays)
    table = Table(title=f"{dataset.path}: {done} of {len(replays)} replays succeed", title_justify="left")
    for column in ("episode", "source", "by", "steps", "success at step", "largest deviation"):
        table.add_column(column)
    for replay in replays:
        at = "-" if replay.success_step is None else str(replay.success_step)
        row = (replay.episode, replay.source_episode, replay.by, replay.steps, at, f"{replay.deviation:.4f}")
        table.add_row(*map(str, row))
    return table
