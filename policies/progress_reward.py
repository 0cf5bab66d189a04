"""A reward for how far a failure came: by its distance to the successes of the same robot (SRPO, arXiv 2511.15605).

A success earns 1. A failure earns 0.6 * sigmoid(10 * (0.5 - d)), where d is 0 at the successes and 1 far off them. The
distance is that to the nearest success in an embedding of trajectories, which is anything that makes a vector of one.
It is given at the end of an episode only, and no failure earns as much as a success.

Unlike the released code:
- There d is the rank between the nearest and the farthest failure of the batch, so that the best failure earns 0.596
  however poor it is. Here d is 0 where successes lie among each other (the median of their distances to the nearest
  other one, 0 while there is but one) and 1 at the farthest of the newest failures, whichever are being judged.
- The nearest success stands for the nearest of the clusters, of which a single robot has too few to be made out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from armature.errors import ConfigError, InvalidValue
from armature.normalizer import Normalizer
from policies.nets.pretrained_vision import PretrainedEncoder, PretrainedVision

Trajectory = Mapping[str, NDArray[Any]]
"""Arrays (T, *shape) by name, T the same for all."""
Embed = Callable[[Trajectory], NDArray[np.float64]]
"""Makes a vector (E,) of a trajectory; near vectors are like trajectories."""

FAILURE_MAX = 0.6
STEEPNESS = 10.0


class ProgressReward:
    """Judges trajectories as they end, by those that have ended before."""

    def __init__(self, embed: Embed, window: int = 200) -> None:
        """`embed` makes vectors, all of one length; the newest `window` successes and failures each are remembered."""
        if window < 1:
            raise ConfigError(f"window of a progress reward is {window}, must be at least 1")
        self.newest: NDArray[np.float64] = np.empty(0)
        """The embedding that was remembered last."""
        self._embed = embed
        self._successes: deque[NDArray[np.float64]] = deque(maxlen=window)
        self._failures: deque[NDArray[np.float64]] = deque(maxlen=window)

    def judge(self, trajectory: Trajectory, *, success: bool) -> float:
        """Return the reward of a trajectory that has ended, and remember it; 0 for a failure before any success.

        Raises InvalidValue where its embedding is not finite or of another length than those before.
        """
        point = np.asarray(self._embed(trajectory), dtype=np.float64)
        known = [*self._successes, *self._failures][:1]
        if point.ndim != 1 or not np.isfinite(point).all() or any(point.shape != each.shape for each in known):
            raise InvalidValue(f"embedding of a trajectory: {point.shape}, must be a finite vector, of one length")
        self.remember(point, success=success)
        if success:
            return 1.0
        if not self._successes:
            return 0.0
        return failure_reward(_nearest(np.stack(self._failures), np.stack(self._successes)), self._near())

    def remember(self, point: NDArray[np.float64], *, success: bool) -> None:
        """Take the embedding of a trajectory that was judged before: by an earlier process, say."""
        self.newest = point
        (self._successes if success else self._failures).append(point)

    def _near(self) -> float:
        """Return how far a success usually is from the nearest other one."""
        points = np.stack(self._successes)
        return 0.0 if len(points) == 1 else float(np.median(_nearest(points, points, is_same=True)))


def failure_reward(distances: Sequence[float] | NDArray[np.float64], near: float) -> float:
    """Return the reward of the last of some failures at `distances` (N,) from the successes, which lie `near`.

    Of failures that are all as far off, each earns half of what a failure can: nothing tells them apart.
    """
    least, most = float(np.min(distances)), float(np.max(distances))
    if math.isclose(least, most):
        return FAILURE_MAX / 2
    if most <= near:
        # All of them lie among the successes.
        return failure_share(0.0)
    return failure_share((float(distances[-1]) - near) / (most - near))


def failure_share(d: float) -> float:
    """Return the reward of a failure at the normalised distance `d`, which is cut to 0 to 1."""
    return FAILURE_MAX / (1.0 + math.exp(-STEEPNESS * (0.5 - min(max(d, 0.0), 1.0))))


def _nearest(points: NDArray[np.float64], others: NDArray[np.float64], *, is_same: bool = False) -> NDArray[np.float64]:
    """Return the distance of each of `points` (N, E) to the nearest of `others` (M, E), not to itself if `is_same`."""
    # One by one: all differences at once would be (N, M, E) numbers.
    distances = np.stack([np.linalg.norm(others - point, axis=1) for point in points])
    if is_same:
        np.fill_diagonal(distances, np.inf)
    return distances.min(axis=1)


class StateEmbedding:
    """The vectors of a trajectory, normalised, at times spread evenly over it: a slow success is like a quick one.

    Distances are root mean squares over times and elements, in what `normalizer` makes the unit.
    """

    def __init__(self, normalizer: Normalizer, names: Sequence[str], points: int = 16) -> None:
        """`names` are those of the arrays that count; raise ConfigError where there is none or one point."""
        if not names or points < 2:
            raise ConfigError(f"embedding of {len(names)} arrays at {points} times: at least 1 and 2 are needed")
        self._affines = {name: normalizer.affine(name) for name in names}
        self._points = points

    def __call__(self, trajectory: Trajectory) -> NDArray[np.float64]:
        """Return the vector (points * elements,); raise InvalidValue where an array is missing or has no steps."""
        columns: list[NDArray[np.float64]] = []
        for name, affine in self._affines.items():
            values = _array(trajectory, name)
            columns.append(values.reshape(len(values), -1) * affine.scale + affine.offset)
        x = np.concatenate(columns, axis=1)
        places = np.linspace(0.0, len(x) - 1, self._points)
        sampled = np.stack([np.interp(places, np.arange(len(x)), column) for column in x.T], axis=1)
        return sampled.ravel() / math.sqrt(sampled.size)


class ImageEmbedding:
    """What a pretrained tower sees in frames spread evenly over a trajectory, one after the other.

    Each frame is a vector of length 1, so that distances are root mean squares of 0 to 2 over the frames.
    """

    def __init__(self, config: PretrainedVision, camera: str, frames: int = 8) -> None:
        """Raise ConfigError where the folder of the tower cannot be used."""
        if frames < 2:
            raise ConfigError(f"embedding of {frames} frames: at least 2 are needed")
        self._encoder = PretrainedEncoder(config, "average").eval()
        self._camera, self._frames = camera, frames

    @torch.no_grad()
    def __call__(self, trajectory: Trajectory) -> NDArray[np.float64]:
        """Return the vector (frames * dim,); raise InvalidValue where the camera's images (T, H, W, 3) are missing."""
        images = _array(trajectory, self._camera)
        places = np.linspace(0, len(images) - 1, self._frames).round().astype(np.int64)
        seen = self._encoder(torch.from_numpy(images[places]))[:, 0].double()
        return (torch.nn.functional.normalize(seen, dim=1) / math.sqrt(self._frames)).flatten().numpy()


def _array(trajectory: Trajectory, name: str) -> NDArray[Any]:
    values = trajectory.get(name)
    if values is None or not len(values):
        raise InvalidValue(f"trajectory lacks {name}; it holds {', '.join(trajectory)}")
    return values
