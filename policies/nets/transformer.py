"""Transformer denoiser: the encoder-decoder with cross-attention of Chi et al. 2023 (their `DiffusionTransformer`).

The condition tokens (diffusion step, then one token per observation step) pass a small encoder and become the memory
that every action token attends to; action tokens attend causally to each other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policies.nets.embeddings import SinusoidalEmbedding


class ConditionalTransformer(nn.Module):
    """Predict the noise in a chunk (B, T, D) from tokens; T and obs_steps are fixed by the position embeddings."""

    def __init__(
        self,
        action_dim: int,
        condition_dim: int,
        chunk_steps: int,
        obs_steps: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.action_in = nn.Linear(action_dim, width)
        self.condition_in = nn.Linear(condition_dim, width)
        self.step_in = SinusoidalEmbedding(width)
        self.action_position = nn.Parameter(torch.randn(chunk_steps, width) * 0.02)
        self.condition_position = nn.Parameter(torch.randn(1 + obs_steps, width) * 0.02)
        self.encoder = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerDecoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        self.action_out = nn.Linear(width, action_dim)
        causal = nn.Transformer.generate_square_subsequent_mask(chunk_steps)
        self.register_buffer("causal", causal, persistent=False)
        self.apply(_initialise)

    def forward(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """Take noisy chunks (B, T, D), diffusion steps (B,) and observation features (B, obs_steps, F)."""
        tokens = torch.cat([self.step_in(step)[:, None], self.condition_in(condition)], dim=1)
        memory = self.encoder(self.dropout(tokens + self.condition_position))
        x = self.dropout(self.action_in(noisy) + self.action_position)
        return self.action_out(self.decoder(x, memory, tgt_mask=self.causal, tgt_is_causal=True))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
