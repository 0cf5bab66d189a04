"""What a method sees of an observation: the output of the encoder, one tensor per modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

GOAL = "goal/"
"""Before the name of an observation: its value at the goal. Composed only, never taken apart."""


@dataclass(frozen=True)
class ContextSpec:
    """The sizes of a Context, from which a method builds its networks."""

    obs_steps: int
    state_dim: int
    """Elements of all vector observations together."""
    image_tokens: int = 0
    """Tokens per observation step of all cameras together; 0 without cameras."""
    image_dim: int = 0
    language_tokens: int = 0
    """Largest number of tokens of a prompt; 0 for a policy that takes none."""
    language_dim: int = 0
    goal_steps: int = 0
    """Steps of the goal; 0 for a policy that takes none."""

    @property
    def features(self) -> int:
        """Count the features per observation step, images and state together."""
        return self.image_tokens * self.image_dim + self.state_dim


class Context(NamedTuple):
    """An encoded batch. Everything in it is computed once per chunk."""

    state: Tensor
    """(B, obs_steps, state_dim), normalised."""
    images: Tensor
    """(B, obs_steps, image_tokens, image_dim)."""
    language: Tensor | None = None
    """(B, language_tokens, language_dim), padded."""
    language_mask: Tensor | None = None
    """(B, language_tokens) bool, true where a token is real."""
    goal: Tensor | None = None
    """(B, goal_steps, state_dim), normalised."""

    @property
    def features(self) -> Tensor:
        """Put images and state of each step side by side: (B, obs_steps, features)."""
        return torch.cat([self.images.flatten(2), self.state], dim=-1)

    def repeated(self, draws: int) -> Context:
        """Repeat every sample `draws` times in a row."""
        return Context(*(part if part is None else part.repeat_interleave(draws, dim=0) for part in self))
