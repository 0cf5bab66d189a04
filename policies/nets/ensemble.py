"""Many small networks as one: each layer is a single batched matrix product over all members.

Ten critics, one after the other, spend most of their time on the overhead of calls (`benchmarks/learner_speed.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EnsembleLinear(nn.Module):
    """The linear layers of K members, initialised each as `torch.nn.Linear` does."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Map (K, B, inputs) to (K, B, outputs)."""
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleNorm(nn.Module):
    """Layer normalisation with a scale and an offset of its own for every member."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(members, 1, width))
        self.offset = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (K, B, width) over the last axis."""
        return torch.addcmul(self.offset, nn.functional.layer_norm(x, x.shape[-1:]), self.scale)


class EnsembleMlp(nn.Module):
    """K networks of hidden layers with layer normalisation and ReLU, each with one number as its answer."""

    def __init__(self, members: int, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.members = members
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [EnsembleLinear(members, inputs, width), EnsembleNorm(members, width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers, EnsembleLinear(members, inputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the answers (K, B) to inputs (B, inputs)."""
        return self.layers(x.expand(self.members, *x.shape))[..., 0]
