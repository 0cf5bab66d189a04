"""Diffusion transformer over the actions of a chunk (DiT: Peebles and Xie 2023, arXiv 2212.09748, section 3.2).

Used as in the policy of the LBM study (TRI 2025, arXiv 2507.05331): one token per action, and observation and diffusion
step as one flat vector that acts through adaLN-Zero alone, without cross-attention. The study hands the long vector to
every block's adaLN network; here one linear layer brings it to the width first, as DiT does with its class label.
Positions are learned, since a chunk's length is fixed; DiT's own are sines and cosines.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from policies.nets.attention import Attention, modulate
from policies.nets.embeddings import step_encoder


class ConditionalDit(nn.Module):
    """Predict from a noisy chunk (B, T, D); T is fixed by the positions. Untrained, it answers zero."""

    def __init__(
        self,
        action_dim: int,
        condition_dim: int,
        chunk_steps: int,
        width: int,
        layers: int,
        heads: int,
        step_dim: int,
    ) -> None:
        super().__init__()
        self.step_encoder = step_encoder(step_dim, width)
        self.condition_in = nn.Linear(condition_dim, width)
        self.action_in = nn.Linear(action_dim, width)
        self.position = nn.Parameter(torch.randn(chunk_steps, width) * 0.02)
        self.blocks = nn.ModuleList(DitBlock(width, heads) for _ in range(layers))
        self.norm = _norm(width)
        self.modulation = _zero(nn.Linear(width, 2 * width))
        self.action_out = _zero(nn.Linear(width, action_dim))

    def forward(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """Take noisy chunks (B, T, D), diffusion steps (B,) and observation features (B, obs_steps, F)."""
        vector = silu(self.step_encoder(step) + self.condition_in(condition.flatten(1)))
        x = self.action_in(noisy) + self.position
        for block in self.blocks:
            x = block(x, vector)
        shift, scale = self.modulation(vector).chunk(2, dim=-1)
        return self.action_out(modulate(self.norm(x), shift, scale))


class DitBlock(nn.Module):
    """Self-attention and feed-forward, each shifted, scaled and gated by a vector; untrained, it is the identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = _zero(nn.Linear(width, 6 * width))
        self.attention_norm, self.feed_forward_norm = _norm(width), _norm(width)
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """Map tokens (B, T, width), given a vector (B, width)."""
        shift, scale, gate, *second = self.modulation(vector).chunk(6, dim=-1)
        x = x + gate[:, None] * self.attention(modulate(self.attention_norm(x), shift, scale))
        shift, scale, gate = second
        return x + gate[:, None] * self.feed_forward(modulate(self.feed_forward_norm(x), shift, scale))


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
