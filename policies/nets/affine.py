"""The kernel's normaliser as a layer, so that it runs where the network runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from armature.normalizer import Affine


class AffineLayer(nn.Module):
    """Map physical units to normalised ones, y = x * scale + offset, over the last axis (D,)."""

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        # Not persistent: in a checkpoint the numbers stand in policy.json, once.
        self.register_buffer("scale", torch.tensor(affine.scale, dtype=torch.float32), persistent=False)
        self.register_buffer("offset", torch.tensor(affine.offset, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (..., D)."""
        return x.float() * self.scale + self.offset

    def invert(self, y: Tensor) -> Tensor:
        """Return `y` (..., D) in physical units; inverse of `forward`."""
        return (y - self.offset) / self.scale
