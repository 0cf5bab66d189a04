"""Prompts as a network sees them: a table of embeddings that are computed once, and a place in it for every sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from armature.errors import ConfigError

PROMPT = "prompt"
"""In a batch: where in the table the prompt of each sample stands, (B,) int64."""


class PromptShape(NamedTuple):
    """The shape of an embedded prompt: at most so many tokens, of this size."""

    tokens: int
    dim: int


class PromptTable(nn.Module):
    """Embedded prompts, from which each sample takes its own.

    They are no weights: a checkpoint does not hold them. Rows are as long as the longest prompt, to save memory.
    """

    def __init__(self, shape: PromptShape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("rows", torch.zeros(0, 0, shape.dim), persistent=False)
        self.register_buffer("lengths", torch.zeros(0, dtype=torch.int64), persistent=False)

    def __len__(self) -> int:
        return len(self.rows)

    def fill(self, embedded: Sequence[Tensor]) -> None:
        """Take these prompts, each (tokens, dim), in place of what the table holds."""
        device = self.rows.device
        self.rows = nn.utils.rnn.pad_sequence(list(embedded), batch_first=True).to(device)
        self.lengths = torch.tensor([len(tokens) for tokens in embedded], device=device)

    def forward(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prompts at `places` (B,): tokens (B, tokens, dim) padded with zeros, and which are real."""
        if not len(self):
            raise ConfigError("the policy takes a prompt, and none was set")
        found = self.rows[places]
        padded = nn.functional.pad(found, (0, 0, 0, self.shape.tokens - found.shape[1]))
        mask = torch.arange(self.shape.tokens, device=found.device) < self.lengths[places][:, None]
        return padded, mask


def pooled(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average the real tokens of each prompt: (B, tokens, dim) and (B, tokens) to (B, dim)."""
    return (tokens * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
