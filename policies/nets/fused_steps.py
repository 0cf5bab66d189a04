"""Fused experts for every step of a sampling schedule, and what tells that they are out of date."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from policies.nets.moe import FusedMixture

Experts = Callable[[Tensor], Tensor]
"""The experts of one layer with their routing, on tokens (B, T, width)."""


class FusedSteps(nn.Module):
    """Level embedding and fused experts of every step of a schedule, by the number of the step."""

    embeddings: Tensor

    def __init__(
        self, blocks: nn.ModuleList, level_in: nn.Module, levels: Sequence[float], weights: Sequence[Tensor]
    ) -> None:
        """`weights` are those that these depend on."""
        super().__init__()
        self.weight_ids, self.is_stale = {id(p) for p in weights}, False
        # Before anything is read: a step taken meanwhile counts.
        _WATCH.add(self)
        self.made_of = _state_of(weights, levels)
        with torch.no_grad():
            embeddings = embedded(level_in, levels)
            self.register_buffer("embeddings", embeddings, persistent=False)
            self.layers = nn.ModuleList(FusedMixture(block.mixture, block.router(embeddings)) for block in blocks)

    def fits(self, weights: Sequence[Tensor], levels: Sequence[float]) -> bool:
        """Tell whether these are of such weights and levels, as they are now."""
        return not self.is_stale and self.made_of == _state_of(weights, levels)

    def step(self, step: int) -> tuple[Tensor, list[Experts]]:
        """Return the embedding (1, width) and the experts of every layer at `step`."""
        return self.embeddings[step : step + 1], [partial(layer, step=step) for layer in self.layers]


class _Watch:
    """Marks what is fused of a weight as stale once an optimiser that holds the weight has taken a step."""

    def __init__(self) -> None:
        # Learners step in threads of their own.
        self._lock = threading.Lock()
        self._fused: WeakSet[FusedSteps] = WeakSet()

    def add(self, fused: FusedSteps) -> None:
        with self._lock:
            self._fused.add(fused)

    def __call__(self, optimizer: Optimizer, *_: object) -> None:
        with self._lock:
            for fused in self._fused:
                held = (id(p) for group in optimizer.param_groups for p in group["params"])
                fused.is_stale = fused.is_stale or any(number in fused.weight_ids for number in held)


_WATCH = _Watch()
register_optimizer_step_post_hook(_WATCH)


def embedded(level_in: nn.Module, levels: Sequence[float]) -> Tensor:
    """Return the embeddings (levels, width) of noise levels."""
    like = next(level_in.parameters())
    return level_in(like.new_tensor([[math.log(level) / 4] for level in levels]))


def _state_of(weights: Sequence[Tensor], levels: Sequence[float]) -> tuple[object, ...]:
    """Return what differs once any weight was written to, replaced or moved, or the levels are others.

    Operations in place raise a tensor's version, except those of fused optimisers, which are watched, and writes to its
    `.data`, which are not seen. An inference tensor has no version.
    """
    versions = ((id(p), p.data_ptr(), 0 if p.is_inference() else p._version) for p in weights)
    return (tuple(levels), *versions)
