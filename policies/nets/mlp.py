"""Residual network over a whole chunk as one vector: the denoiser of IDQL (Hansen-Estruch et al. 2023, 2304.10573).

From low-dimensional states it denoises as well as networks over the time axis (DPPO, Ren et al. 2024, arXiv 2409.00588,
uses such ones for its state-based tasks) and uses each of its weights once per chunk, not once per action. Blocks are
those of IDQL: layer normalisation, four times the width, residual; its dropout is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policies.nets.embeddings import step_encoder


class ConditionalMlp(nn.Module):
    """Predict from a noisy chunk (B, T, D); T is fixed by the first and the last layer."""

    def __init__(
        self, action_dim: int, condition_dim: int, chunk_steps: int, width: int, blocks: int, step_dim: int
    ) -> None:
        super().__init__()
        self.step_encoder = step_encoder(step_dim, step_dim)
        self.first = nn.Linear(chunk_steps * action_dim + step_dim + condition_dim, width)
        self.blocks = nn.ModuleList(_block(width) for _ in range(blocks))
        self.last = nn.Sequential(nn.Mish(), nn.Linear(width, chunk_steps * action_dim))

    def forward(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """Take noisy chunks (B, T, D), diffusion steps (B,) and observation features (B, obs_steps, F)."""
        x = self.first(torch.cat([noisy.flatten(1), self.step_encoder(step), condition.flatten(1)], dim=-1))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x).view_as(noisy)


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
