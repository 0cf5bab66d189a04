"""Networks and the moments of their optimizers as named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

NETWORKS = "td3."
"""Before the names of weights, whatever is learned: so the first files had it."""


def to_tensors(networks: nn.Module, optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """Return weights and moments; inverse of `load_tensors`."""
    tensors = {NETWORKS + name: tensor for name, tensor in networks.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": tensor for key, tensor in moments.items()}
    return tensors


def load_tensors(networks: nn.Module, optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Go on from weights and moments; raise RuntimeError where they do not fit. Other tensors are let be."""
    weights = {name.removeprefix(NETWORKS): t for name, t in tensors.items() if name.startswith(NETWORKS)}
    networks.load_state_dict(weights)
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            owner, _, rest = key.partition(".")
            if owner == name:
                index, _, field = rest.partition(".")
                state.setdefault(int(index), {})[field] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
