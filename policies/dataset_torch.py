"""Training windows as tensors: the joint between `data_collection.windows` and the networks.

Everything lies once in the memory of the device, or in a mapped cache on the host; a batch is one gather per array.
Windows of images are never made beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armature.errors import DatasetError
from armature.normalizer import FieldStats, Normalizer
from armature.spec import RobotSpec
from armature.transforms import to_relative
from data_collection.sampling import draw
from data_collection.store import Episode
from data_collection.windows import ACTION, Windows, future_rows
from policies.context import GOAL
from policies.nets.prompts import PROMPT
from policies.policy_config import RelativePart


class Goals(NamedTuple):
    """Which observations of the future are a window's goal."""

    names: tuple[str, ...]
    steps: int


class WindowTensors:
    """The windows of a set of episodes on one device."""

    def __init__(
        self,
        windows: Windows,
        relative_part: RelativePart | None,
        device: str = "cpu",
        goals: Goals | None = None,
        prompts: NDArray[np.int64] | None = None,
    ) -> None:
        """Take over `windows`; `relative_part` of each action becomes relative to its window's last position.

        `prompts` (episodes of the windows,) are the places of their prompts in the table of the policy. Mapped windows
        stay on the host, and only batches move.
        """
        every = np.arange(len(windows))
        actions = windows.arrays[ACTION][windows.action_rows(every)].astype(np.float32)
        observed = windows.observation_rows(every)
        if relative_part is not None:
            latest = windows.arrays[relative_part.position][observed[:, -1]]
            actions = to_relative(actions, latest, relative_part.elements)
        self.device, self.goals = device, goals
        self.prompts = None if prompts is None else torch.from_numpy(np.repeat(prompts, windows.lengths))
        home = "cpu" if windows.is_mapped else device
        self.actions = torch.from_numpy(actions).to(home)
        self.index = torch.from_numpy(observed).to(home)
        self.rows = torch.from_numpy(windows.rows).to(home)
        self.last_rows = windows.last_rows(every)
        self.arrays = {name: torch.from_numpy(a).to(home) for name, a in windows.arrays.items() if name != ACTION}

    def __len__(self) -> int:
        return len(self.actions)

    def batch(self, indices: Tensor, seed: int = 0, step: int = 0, places: Tensor | None = None) -> dict[str, Tensor]:
        """Gather windows (B,): observations (B, obs_steps, *shape), "action" (B, chunk_steps, D) float32.

        Where there are goals, they are drawn from the rest of each episode after the chunk, as training step `step`
        draws them, and stand under GOAL and the name of the observation: (B, goal steps, *shape). Where there are
        prompts, "prompt" (B,) are their places. With `places` only the windows at these places of the batch are
        gathered: the share of one process.
        """
        indices = indices.to(self.index.device)
        chosen = slice(None) if places is None else places.to(indices.device)
        goal_rows = None if self.goals is None else self._goal_rows(indices, self.goals.steps, seed, step)[chosen]
        indices = indices[chosen]
        values = {name: _gather(array, self.index[indices]) for name, array in self.arrays.items()}
        if self.goals is not None:
            values |= {f"{GOAL}{name}": _gather(self.arrays[name], goal_rows) for name in self.goals.names}
        if self.prompts is not None:
            values[PROMPT] = self.prompts[indices.cpu()]
        return {name: value.to(self.device) for name, value in {**values, ACTION: self.actions[indices]}.items()}

    def _goal_rows(self, indices: Tensor, steps: int, seed: int, step: int) -> Tensor:
        rows, last = self.rows[indices].cpu().numpy(), self.last_rows[indices.cpu().numpy()]
        drawn = future_rows(rows, last, self.actions.shape[1], steps, seed, step)
        return torch.from_numpy(drawn).to(self.index.device)

    def normalizer(self, spec: RobotSpec) -> Normalizer:
        """Compute the statistics of every vector observation and of the action, relative where it is relative."""
        vectors = {array.name: self.arrays[array.name][self.rows].flatten(1) for array in spec.observation.vectors}
        columns = {**vectors, ACTION: self.actions.flatten(0, 1)}
        fields = {name: FieldStats.of(values.cpu().numpy()) for name, values in columns.items()}
        return Normalizer(fields, dict.fromkeys(fields, "limits"))


def _gather(array: Tensor, rows: Tensor) -> Tensor:
    return array.index_select(0, rows.flatten()).unflatten(0, rows.shape)


def prompts_of(episodes: Sequence[Episode]) -> list[str]:
    """Return the prompt of each episode; raise DatasetError naming those that have none."""
    prompts = [str(episode.metadata.get("prompt") or "") for episode in episodes]
    if without := [str(episode.index) for episode, prompt in zip(episodes, prompts, strict=True) if not prompt]:
        shown = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        raise DatasetError(
            f"{episodes[0].dataset}: episodes without a prompt: {shown}; the policy takes one (text.folder). "
            "Record with a prompt, or leave text.folder empty"
        )
    return prompts


def batch_indices(
    step: int, batch_size: int, count: int, seed: int, cumulative: NDArray[np.float64] | None = None
) -> Tensor:
    """Return which of `count` windows training step `step` sees: epoch after epoch in a new random order.

    A function of its arguments alone, so that a resumed training needs no state of a loader. With 5 windows and batches
    of 2, step 2 takes the last window of the first epoch and the first of the second. With the `cumulative` sum of
    their weights, windows are drawn by these instead, and there are no epochs.
    """
    if cumulative is not None:
        return torch.from_numpy(draw(step, batch_size, cumulative, seed))
    position = step * batch_size + np.arange(batch_size)
    epochs, places = position // count, position % count
    picked = [_epoch_order(int(epoch), count, seed)[places[epochs == epoch]] for epoch in np.unique(epochs)]
    return torch.from_numpy(np.concatenate(picked))


@lru_cache(maxsize=2)
def _epoch_order(epoch: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
