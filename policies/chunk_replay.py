"""Transitions of one chunk each, as rows of a `replay.Replay`: what was seen, what was done, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armature.errors import InvalidValue

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class ChunkBatch:
    """Transitions of one chunk each, float32."""

    observation: Tensor
    """(B, O), encoded by the frozen policy."""
    action: Tensor
    """The executed steps of the chunk that was asked for, flat (B, A), normalised as the policy does."""
    reward: Tensor
    """Sum of the discounted rewards of its steps, (B,)."""
    discount: Tensor
    """By how much the value of what follows counts, (B,)."""
    next_observation: Tensor
    next_base: Tensor
    """What the policy by itself would do after it, (B, A)."""
    noises: Tensor
    """Some noises at the observation, (B, draws, W), and ..."""
    chunks: Tensor
    """... what the policy makes of them, (B, draws, A)."""


@dataclass(frozen=True)
class Seen:
    """An observation (O,) with what the policy would do (A,), and noises (draws, W) with their chunks (draws, A)."""

    observation: Vector
    base: Vector
    noises: Vector
    chunks: Vector


@dataclass(frozen=True)
class Outlook:
    """What came of a chunk, and by how much the value of what follows counts."""

    reward: float
    discount: float

    @classmethod
    def of(cls, rewards: Sequence[float], discount: float, *, terminated: bool) -> Outlook:
        """Sum up the rewards of the executed steps, `discount` each; an episode that was only cut off goes on."""
        summed = sum(discount**i * reward for i, reward in enumerate(rewards))
        return cls(summed, 0.0 if terminated else discount ** len(rewards))


@dataclass(frozen=True)
class ChunkLayout:
    """How a transition lies in a row of a `replay.Replay`."""

    observation_dim: int
    action_dim: int
    noise_dim: int
    draws: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of floats of each field of a ChunkBatch, in order."""
        seen, done = self.observation_dim, self.action_dim
        return (seen, done, 1, 1, seen, done, self.draws * self.noise_dim, self.draws * done)

    def split(self, rows: Tensor) -> ChunkBatch:
        """Return rows (B, sum(sizes)) as a batch."""
        seen, action, reward, discount, next_seen, next_base, noises, chunks = rows.split(self.sizes, dim=1)
        shape = len(rows), self.draws, -1
        single = seen, action, reward[:, 0], discount[:, 0], next_seen, next_base
        return ChunkBatch(*single, noises.reshape(shape), chunks.reshape(shape))

    def row(self, seen: Seen, action: Vector, after: Outlook, then: Seen) -> Vector:
        """Return the row of a chunk executed at `seen`, with `then` after it; raise InvalidValue where not finite."""
        scalars = np.array([after.reward, after.discount], np.float32)
        fields = seen.observation, action, scalars, then.observation, then.base, seen.noises, seen.chunks
        row = np.concatenate([np.ravel(field) for field in fields]).astype(np.float32)
        if row.shape != (sum(self.sizes),) or not np.isfinite(row).all():
            raise InvalidValue(f"transition of {row.shape} numbers, {sum(self.sizes)} expected, all of them finite")
        return row


def joined(one: ChunkBatch, other: ChunkBatch) -> ChunkBatch:
    """Return the transitions of both."""
    return ChunkBatch(*(torch.cat([getattr(one, name), getattr(other, name)]) for name in one.__dataclass_fields__))
