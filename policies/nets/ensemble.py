"""Many small networks as one: each layer is a single batched matrix product over all members.

Ten critics, one after the other, spend most of their time on the overhead of calls, unless they are wide: then, on a
CPU, one is done with before the next begins, and finds what it computed in the cache (`benchmarks/learner_speed.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Chosen = slice | Tensor
"""Which members are asked: ALL, or their numbers (k,)."""
ALL = slice(None)
WIDE = 2**16
"""Activations of a layer (batch times width), from which on members are asked one by one: 256 KiB of them."""


class EnsembleLinear(nn.Module):
    """The linear layers of K members, initialised each as `torch.nn.Linear` does."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor, chosen: Chosen) -> Tensor:
        """Map (k, B, inputs) to (k, B, outputs) by the k members that are chosen."""
        return torch.baddbmm(self.bias[chosen], x, self.weight[chosen])

    def unbind(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight (inputs, outputs) and bias (1, outputs) of every member."""
        return list(zip(self.weight.unbind(), self.bias.unbind(), strict=True))


class EnsembleNorm(nn.Module):
    """Layer normalisation with a scale and an offset of its own for every member."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(members, 1, width))
        self.offset = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor, chosen: Chosen) -> Tensor:
        """Normalise (k, B, width) over the last axis."""
        return torch.addcmul(self.offset[chosen], nn.functional.layer_norm(x, x.shape[-1:]), self.scale[chosen])

    def unbind(self) -> list[tuple[Tensor, Tensor]]:
        """Return scale and offset (width,) of every member."""
        return list(zip(self.scale[:, 0].unbind(), self.offset[:, 0].unbind(), strict=True))


class EnsembleMlp(nn.Module):
    """K networks of hidden layers with layer normalisation and ReLU, each with one number as its answer."""

    def __init__(self, members: int, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.members = members
        self.hidden, self.norms = nn.ModuleList(), nn.ModuleList()
        for width in hidden:
            self.hidden.append(EnsembleLinear(members, inputs, width))
            self.norms.append(EnsembleNorm(members, width))
            inputs = width
        self.last = EnsembleLinear(members, inputs, 1)

    def forward(self, x: Tensor, chosen: Chosen = ALL) -> Tensor:
        """Return the answers (k, B) of the chosen members to inputs (B, inputs)."""
        is_wide = len(x) * self.last.weight.shape[1] >= WIDE
        # A GPU and a compiler do better with all of them at hand.
        apart = is_wide and not x.is_cuda and not torch.compiler.is_compiling()
        return self._one_by_one(x, chosen) if apart else self._together(x, chosen)

    def _together(self, x: Tensor, chosen: Chosen) -> Tensor:
        count = self.members if isinstance(chosen, slice) else len(chosen)
        x = x.expand(count, *x.shape)
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            x = torch.relu(norm(linear(x, chosen), chosen))
        return self.last(x, chosen)[..., 0]

    def _one_by_one(self, x: Tensor, chosen: Chosen) -> Tensor:
        numbers = range(self.members)[chosen] if isinstance(chosen, slice) else chosen.tolist()
        # Parted at once: the gradient of each part by itself would be as large as that of the whole.
        linears, norms = [each.unbind() for each in self.hidden], [each.unbind() for each in self.norms]
        last, answers = self.last.unbind(), []
        for k in numbers:
            h = x
            for linear, norm in zip(linears, norms, strict=True):
                weight, bias = linear[k]
                h = torch.relu(nn.functional.layer_norm(torch.addmm(bias, h, weight), bias.shape[1:], *norm[k]))
            weight, bias = last[k]
            answers.append(torch.addmm(bias, h, weight)[:, 0])
        return torch.stack(answers)
