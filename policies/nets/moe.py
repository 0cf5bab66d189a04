"""Mixture of experts whose router sees only a vector per sample, and the experts of known vectors fused beforehand.

After MoDE (Reuss et al. 2024, arXiv 2412.12953, section 3), where that vector is the embedding of the noise level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot, silu

from policies.nets.attention import SwiGlu


class Routing(NamedTuple):
    """Which experts serve a sample, and with which weights."""

    experts: Tensor
    """(B, k) numbers of the experts."""
    weights: Tensor
    """(B, k), positive, with sum 1."""
    probabilities: Tensor
    """(B, experts) of the router, before any choice."""


class Router(nn.Module):
    """Choose k experts for every sample by a small network on its vector."""

    def __init__(self, width: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.experts, self.top_k = experts, top_k
        self.network = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, experts))
        for layer in (self.network[0], self.network[2]):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, vector: Tensor, gumbel: Tensor | None = None) -> Routing:
        """Route samples by their vectors (B, width): the k most probable experts.

        With `gumbel` noise (B, experts) the k experts are a draw without replacement by their probabilities instead
        (Kool et al. 2019), what torch.multinomial does too, but on any device and from the caller's generator.
        """
        logits = self.network(vector)
        ranked = logits.detach() if gumbel is None else logits.detach() + gumbel
        experts = ranked.topk(self.top_k, dim=-1).indices
        # The softmax over the chosen alone is that over all, renormalised.
        return Routing(experts, logits.gather(-1, experts).softmax(dim=-1), logits.softmax(dim=-1))


class Mixture(nn.Module):
    """SwiGLU experts, of which only those that a sample is routed to are computed for it."""

    def __init__(self, width: int, experts: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = nn.ModuleList(SwiGlu(width, hidden, bias=True, dropout=dropout) for _ in range(experts))

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """Return the weighted sum of each sample's experts, of tokens (B, T, width).

        A routing of one row holds for all samples.
        """
        if len(routing.experts) == 1 and not self.training:
            chosen = zip(routing.weights[0], routing.experts[0].tolist(), strict=True)
            return torch.stack([weight * self.experts[number](x) for weight, number in chosen]).sum(dim=0)
        numbers, shares = (part.expand(len(x), -1) for part in (routing.experts, routing.weights))
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(numbers == number)
            # In training also without rows: a gradient of zeros and none are not the same to an optimiser.
            if len(rows) or self.training:
                weighted = shares[rows, place][:, None, None] * expert(x[rows])
                # Under autocast an expert answers in bf16 what it was asked in float32.
                mixed = mixed.index_add(0, rows, weighted.to(mixed.dtype))
        return mixed


def gumbel_noise(uniform: Tensor) -> Tensor:
    """Turn uniform draws from [0, 1) into Gumbel noise."""
    return -torch.log(-torch.log(uniform.clamp(min=torch.finfo(uniform.dtype).tiny)))


def balance_loss(routing: Routing) -> Tensor:
    """Return the load-balancing loss of a layer (Fedus et al. 2022, equation 4): 1 where all experts serve alike.

    The share of the assignments that an expert got, times its mean probability, summed and times their number.
    """
    count = routing.probabilities.shape[-1]
    shares = one_hot(routing.experts, count).float().mean(dim=(0, 1))
    return count * (shares * routing.probabilities.mean(dim=0)).sum()


class FusedMixture(nn.Module):
    """A mixture for a list of routings known beforehand: one wide SwiGLU for each distinct set of experts.

    The first products of the k experts become one with k times the outputs, the last ones one with k times the inputs,
    and the weights of the routing scale the values between them. Steps of one set share its copy of the weights.
    """

    value_gate: Tensor
    bias: Tensor
    out: Tensor
    scales: Tensor

    def __init__(self, mixture: Mixture, routing: Routing) -> None:
        """Fuse the experts for each row of `routing`: those of step 0, of step 1, and so on."""
        super().__init__()
        chosen, order = routing.experts.sort(dim=-1)
        sets = sorted({tuple(row) for row in chosen.tolist()})
        self.set_of_step = [sets.index(tuple(row)) for row in chosen.tolist()]
        hidden = mixture.experts[0].out.in_features
        fused = {
            "value_gate": torch.stack([_joined([mixture.experts[e].value_gate.weight for e in one]) for one in sets]),
            "bias": torch.stack([_joined([mixture.experts[e].value_gate.bias for e in one]) for one in sets]),
            "out": torch.stack([torch.cat([mixture.experts[e].out.weight for e in one], dim=1) for one in sets]),
            "scales": routing.weights.gather(-1, order).repeat_interleave(hidden, dim=-1),
        }
        for name, tensor in fused.items():
            # Not persistent: they are computed from weights that a checkpoint holds already.
            self.register_buffer(name, tensor.detach(), persistent=False)

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Map tokens (B, T, width) as the mixture does in evaluation, with the routing of `step`."""
        which = self.set_of_step[step]
        value, gate = linear(x, self.value_gate[which], self.bias[which]).chunk(2, dim=-1)
        return linear(value * silu(gate) * self.scales[step], self.out[which])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Put the values of all experts before all their gates, along the first axis."""
    halves = [part.chunk(2) for part in parts]
    return torch.cat([value for value, _ in halves] + [gate for _, gate in halves])
