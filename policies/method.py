"""The interface of a method: it learns and samples normalised chunks of actions, given an encoded observation."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from policies.context import Context, ContextSpec


class Sampled(NamedTuple):
    """A batch of sampled chunks, and what the method says of each."""

    actions: Tensor
    """(B, chunk_steps, D)."""
    diagnostics: dict[str, Tensor]
    """Named figures (B,), such as an energy; they travel with the chunk."""


class Method(Protocol):
    """One file of this room holds one: its config, networks, loss and sampling. It is a torch module.

    Actions are normalised by the policy around it: those of the training data fill [-1, 1] in every dimension. A class
    whose attribute `takes_goal` is true uses Context.goal; for others a policy with goals is refused. One whose
    `takes_prompt` is true uses Context.language; for others prompts may only reach the image networks. One whose
    `takes_committed` is true can be guided: its `sample` takes a `policies.guidance.Guidance` as a further argument.
    One that has `compile_training` can compile what its loss spends its time on.
    """

    family: str
    Config: type[Any]
    sampling_fields: tuple[str, ...]
    """Those of the config, by dotted names, that neither the weights nor the loss depend on."""
    loss_fields: tuple[str, ...]
    """Those that only the loss depends on: of the same weights a further training may have others."""

    def __init__(self, config: Any, action_dim: int, chunk_steps: int, context: ContextSpec) -> None:
        """Build the networks; raise ConfigError on sizes that do not go together."""
        ...

    def loss(self, actions: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        """Return the scalar loss of a batch of chunks (B, chunk_steps, D); all draws come from `generator`."""
        ...

    def sample(self, context: Context, noise: Tensor, generator: torch.Generator | None = None) -> Sampled:
        """Turn standard normal `noise` (B, chunk_steps, D) into chunks, every row on its own.

        What a stochastic sampler draws beyond `noise` comes from `generator`, on the CPU.
        """
        ...
