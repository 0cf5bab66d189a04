"""The data of a training: read, filter, split and check the episodes, all before the first step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, DatasetError
from armature.spec import RobotSpec
from data_collection.aligned_cache import open_cache
from data_collection.sampling import outcome_of, window_weights
from data_collection.store import Dataset, Episode, open_dataset
from data_collection.streams import ACTION_EXECUTED
from data_collection.windows import ACTION, Windows, align_episode, load_windows, split_by_episode
from policies.dataset_torch import Goals, WindowTensors, prompts_of
from policies.policy_config import relative_part
from policies.train_config import TrainConfig


@dataclass(frozen=True)
class TrainData:
    """The windows to learn from, those to validate on (None without a split), and where they come from.

    `cumulative` (windows,) is the sum of the weights by which windows are drawn, None where all are drawn alike.
    `prompts` are those to whose places the windows refer, none for a policy that takes none.
    """

    train: WindowTensors
    validation: WindowTensors | None
    cumulative: NDArray[np.float64] | None
    fingerprint: str
    summary: dict[str, Any]
    prompts: tuple[str, ...] = ()


def load_data(config: TrainConfig, device: str | None = None) -> tuple[Dataset, TrainData]:
    """Read, filter, split and check the episodes of `config.dataset`, for `config.device` or another.

    A single episode is learned from, and nothing is validated. Raises DatasetError where there is nothing to learn from
    or a number is not finite, ConfigError where no episode is as long as a chunk.
    """
    dataset = open_dataset(config.dataset)
    fingerprint, recorded = dataset.fingerprint, dataset.episodes
    episodes = [episode for episode in recorded if config.episodes == "all" or is_successful(episode)]
    if not episodes:
        found = f"has {len(recorded)} episodes, none to learn from"
        raise DatasetError(f"{config.dataset}: {found} (--episodes {config.episodes})")
    told = prompts_of(episodes) if config.policy.takes_prompt else []
    prompts = sorted(set(told))
    places = np.array([prompts.index(prompt) for prompt in told], np.int64)
    learn, validate = split_by_episode(len(episodes), config.validation_fraction, config.seed)
    parts = [[episodes[i] for i in part] for part in (learn, validate) if len(part)]
    learned, *held_out = _windows(config, dataset, episodes, [learn, validate] if len(validate) else [learn])
    _require_a_whole_chunk(config, [learned, *held_out])
    spec = config.policy.seen(dataset.spec)
    for part, windows in zip(parts, (learned, *held_out), strict=True):
        _require_finite(config, spec, part, windows)
    weights = window_weights(config.sampling, parts[0], learned)
    relative = relative_part(config.policy, spec)
    steps = config.policy.goal_steps
    goals = Goals(tuple(array.name for array in spec.observation.vectors), steps) if steps else None
    tensors = [
        WindowTensors(windows, relative, device or config.device, goals, places[part] if told else None)
        for windows, part in zip((learned, *held_out), (learn, validate), strict=False)
    ]
    counts = {"task": dataset.task, "episodes": len(learn), "windows": len(learned),
              "validation_episodes": len(validate),
              "outcomes": dict(Counter(outcome_of(episode) for episode in episodes))}  # fmt: skip
    cumulative = None if weights is None else np.cumsum(weights)
    held_out_tensors = tensors[1] if held_out else None
    return dataset, TrainData(tensors[0], held_out_tensors, cumulative, fingerprint, counts, tuple(prompts))


def is_successful(episode: Episode) -> bool:
    """Tell whether an episode was brought to its end and is not marked as failed."""
    return episode.is_complete and episode.metadata["success"] is not False


def _windows(
    config: TrainConfig, dataset: Dataset, episodes: list[Episode], parts: list[NDArray[np.int64]]
) -> list[Windows]:
    """Return the windows of each part of the episodes."""
    spec, steps = config.policy.seen(dataset.spec), (config.policy.obs_steps, config.policy.chunk_steps)
    # A command is recorded with more digits and range than it is learned in: what overflows is found by its row.
    with np.errstate(over="ignore"):
        if config.windows == "memory":
            return [load_windows([episodes[i] for i in part], spec, *steps, config.alignment) for part in parts]
        mapped = open_cache(dataset, episodes, spec, config.alignment, config.cache)
    return [Windows(mapped, *steps, chosen=part) for part in parts]


def _require_a_whole_chunk(config: TrainConfig, parts: list[Windows]) -> None:
    """Refuse chunks that would be padding by the last action everywhere; in shorter episodes some are."""
    longest = max(int(windows.lengths.max()) for windows in parts)
    if config.policy.chunk_steps > longest:
        found = f"the longest episode of {config.dataset} has {longest} steps"
        raise ConfigError(f"policy.chunk_steps is {config.policy.chunk_steps}, but {found}")


def _require_finite(config: TrainConfig, spec: RobotSpec, episodes: list[Episode], windows: Windows) -> None:
    """Refuse numbers that are not finite, naming episode, stream and row in the stream."""
    for name, array in windows.arrays.items():
        if array.dtype.kind != "f":
            continue
        values = array[windows.rows].reshape(len(windows.rows), -1)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad) == 0:
            continue
        ends = np.cumsum(windows.lengths)
        position = int(np.searchsorted(ends, bad[0], side="right"))
        episode, tick = episodes[position], int(bad[0] - ends[position] + windows.lengths[position])
        found = align_episode(episode, spec, config.alignment)
        stream, row = (ACTION_EXECUTED, found.ticks[tick]) if name == ACTION else (name, found.index[name][tick])
        where = f"{config.dataset}: episode {episode.index}, {stream}, row {row}"
        more = f" ({len(bad)} such steps)" if len(bad) > 1 else ""
        raise DatasetError(f"{where}: not finite: {values[bad[0]].tolist()}{more}")
