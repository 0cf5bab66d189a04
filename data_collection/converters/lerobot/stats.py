"""The statistics that LeRobot keeps of every feature, for each episode and for all: its policies normalise by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

# Every fourth row and column of a picture: LeRobot shrinks them for its statistics as well.
_PIXEL_STEP = 4

Stats = dict[str, list[Any]]
"""min, max, mean, std, count and quantiles, as nested lists of the feature's shape; of pictures (3, 1, 1) in [0, 1]."""


def vector_stats(values: NDArray[Any]) -> Stats:
    """Return the statistics of values (N, *shape); what is not finite (nothing was asked for) does not count."""
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers).reshape(len(numbers), -1).all(axis=1)
    count = int(finite.sum())
    numbers = numbers[finite] if count else np.zeros((1, *values.shape[1:]))
    found = {name: np.quantile(numbers, q, axis=0) for name, q in QUANTILES.items()}
    found |= {"min": numbers.min(0), "max": numbers.max(0), "mean": numbers.mean(0), "std": numbers.std(0)}
    return {name: value.tolist() for name, value in found.items()} | {"count": [count]}


class PictureStats:
    """Counts the values of each colour of all pictures: minimum, mean, quantiles all follow from that."""

    def __init__(self) -> None:
        self.frames = 0
        self._counts = np.zeros((3, 256), np.int64)

    def add(self, image: NDArray[np.uint8]) -> None:
        """Take in one picture (H, W, 3)."""
        self.frames += 1
        for colour in range(3):
            self._counts[colour] += np.bincount(image[::_PIXEL_STEP, ::_PIXEL_STEP, colour].ravel(), minlength=256)

    def stats(self) -> Stats:
        """Return the statistics so far."""
        levels = np.arange(256) / 255
        total = self._counts.sum(axis=1, keepdims=True)
        mean = (self._counts * levels).sum(axis=1, keepdims=True) / total
        std = np.sqrt((self._counts * (levels - mean) ** 2).sum(axis=1, keepdims=True) / total)
        share = np.cumsum(self._counts, axis=1) / total
        found = {name: levels[(share >= q).argmax(axis=1)] for name, q in QUANTILES.items()}
        found |= {"min": levels[(self._counts > 0).argmax(axis=1)], "mean": mean, "std": std}
        found |= {"max": levels[255 - (self._counts[:, ::-1] > 0).argmax(axis=1)]}
        return {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()} | {"count": [self.frames]}


def aggregate(episodes: Sequence[Stats]) -> Stats:
    """Return the statistics over several episodes; quantiles are means weighted by length, as LeRobot has them."""
    said = [stats for stats in episodes if stats["count"][0]] or list(episodes[:1])
    stacked = {name: np.stack([np.asarray(stats[name]) for stats in said]) for name in said[0]}
    counts = stacked.pop("count")[:, 0]
    weights = np.maximum(counts, 1).astype(np.float64)
    found = {name: np.average(stacked[name], axis=0, weights=weights) for name in (*QUANTILES, "mean")}
    variance = stacked["std"] ** 2 + (stacked["mean"] - found["mean"]) ** 2
    found |= {"min": stacked["min"].min(0), "max": stacked["max"].max(0)}
    found |= {"std": np.sqrt(np.average(variance, axis=0, weights=weights))}
    return {name: value.tolist() for name, value in found.items()} | {"count": [int(counts.sum())]}
