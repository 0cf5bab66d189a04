"""Residual off-policy RL: a small actor corrects each action of a frozen policy (Ankile et al. 2025, arXiv 2509.19301).

The executed action is base + residual, a motion in one step: what was added before is in the base (`policies.detour`).
The actor sees the observation and the base action; its last layer begins at zero, so that learning begins at the base.
Critics score what is executed. TD3 (Fujimoto et al. 2018, 1802.09477) with an ensemble of critics of which a random
pair bounds the target (REDQ, 2101.05982), layer normalisation and demonstrations in half of every batch (RLPD,
2302.02948), rewards of n steps.

Unlike the released code: the error of every critic is squared by itself, not their mean; a time limit is no end of the
world (`replay.NStep`); what was executed after all limits is what is learned from. Added are: values are kept in the
range that a reward of at most 1 at the end allows; critics see the action as base and distance from it in units of the
residual's reach, of which the sum alone shows them a few hundredths; the residual is cut to a `share` of its reach, so
that what guards the robot's success can take it back without touching the network; corrections cost a little, and the
demonstrated ones pull the actor, alone at first, then beside critics that weigh as much as the share; and what acts is
an average of the actor's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from armature.errors import ConfigError
from policies.device import require_compiler
from policies.nets.cuda_step import CudaStep
from policies.nets.ensemble import EnsembleMlp
from policies.nets.target_network import copy_weights, follow, frozen_copy
from policies.replay import Batch

CRITIC_FIGURES = ("critic_loss", "critic_norm", "value")
ACTOR_FIGURES = ("actor_value", "actor_norm", "residual")
RESIDUAL_OUTLIER = 5.0
"""A demonstrated action may be far from the base's: beyond so many times the reach it is just far."""


@dataclass(frozen=True)
class ResidualConfig:
    """Actor, critics and their updates."""

    hidden: tuple[int, ...] = (128, 128)
    critics: int = 10
    critics_of_target: int = 2
    """So many, drawn anew for every update, of which the lowest is the target."""
    compiled: bool = False
    """On a CPU, compile the critics: needs a C++ compiler and half a minute, and pays for wide ones."""
    scale: float = 0.03
    """The largest residual of an element in one step, as a share of what the safety gate lets pass in all."""
    discount: float = 0.99
    steps: int = 5
    """Steps whose rewards are summed before the critic's estimate."""
    value_min: float = 0.0
    value_max: float = 1.0
    """Bounds of the targets: with one reward of 1 at success, no value lies outside 0 to 1."""
    critic_lr: float = 3e-4
    actor_lr: float = 1e-4
    weight_decay: float = 0.0
    grad_norm_max: float = 1.0
    polyak: float = 0.02
    actor_average: float = 0.9995
    """What acts is an average of the actor's weights, of which this is kept at each of its steps; 0: the newest act."""
    smoothing_std: float = 0.1
    """Noise on the target's residual, as a share of its reach, cut at twice that."""
    residual_penalty: float = 0.03
    """Weight of the mean squared residual, as a share of its reach, in the actor's loss: about what one is worth."""
    demonstration_weight: float = 0.3
    """Weight of the mean squared distance to the demonstrated action, as a share of the reach and as near as the share
    that acts allows, in the actor's loss on demonstrations."""
    excess_penalty: float = 1.0
    """Weight of the mean squared excess over the share that acts: no value tells where to go from there."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("critic_lr", "actor_lr", "grad_norm_max"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"residual.{name} is {getattr(self, name)}, must be above 0 and finite")
        for name in ("scale", "polyak"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"residual.{name} is {getattr(self, name)}, must be in (0, 1]")
        for name in ("weight_decay", "smoothing_std", "residual_penalty", "demonstration_weight", "excess_penalty"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(f"residual.{name} is {getattr(self, name)}, must not be negative, and finite")
        if not self.value_min < self.value_max:
            raise ConfigError(f"residual.value_min {self.value_min} must be below value_max {self.value_max}")
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"residual.hidden is {self.hidden}, must name at least one layer, each of 1 unit or more")
        if not 0 <= self.actor_average < 1:
            raise ConfigError(f"residual.actor_average is {self.actor_average}, must be in [0, 1)")
        if not 1 <= self.critics_of_target <= self.critics:
            raise ConfigError(
                f"residual.critics_of_target is {self.critics_of_target}, must be 1 to {self.critics} critics"
            )
        if not 0 < self.discount <= 1 or self.steps < 1:
            raise ConfigError(
                f"residual.discount {self.discount} and steps {self.steps}: must be in (0, 1] and above 0"
            )


class ResidualActor(nn.Module):
    """Answers an observation and a base action with a residual within +-1, exactly 0 before any update."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = observation_dim + action_dim
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU()]
            inputs = width
        last = nn.Linear(inputs, action_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last, nn.Tanh())

    def forward(self, observation: Tensor, base: Tensor) -> Tensor:
        """Return residuals (B, D) for observations (B, O) and base actions (B, D)."""
        return self.layers(torch.cat([observation, base], dim=-1))


class ResidualTd3(nn.Module):
    """Actor and critics with their updates; all arrays are normalised, all actions are sums."""

    def __init__(
        self,
        config: ResidualConfig,
        observation_dim: int,
        action_dim: int,
        seed: int = 0,
        bound: NDArray[np.floating] | None = None,
        device: str = "cpu",
    ) -> None:
        """`bound` (D,) is how far residuals may lead in all, 1 of each element unless told otherwise.

        On a `device` that is a GPU, each kind of update becomes one CUDA graph; random numbers are the same everywhere.
        """
        super().__init__()
        self.config = config
        largest = torch.ones(action_dim) if bound is None else torch.as_tensor(bound, dtype=torch.float32)
        # Where nothing may be corrected a residual is nothing all the same: 0 / 0 is no number.
        self.register_buffer("reach", (config.scale * largest).clamp(min=torch.finfo(torch.float32).tiny))
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = ResidualActor(observation_dim, action_dim, config.hidden)
            self.critics = EnsembleMlp(config.critics, observation_dim + 2 * action_dim, config.hidden)
        self.target_actor, self.target_critics = (frozen_copy(network) for network in (self.actor, self.critics))
        # An actor swings from one step to the next: good ones were lost again within 5,000 steps of the robot.
        self.acting, self._good_actor = (frozen_copy(self.actor) for _ in range(2))
        self.to(device)
        self.critic_optimizer = _adam(self.critics, config.critic_lr, config.weight_decay)
        self.actor_optimizer = _adam(self.actor, config.actor_lr, config.weight_decay)
        if config.compiled and not self.reach.is_cuda:
            require_compiler()
            for network in (self.critics, self.target_critics):
                network.compile(dynamic=False)
        self._critics_step = CudaStep(self.learn_critics)
        self._actor_steps: dict[int, CudaStep] = {}

    reach: Tensor
    keeps = True

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return what holds moments, by name."""
        return {"critics": self.critic_optimizer, "actor": self.actor_optimizer}

    def value(self, observation: Tensor, base: Tensor, action: Tensor) -> Tensor:
        """Return what every critic expects (K, B) of executing actions (B, D) where the base asks for `base` (B, D)."""
        return self.critics(self._seen(observation, base, action))

    def _seen(self, observation: Tensor, base: Tensor, action: Tensor) -> Tensor:
        """Return what critics see: what is decided about is a number of the size of the others."""
        residual = ((action - base) / self.reach).clamp(-RESIDUAL_OUTLIER, RESIDUAL_OUTLIER)
        return torch.cat([observation, base, residual], dim=-1)

    def update_critics(self, batch: Batch, share: float = 1.0) -> dict[str, float]:
        """Take one step towards the targets, whose residual is cut to `share`; return figures for the log.

        Where `batch.observation` requires it, it gets the gradient of the loss: an encoder learns from that.
        """
        drawn = self.draw(batch.next_base)
        # The gradient of what was seen has to be given back to whoever asked for it.
        step = self.learn_critics if batch.observation.requires_grad else self._critics_step
        figures = step(*batch.tensors, self._of(share), *drawn)
        return dict(zip(CRITIC_FIGURES, figures.tolist(), strict=True))

    def learn_critics(self, *inputs: Tensor) -> Tensor:
        """Take a batch, the share and what was drawn; return the figures."""
        *fields, share, noise, chosen = inputs
        batch = Batch(*fields)
        targets = self._targets(batch, share, noise, chosen)
        values = self.value(batch.observation, batch.base, batch.action)
        # Each critic by itself: the sum, so that the step of one does not depend on how many there are.
        loss = (values - targets).square().mean(dim=1).sum()
        leaves = [batch.observation] if batch.observation.requires_grad else []
        norm = self._step(self.critic_optimizer, self.critics, loss, *leaves)
        follow(self.target_critics, self.critics, self.config.polyak)
        return torch.stack([loss / self.config.critics, norm, values.mean()]).detach()

    def update_actor(
        self, batch: Batch, shown: int = 0, *, share: float = 1.0, belief: float = 1.0
    ) -> dict[str, float]:
        """Take one step towards what all critics together value most, and towards what the first `shown` rows show.

        `belief` is the weight of the critics. Returns figures for the log.
        """
        step = self._actor_steps.setdefault(shown, CudaStep(partial(self._learn_actor, shown)))
        figures = step(*batch.tensors, self._of(share), self._of(belief))
        return dict(zip(ACTOR_FIGURES, figures.tolist(), strict=True))

    def _learn_actor(self, shown: int, *inputs: Tensor) -> Tensor:
        """Take a batch, the share and the belief; return the figures."""
        *fields, share, belief = inputs
        batch = Batch(*fields)
        residual = self.actor(batch.observation, batch.base)
        action = batch.base + self.reach * residual.clamp(-share, share)
        value = self.value(batch.observation, batch.base, action).mean()
        size, excess = residual.square().mean(), (residual.abs() - share).relu().square().mean()
        loss = self.config.residual_penalty * size + self.config.excess_penalty * excess - belief * value
        if shown and self.config.demonstration_weight:
            demonstrated = ((batch.action - batch.base)[:shown] / self.reach).clamp(-share, share)
            loss = loss + self.config.demonstration_weight * (residual[:shown] - demonstrated).square().mean()
        norm = self._step(self.actor_optimizer, self.actor, loss)
        follow(self.target_actor, self.actor, self.config.polyak)
        follow(self.acting, self.actor, 1.0 - self.config.actor_average)
        return torch.stack([value, norm, size.sqrt()]).detach()

    def begin_with(self, actor: Mapping[str, NDArray[np.float32]]) -> None:
        """Take over an actor that was learned before; it is also what is gone back to at first."""
        tensors = {name: torch.from_numpy(array) for name, array in actor.items()}
        for network in (self.actor, self.target_actor, self.acting, self._good_actor):
            network.load_state_dict(tensors)

    def keep_actor(self) -> None:
        """Remember what acts as one that did well."""
        copy_weights(self._good_actor, self.acting)

    def fall_back(self) -> None:
        """Return to the actor that did well: before any was remembered, to the one that corrects nothing."""
        for network in (self.actor, self.target_actor, self.acting):
            copy_weights(network, self._good_actor)
        # Its moments point to where it has just come from. They stay in their place: a recorded step writes to them.
        for moments in self.actor_optimizer.state.values():
            for tensor in moments.values():
                tensor.zero_()

    def targets(self, batch: Batch, share: float = 1.0) -> Tensor:
        """Return what the critics are to expect, (B,): rewards of n steps, then the lower of some of the critics."""
        return self._targets(batch, self._of(share), *self.draw(batch.next_base))

    def draw(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Draw noise for residuals shaped as `like` (B, D), and which critics bound the targets (k,)."""
        noise = torch.randn(like.shape, generator=self.generator)
        chosen = torch.randperm(self.config.critics, generator=self.generator)[: self.config.critics_of_target]
        return noise.to(like.device), chosen.to(like.device)

    def _of(self, share: float) -> Tensor:
        return torch.tensor(share, dtype=torch.float32, device=self.reach.device)

    @torch.no_grad()
    def _targets(self, batch: Batch, share: Tensor, noise: Tensor, chosen: Tensor) -> Tensor:
        config = self.config
        residual = self.target_actor(batch.next_observation, batch.next_base)
        noise = (noise * config.smoothing_std).clamp(-2 * config.smoothing_std, 2 * config.smoothing_std)
        action = batch.next_base + self.reach * (residual + noise).clamp(-share, share)
        seen = self._seen(batch.next_observation, batch.next_base, action)
        lowest = self.target_critics(seen, chosen).amin(dim=0)
        return (batch.reward + batch.discount * lowest).clamp(config.value_min, config.value_max)

    def _step(self, optimizer: torch.optim.Optimizer, network: nn.Module, loss: Tensor, *leaves: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        # The actor's loss reaches through the critics, whose own gradients nobody needs (compiled ones give them all).
        loss.backward(inputs=[*network.parameters(), *leaves])
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.config.grad_norm_max)
        optimizer.step()
        return norm


def _adam(network: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    parameters = list(network.parameters())
    on_gpu = parameters[0].is_cuda
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True, capturable=on_gpu)
