"""How often each window is drawn: uniformly, by its episode's outcome, or by how good its episode was.

`return` and `advantage` are trajectory weighting (Hong et al., "Harnessing Mixed Offline Reinforcement Learning
Datasets via Trajectory Weighting", 2023): the probability of a window is the softmax, over all windows, of its
episode's score scaled to 0..1 and divided by the temperature. The score is the episode's return, or what the return is
above its linear regression on the first observation, so that episodes which merely began well are not preferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, DatasetError, unknown
from data_collection.store import Episode
from data_collection.streams import REWARD
from data_collection.windows import ACTION, Windows

Mode = Literal["uniform", "outcome", "return", "advantage"]
MODES: tuple[Mode, ...] = ("uniform", "outcome", "return", "advantage")

_MARK = 0x77
"""Keeps the weighted draws apart from the uniform order of the same seed."""


@dataclass(frozen=True)
class OutcomeWeights:
    """How often a window is drawn, relative to others, by the outcome of its episode."""

    success: float = 1.0
    failure: float = 0.1
    incomplete: float = 0.1
    unknown: float = 1.0
    """Episodes of which nobody said how they ended."""


@dataclass(frozen=True)
class SamplingConfig:
    """Which windows training sees how often."""

    mode: Mode = "uniform"
    outcome: OutcomeWeights = field(default_factory=OutcomeWeights)
    temperature: float = 0.1
    """Of `return` and `advantage`: at 0.1 the best episode's windows are drawn e^10 times as often as the worst's."""
    top_k: int | None = None
    """Of `return` and `advantage`: only the k best episodes."""
    mass: Literal["window", "episode"] = "window"
    """Of `return` and `advantage`: whether each window or each episode has the weight; windows favour long episodes."""


def window_weights(config: SamplingConfig, episodes: Sequence[Episode], windows: Windows) -> NDArray[np.float64] | None:
    """Return the probability of every window (N,), or None where all are drawn alike.

    `episodes` are those that `windows` was made of, in order. Raises DatasetError where an episode says too little.
    """
    _check(config)
    if config.mode == "uniform":
        return None
    if config.mode == "outcome":
        weights = outcome_weights(episodes, config.outcome)[_owners(windows)]
    else:
        scores = returns(episodes)
        if config.mode == "advantage":
            scores = advantages(scores, first_states(windows))
        weights = trajectory_weights(scores, windows.lengths, config)
    return weights / weights.sum()


def outcome_weights(episodes: Sequence[Episode], weights: OutcomeWeights) -> NDArray[np.float64]:
    """Return the weight of each episode by its outcome; raise DatasetError when nothing is left to draw."""
    by_name, outcomes = asdict(weights), [outcome_of(episode) for episode in episodes]
    found = np.array([by_name[outcome] for outcome in outcomes])
    if not found.any():
        there = ", ".join(sorted(set(outcomes)))
        raise DatasetError(f"sampling.outcome: every episode has weight 0; the outcomes are: {there}")
    return found


def outcome_of(episode: Episode) -> str:
    """Return "success", "failure", "incomplete" or "unknown"; where only the verdict was recorded, by that."""
    judged = {True: "success", False: "failure"}.get(episode.metadata.get("success"), "unknown")
    outcome = episode.outcome or judged
    known = tuple(asdict(OutcomeWeights()))
    if outcome not in known:
        raise DatasetError(f"{episode.dataset}: episode {episode.index}: {unknown('outcome', outcome, known)}")
    return outcome


def returns(episodes: Sequence[Episode]) -> NDArray[np.float64]:
    """Return each episode's return: the sum of its rewards; where no episode has any, 1 for success and 0 for failure.

    An incomplete episode did not succeed. Raises DatasetError naming the episode that says neither, or whose rewards
    have no finite sum.
    """
    rewarded = [episode for episode in episodes if episode.length(REWARD)]
    if not rewarded:
        return np.array([_success(episode) for episode in episodes])
    for episode in episodes:
        if not episode.length(REWARD):
            has = f"episode {rewarded[0].index} has rewards, this one has none"
            raise DatasetError(f"{episode.dataset}: episode {episode.index}: its return is not known: {has}")
    return np.array([_return(episode) for episode in episodes])


def advantages(scores: NDArray[np.float64], states: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what scores (E,) are above their linear regression on first states (E, D).

    Raises DatasetError where there are so few episodes that the regression would explain all of it.
    """
    design = np.column_stack((states, np.ones(len(states))))
    solution, _, rank, _ = np.linalg.lstsq(design, scores, rcond=None)
    if rank >= len(scores):
        found = f"{len(scores)} episodes, their first states span {rank} dimensions"
        raise DatasetError(f"sampling.mode advantage needs more episodes than dimensions: {found}; use 'return'")
    return scores - design @ solution


def first_states(windows: Windows) -> NDArray[np.float64]:
    """Return the vectors that each episode's first tick observed (E, D); images are left out."""
    begins = windows.rows[np.cumsum(windows.lengths) - windows.lengths]
    vectors = [a[begins] for name, a in windows.arrays.items() if name != ACTION and a.ndim <= 2]
    flat = [values.reshape(len(begins), -1).astype(np.float64) for values in vectors]
    return np.concatenate(flat, axis=1) if flat else np.empty((len(begins), 0))


def trajectory_weights(
    scores: NDArray[np.float64], lengths: NDArray[np.int64], config: SamplingConfig
) -> NDArray[np.float64]:
    """Return the weight of every window of episodes with `scores` (E,) and `lengths` (E,), up to a common factor."""
    span = float(scores.max() - scores.min())
    scaled = (scores - scores.min()) / span if span > 0 else np.zeros(len(scores))
    weights = np.exp((scaled - 1.0) / config.temperature)
    if config.top_k is not None:
        # Of equals, the earlier: `argsort` of the negated scores is stable.
        weights[np.argsort(-scores, kind="stable")[config.top_k :]] = 0.0
    if config.mass == "episode":
        weights = weights / lengths
    return np.repeat(weights, lengths)


def draw(step: int, batch_size: int, cumulative: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Return which windows (batch_size,) training step `step` sees: a function of its arguments alone.

    They are drawn with replacement; `cumulative` is the cumulated sum of the windows' weights.
    """
    total = cumulative[-1]
    points = np.random.default_rng((seed, step, _MARK)).random(batch_size) * total
    # A product that is rounded up to the total must not reach beyond the last window of any weight.
    return np.minimum(np.searchsorted(cumulative, points, side="right"), np.searchsorted(cumulative, total))


def _check(config: SamplingConfig) -> None:
    if config.mode not in MODES:
        raise ConfigError(unknown("sampling.mode", config.mode, MODES))
    if not 0.0 < config.temperature < float("inf"):
        raise ConfigError(f"sampling.temperature is {config.temperature}, must be above 0")
    if config.top_k is not None and config.top_k < 1:
        raise ConfigError(f"sampling.top_k is {config.top_k}, must be at least 1")
    for name, weight in asdict(config.outcome).items():
        if not 0.0 <= weight < float("inf"):
            raise ConfigError(f"sampling.outcome.{name} is {weight}, must be at least 0")


def _owners(windows: Windows) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(windows.lengths)), windows.lengths)


def _return(episode: Episode) -> float:
    total = float(episode.read(REWARD)[2].sum())
    if not np.isfinite(total):
        raise DatasetError(f"{episode.dataset}: episode {episode.index}: the sum of its rewards is {total}")
    return total


def _success(episode: Episode) -> float:
    outcome = outcome_of(episode)
    if outcome == "unknown":
        has = "it has neither rewards nor an outcome; give it one with 'armature data relabel'"
        raise DatasetError(f"{episode.dataset}: episode {episode.index}: its return is not known: {has}")
    return float(outcome == "success")
