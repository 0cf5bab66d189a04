"""The two transformers of an energy policy: observations to tokens, and tokens with a candidate chunk to one energy.

Both are pre-normalised with RMSNorm, normalise queries and keys per head, and have feed-forwards as wide as the tokens.
Everything that a candidate passes can be differentiated twice: training needs the gradient of a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from policies.nets.attention import Attention
from policies.nets.embeddings import SinusoidalEmbedding

Memory = list[tuple[Tensor, Tensor]]
"""Keys and values of the observation for every block, each (B, heads, L, dim): computed once per chunk."""

_EPSILON = 1e-6


class ObservationTokens(nn.Module):
    """Turn features per observation step (B, S, F) into tokens (B, 1 + S, width); a token sees no later step.

    A learned token goes first: with a single step attention would have nothing to choose from.
    """

    def __init__(self, features: int, obs_steps: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(features, width)
        self.first = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.zeros(obs_steps, width))
        self.blocks = nn.ModuleList(_ObservationBlock(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width, _EPSILON)
        self.apply(_initialise)

    def forward(self, features: Tensor) -> Tensor:
        """Encode `features` (B, S, F)."""
        steps = self.inputs(features) + self.position
        x = torch.cat([self.first.expand(len(steps), -1, -1), steps], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class EnergyTransformer(nn.Module):
    """Give candidate chunks (B, T, D) an energy (B,): the mean over everything the last layer puts out."""

    def __init__(self, action_dim: int, chunk_steps: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.inputs = _feed_forward(action_dim, width, width)
        position = SinusoidalEmbedding(width)(torch.arange(chunk_steps))
        self.register_buffer("position", position, persistent=False)
        self.blocks = nn.ModuleList(_EnergyBlock(width, heads, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(width, _EPSILON)
        self.outputs = _feed_forward(width, width, action_dim)
        self.apply(_initialise)

    def memory(self, tokens: Tensor) -> Memory:
        """Prepare observation tokens (B, L, width) for any number of candidates."""
        return [block.observation_attention.keys_values(tokens) for block in self.blocks]

    def forward(self, actions: Tensor, memory: Memory) -> Tensor:
        """Return the energy (B,) of chunks (B, T, D)."""
        # The fused kernels have no second derivative, and bf16 is too coarse for one.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(actions.device.type, enabled=False):
            x = self.inputs(actions) + self.position
            for block, keys_values in zip(self.blocks, memory, strict=True):
                x = block(x, keys_values)
            return self.outputs(self.norm(x)).mean(dim=(1, 2))


class _ObservationBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width, _EPSILON) for _ in range(2))
        self.attention = Attention(width, heads, qk_norm=True)
        self.feed_forward = _feed_forward(width, width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x), is_causal=True)
        return x + self.feed_forward(self.norms[1](x))


class _EnergyBlock(nn.Module):
    """Action tokens look at each other, then at the observation."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width, _EPSILON) for _ in range(3))
        self.attention = Attention(width, heads, qk_norm=True, dropout=dropout)
        self.observation_attention = Attention(width, heads, qk_norm=True, dropout=dropout)
        self.feed_forward = _feed_forward(width, width, width)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        x = x + self.observation_attention.attend(self.norms[1](x), keys_values)
        return x + self.feed_forward(self.norms[2](x))


def _feed_forward(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU("tanh"), nn.Linear(hidden, outputs))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
