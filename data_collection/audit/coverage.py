"""TQ and SACo: how good a dataset's trajectories are, and how much of states and actions it covers.

After "A Dataset Perspective on Offline Reinforcement Learning" (arXiv 2111.04714):
TQ(D) = (g(D) - g(random)) / (g(reference) - g(random)), g being the mean discounted return of the episodes;
SACo(D) = u(D) / u(reference), u being the number of unique state-action pairs in samples of the same size.
Both may exceed 1. Continuous values are put into equal bins per dimension over the reference's range, beyond which the
outermost bins reach. A state is all vector observations together, as they were when the command was sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from armature.alignment import newest_not_after
from armature.errors import ConfigError, SpecMismatch, unknown
from data_collection.store import Dataset, Episode
from data_collection.streams import ACTION_EXECUTED, REWARD

MAX_AGE_NS = 1_000_000_000
BINS_MAX = 255


@dataclass(frozen=True)
class CoverageConfig:
    """How returns and state-action pairs are counted."""

    discount: float = 1.0
    """Per step; the returns are undiscounted by default."""
    bins: int = 5
    """Equal bins per dimension."""
    pairs_max: int = 100_000
    """At most so many pairs of each dataset, evenly spread over it."""
    state_streams: tuple[str, ...] = ()
    """Which vector observations make up the state; all of them if unset."""

    def __post_init__(self) -> None:
        """Refuse what cannot be counted with."""
        for name, low, high in (("discount", 0, 1), ("bins", 2, BINS_MAX), ("pairs_max", 1, 10**9)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be in [{low}, {high}]")


@dataclass(frozen=True)
class Coverage:
    """The measures of a dataset; None where something to compare with is missing, `reason` says what."""

    mean_return: float | None
    scored_episodes: int
    random_return: float | None
    reference_return: float | None
    tq: float | None
    tq_reason: str
    unique_pairs: int | None
    reference_unique_pairs: int | None
    pairs: int
    """Sample size of both."""
    saco: float | None
    saco_reason: str


def measure(dataset: Dataset, random: Dataset | None, reference: Dataset | None, config: CoverageConfig) -> Coverage:
    """Compute TQ and SACo as far as the given datasets allow; raise SpecMismatch where the robots differ."""
    for other in (random, reference):
        if other is not None:
            _require_same_robot(dataset, other)
    streams = _state_streams(dataset, config)
    returns = {name: _returns(d, config.discount) for name, d in
               (("own", dataset), ("random", random), ("reference", reference))}  # fmt: skip
    means = {name: float(np.mean(values)) if values else None for name, values in returns.items()}
    tq, tq_reason = _tq_of(means["own"], means["random"], means["reference"])
    own, of_reference, pairs = (
        _unique(dataset, reference, streams, config) if reference is not None else (None, None, 0)
    )
    saco = own / of_reference if own is not None and of_reference else None
    saco_reason = "" if saco is not None else "no pairs" if reference is not None else "no reference dataset was given"
    return Coverage(means["own"], len(returns["own"]), means["random"], means["reference"], tq, tq_reason,
                    own, of_reference, pairs, saco, saco_reason)  # fmt: skip


def trajectory_quality(own: float, random: float, reference: float) -> float:
    """Return TQ: 0 for returns as good as random ones, 1 for those of the reference."""
    return (own - random) / (reference - random)


def episode_return(episode: Episode, discount: float) -> float | None:
    """Return the discounted sum of rewards; without any, 1 or 0 at the last step for the outcome; None if unknown."""
    rewards = [np.asarray(data, np.float64).ravel() for _, _, data in episode.blocks(REWARD)]
    if episode.length(REWARD):
        values = np.concatenate(rewards)
        return float(values @ discount ** np.arange(len(values)))
    success = episode.metadata.get("success")
    return None if success is None else float(success) * discount ** max(episode.steps - 1, 0)


def unique_pairs(pairs: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], bins: int) -> int:
    """Count the different cells of a grid over [low, high] in which the rows of `pairs` (N, D) lie."""
    return len(np.unique(_cells(pairs, low, high, bins), axis=0))


def _cells(pairs: NDArray, low: NDArray, high: NDArray, bins: int) -> NDArray[np.uint8]:
    width = np.where(high > low, high - low, 1.0)
    return np.clip(np.floor((pairs - low) / width * bins), 0, bins - 1).astype(np.uint8)


def _tq_of(own: float | None, random: float | None, reference: float | None) -> tuple[float | None, str]:
    known = {"the dataset": own, "the random dataset": random, "the reference": reference}
    missing = [name for name, value in known.items() if value is None]
    if own is None or random is None or reference is None:
        return None, f"no return is known of {' and '.join(missing)}"
    if reference == random:
        return None, f"random and reference have the same mean return, {random:g}"
    return trajectory_quality(own, random, reference), ""


def _returns(dataset: Dataset | None, discount: float) -> list[float]:
    found = [episode_return(episode, discount) for episode in dataset.episodes] if dataset is not None else []
    return [value for value in found if value is not None]


def _require_same_robot(dataset: Dataset, other: Dataset) -> None:
    for side in ("vectors", "actions"):
        own, theirs = ([(a.name, a.shape) for a in _arrays(d, side)] for d in (dataset, other))
        if own != theirs:
            raise SpecMismatch(f"{other.path} cannot be compared with {dataset.path}: {side} are {theirs}, not {own}")


def _arrays(dataset: Dataset, side: str) -> Sequence:
    return dataset.spec.observation.vectors if side == "vectors" else dataset.spec.action.arrays


def _state_streams(dataset: Dataset, config: CoverageConfig) -> tuple[str, ...]:
    vectors = tuple(array.name for array in dataset.spec.observation.vectors)
    for name in config.state_streams:
        if name not in vectors:
            raise ConfigError(unknown("state stream", name, vectors))
    return config.state_streams or vectors


def _unique(
    dataset: Dataset, reference: Dataset, streams: tuple[str, ...], config: CoverageConfig
) -> tuple[int | None, int | None, int]:
    """Return u of both datasets in samples of one size, and that size."""
    own, theirs = (_pairs(d, streams, config.pairs_max) for d in (dataset, reference))
    size = min(len(own), len(theirs))
    if size == 0:
        return None, None, 0
    low, high = theirs.min(axis=0), theirs.max(axis=0)
    counts = [unique_pairs(_evenly(pairs, size), low, high, config.bins) for pairs in (own, theirs)]
    return counts[0], counts[1], size


def _pairs(dataset: Dataset, streams: tuple[str, ...], pairs_max: int) -> NDArray[np.float64]:
    """Gather at most `pairs_max` pairs (N, D), evenly spread over the dataset; memory is bounded by them."""
    episodes = dataset.episodes
    total = sum(episode.steps for episode in episodes)
    chosen = _even_indices(total, min(total, pairs_max))
    parts, begin = [], 0
    for episode in episodes:
        rows = chosen[np.searchsorted(chosen, begin) : np.searchsorted(chosen, begin + episode.steps)] - begin
        begin += episode.steps
        if len(rows):
            parts.append(_episode_pairs(episode, streams, rows))
    return np.concatenate(parts) if parts else np.empty((0, 1))


def _episode_pairs(episode: Episode, streams: tuple[str, ...], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the pairs of the chosen commands, without those for which some stream had no sample younger than 1 s."""
    ticks_ns = episode.read_stamps(ACTION_EXECUTED)[0][rows]
    columns = list(_aligned(episode, streams, ticks_ns))
    action = np.asarray(episode.read_rows(ACTION_EXECUTED, rows), np.float64)
    pairs = np.concatenate([*(values for _, values in columns), action], axis=1)
    known = np.all([index >= 0 for index, _ in columns] or [np.ones(len(rows), bool)], axis=0)
    return pairs[known & np.isfinite(pairs).all(axis=1)]


def _aligned(
    episode: Episode, streams: tuple[str, ...], ticks_ns: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    for stream in streams:
        index = newest_not_after(episode.read_stamps(stream)[0], ticks_ns, MAX_AGE_NS)
        if episode.length(stream) == 0:
            yield np.full(len(ticks_ns), -1), np.zeros((len(ticks_ns), episode.spec.observation[stream].size))
        else:
            values = np.asarray(episode.read_rows(stream, np.maximum(index, 0)), np.float64)
            yield index, values.reshape(len(ticks_ns), -1)


def _evenly(pairs: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return pairs[_even_indices(len(pairs), size)]


def _even_indices(total: int, size: int) -> NDArray[np.int64]:
    return np.arange(size, dtype=np.int64) * total // max(size, 1)
