"""Embeddings of scalars: the diffusion step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a scalar at geometrically spaced frequencies ("Attention is all you need", section 3.5)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", _frequencies(dim // 2), persistent=False)

    def forward(self, step: Tensor) -> Tensor:
        """Embed `step` (B,) as (B, dim)."""
        angles = step[:, None].float() * self.frequencies[None]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def step_encoder(dim: int, out: int) -> nn.Sequential:
    """Make the network that turns a diffusion step (B,) into features (B, out)."""
    return nn.Sequential(SinusoidalEmbedding(dim), nn.Linear(dim, dim * 4), nn.Mish(), nn.Linear(dim * 4, out))


def _frequencies(count: int) -> Tensor:
    return torch.exp(-math.log(10_000.0) * torch.arange(count) / (count - 1))
