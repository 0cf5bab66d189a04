"""The energy along a line between two chunks: how deep a refined chunk lies, and whether the way down to it is free."""

from __future__ import annotations

import torch
from torch import Tensor

from policies.context import Context
from policies.ebt import Ebt


@torch.no_grad()
def energy_between(method: Ebt, context: Context, start: Tensor, end: Tensor, points: int = 21) -> Tensor:
    """Return the energies (B, points) on the straight lines from `start` to `end`, both (B, T, D), ends included.

    Set against noise and a refined or recorded chunk it shows the basin that training dug.
    """
    place = torch.linspace(0, 1, points, device=start.device, dtype=start.dtype)
    chunks = torch.lerp(start[:, None], end[:, None], place[None, :, None, None])
    memory = method.memory(context.repeated(points))
    return method.energy(chunks.flatten(0, 1), memory).unflatten(0, (-1, points))
