"""Networks that are used and not learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Frozen(nn.Module):
    """Runs a network in evaluation mode without gradients; it moves to a device with the module around it.

    Its weights are no parameters of that module: they are neither optimised, averaged nor saved, and copies share them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # Within a tuple torch does not find it.
        self._hidden = (network.requires_grad_(False).eval(),)

    @property
    def config(self) -> Any:
        """Return the network's own configuration."""
        return self._hidden[0].config

    @torch.no_grad()
    def forward(self, *args: Any, **options: Any) -> Any:
        """Run the network."""
        return self._hidden[0](*args, **options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        self._hidden[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self


def freeze_unused(network: nn.Module, output: Tensor) -> None:
    """Take the gradient from the parameters on which `output` does not depend: an optimiser would wait for it."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
