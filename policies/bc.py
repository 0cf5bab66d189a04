"""Behaviour cloning: a chunk is regressed on the observation by its squared error.

The honest baseline of the other families. The network is the U-Net of `policies.diffusion`, weight for weight, with a
learned chunk in place of the noisy one and diffusion step 0: between the two only the objective differs, so what
diffusion gains is the objective's. Where demonstrations of one observation differ, the best guess by squared error is
their mean, which may be none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from policies.context import Context, ContextSpec
from policies.method import Sampled
from policies.nets.denoisers import UnetConfig


@dataclass(frozen=True)
class BcConfig:
    """The network of behaviour cloning."""

    unet: UnetConfig = field(default_factory=UnetConfig)


class BehaviourCloning(nn.Module):
    """Regresses chunks."""

    family = "bc"
    Config = BcConfig
    sampling_fields = ()
    loss_fields = ()

    def __init__(self, config: BcConfig, action_dim: int, chunk_steps: int, context: ContextSpec) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(chunk_steps, action_dim) * 0.02)
        self.network = config.unet.build(action_dim, chunk_steps, context)

    def loss(self, actions: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the chunk; nothing is drawn."""
        return nn.functional.mse_loss(self._predict(context), actions)

    def sample(self, context: Context, noise: Tensor, generator: torch.Generator | None = None) -> Sampled:
        """Predict the chunk, within the range of the data; `noise` is ignored."""
        return Sampled(self._predict(context).clamp(-1, 1), {})

    def _predict(self, context: Context) -> Tensor:
        count = len(context.state)
        steps = torch.zeros(count, device=context.state.device)
        return self.network(self.start.expand(count, -1, -1), steps, context.features)
