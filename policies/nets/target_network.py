"""Target networks: frozen copies that follow what is learned (Polyak averaging), so that targets stand still."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(network: Network) -> Network:
    """Return a copy that no optimiser learns."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def copy_weights(target: nn.Module, network: nn.Module) -> None:
    """Give `target` the weights of `network`."""
    torch._foreach_copy_(list(target.parameters()), list(network.parameters()))


@torch.no_grad()
def follow(target: nn.Module, network: nn.Module, share: float) -> None:
    """Move `target` by `share` of what it lacks of `network`."""
    torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), share)
