"""What happened, transition by transition, kept for learning off-policy: in memory, or in a folder that survives.

A row holds n steps: what was seen, the base action, the executed action, the discounted rewards of the steps, and what
was seen after them with the factor by which its value counts: 0 where the episode was terminated, never where it was
only cut off by a time limit.
"""

from __future__ import annotations

import io
import json
import os
from collections import deque
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armature.errors import ConfigError, InvalidValue

Vector = NDArray[np.float32]
ROWS, STATE = "rows.npy", "state.json"


@dataclass(frozen=True)
class Batch:
    """Transitions of n steps each, float32."""

    observation: Tensor
    """(B, O), normalised."""
    base: Tensor
    """What the frozen policy asked for, (B, D), normalised."""
    action: Tensor
    """What was executed, (B, D)."""
    reward: Tensor
    """Sum of the discounted rewards of the n steps, (B,)."""
    discount: Tensor
    """By how much the value of what follows counts, (B,)."""
    next_observation: Tensor
    next_base: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """Return all fields, in order."""
        return [getattr(self, each.name) for each in fields(self)]

    def to(self, device: str | torch.device) -> Self:
        """Return the same transitions on another device."""
        return type(self)(*(tensor.to(device) for tensor in self.tensors))


@dataclass(frozen=True)
class Layout:
    """How a transition lies in a row of floats."""

    observation_dim: int
    action_dim: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of floats of each field of a Batch, in order."""
        seen, dim = self.observation_dim, self.action_dim
        return (seen, dim, dim, 1, 1, seen, dim)

    def join(self, *fields: Vector | float) -> Vector:
        """Return one row (sum(sizes),) of the fields of one transition."""
        return np.concatenate([np.atleast_1d(np.asarray(field, dtype=np.float32)) for field in fields])

    def split(self, rows: Tensor) -> Batch:
        """Return rows (B, sum(sizes)) as a batch; inverse of `join`."""
        seen, base, action, reward, discount, next_seen, next_base = rows.split(self.sizes, dim=1)
        return Batch(seen, base, action, reward[:, 0], discount[:, 0], next_seen, next_base)


@dataclass(frozen=True)
class Step:
    """One control step: what was seen and asked for by the base, what was executed, and what came of it."""

    observation: Vector
    base: Vector
    action: Vector
    reward: float


class NStep:
    """Collapses the steps of an episode into rows of up to `steps` steps; rows never reach over its end."""

    def __init__(self, layout: Layout, steps: int, discount: float) -> None:
        self._layout, self._steps, self._discount = layout, steps, discount
        self._open: deque[Step] = deque()

    def add(
        self, step: Step, next_observation: Vector, next_base: Vector, *, terminated: bool = False, cut: bool = False
    ) -> list[Vector]:
        """Take the next step; return the rows that are complete with it.

        `cut`: a time limit, or whatever else says nothing about success, ended the episode: its value is estimated.
        Raises InvalidValue where a number is not finite: one bad reward would spoil every value.
        """
        for name, value in (("observation", step.observation), ("base", step.base), ("action", step.action),
                            ("reward", step.reward), ("next observation", next_observation),
                            ("next base", next_base)):  # fmt: skip
            if not np.isfinite(value).all():
                raise InvalidValue(f"transition with {name} {value}: not finite")
        self._open.append(step)
        rows: list[Vector] = []
        while self._open and (terminated or cut or len(self._open) == self._steps):
            rows.append(self._row(next_observation, next_base, terminated))
            self._open.popleft()
        return rows

    def _row(self, next_observation: Vector, next_base: Vector, terminated: bool) -> Vector:
        first, length = self._open[0], len(self._open)
        reward = sum(self._discount**i * step.reward for i, step in enumerate(self._open))
        factor = 0.0 if terminated else self._discount**length
        return self._layout.join(
            first.observation, first.base, first.action, reward, factor, next_observation, next_base
        )


class Replay:
    """A ring of rows. In a folder, what `flush` has returned for is there again after any crash. Used by one thread."""

    def __init__(self, layout: Layout, capacity: int, folder: Path | None = None, task: str = "") -> None:
        """Open the folder if it exists; raise ConfigError naming what differs when it is of another task or size."""
        if capacity < 1:
            raise ConfigError(f"capacity of a replay buffer is {capacity}, must be at least 1")
        self.layout, self.capacity = layout, capacity
        self.total = 0
        """Rows ever added; the oldest of them may have been overwritten."""
        self._folder = folder
        self._head = {"task": task, "observation_dim": layout.observation_dim, "action_dim": layout.action_dim,
                      "capacity": capacity}  # fmt: skip
        shape = (capacity, sum(layout.sizes))
        if folder is None:
            self._rows = np.zeros(shape, dtype=np.float32)
        else:
            self._rows = self._open(folder, shape)
        self._tensor = torch.from_numpy(self._rows)

    def __len__(self) -> int:
        """Return how many rows can be drawn."""
        return min(self.total, self.capacity)

    def add(self, rows: list[Vector]) -> None:
        """Append rows, over the oldest ones where it is full."""
        for row in rows:
            self._rows[self.total % self.capacity] = row
            self.total += 1

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """Draw `count` rows, uniformly and with replacement; raise InvalidValue while there is none."""
        if not len(self):
            raise InvalidValue("nothing to learn from: the replay buffer is empty")
        drawn = torch.randint(len(self), (count,), generator=generator)
        return self.layout.split(self._tensor[drawn])

    @property
    def rows(self) -> Tensor:
        """Return those that can be drawn, in the places that they have."""
        return self._tensor[: len(self)]

    def restore(self, rows: Tensor, total: int) -> None:
        """Go on from `rows` and how many were ever added; raise InvalidValue where they do not fit."""
        if rows.shape != (min(total, self.capacity), self._rows.shape[1]):
            raise InvalidValue(f"{tuple(rows.shape)} numbers of {total} rows do not fit {self._rows.shape}")
        self._tensor[: len(rows)] = rows
        self.total = total

    def files(self, task: str) -> dict[str, bytes]:
        """Return the files of a replay in a folder of its own, with room for just the rows that are there."""
        content = io.BytesIO()
        np.save(content, self._rows[: max(len(self), 1)])
        head = {**self._head, "task": task, "capacity": max(len(self), 1), "total": len(self), "note": {}}
        return {ROWS: content.getvalue(), STATE: json.dumps(head).encode()}

    def flush(self, note: dict[str, Any] | None = None) -> None:
        """Make all rows, and `note`, outlast a crash."""
        if self._folder is None:
            return
        if isinstance(self._rows, np.memmap):
            self._rows.flush()
        state = self._folder / STATE
        partial = state.with_suffix(".partial")
        with partial.open("w") as file:
            json.dump({**self._head, "total": self.total, "note": note or {}}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(state)

    def _open(self, folder: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
        rows, state = folder / ROWS, folder / STATE
        if not state.exists():
            folder.mkdir(parents=True, exist_ok=True)
            made = np.lib.format.open_memmap(rows, mode="w+", dtype=np.float32, shape=shape)
            _take_room(rows)
            return made
        found = json.loads(state.read_text())
        for name, expected in self._head.items():
            if found.get(name) != expected:
                raise ConfigError(f"replay buffer {folder}: {name} is {found.get(name)!r}, expected {expected!r}")
        self.total = found["total"]
        return np.lib.format.open_memmap(rows, mode="r+")


def _take_room(file: Path) -> None:
    """Claim the disk for all of a file; raise ConfigError where there is too little.

    A disk that is full later kills whoever writes to the mapped file, without a word.
    """
    size = file.stat().st_size
    try:
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, size)
    except OSError as error:
        file.unlink()
        raise ConfigError(f"{file}: a replay of this capacity takes {size / 1e6:.0f} MB: {error.strerror}") from error
