"""Learns the residual from transitions as they come: half of every batch demonstrations, as many updates as steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from armature.errors import ConfigError, InvalidValue
from policies.actor_weights import ActorWeights
from policies.replay import Batch, Replay, Vector
from policies.residual_guard import Guard, GuardConfig
from policies.residual_td3 import ResidualConfig, ResidualTd3


@dataclass(frozen=True)
class LearnerConfig:
    """How much is learned from how many transitions."""

    td3: ResidualConfig = field(default_factory=ResidualConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    batch_size: int = 256
    demonstration_share: float = 0.5
    """Of every batch, where there are demonstrations."""
    updates_per_step: float = 1.0
    """Of the critics, per transition that has come."""
    actor_every: int = 2
    """The actor takes one step for so many of the critics."""
    warmup_steps: int = 4000
    """Transitions of the base, with noise, before the first update."""
    critic_warmup_updates: int = 2000
    """Updates of the critics alone, at once after that: they learn the value of the base."""
    noise_std: float = 0.3
    """Of the exploration, as a share of what the residual may be."""
    noise_memory_steps: float = 5.0
    """How long the noise stays on one side."""
    capacity: int = 300_000
    """Transitions that are kept."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("batch_size", "actor_every", "warmup_steps", "capacity"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learner.{name} is {getattr(self, name)}, must be at least 1")
        if not 0 <= self.demonstration_share < 1:
            raise ConfigError(f"learner.demonstration_share is {self.demonstration_share}, must be in [0, 1)")
        if not self.updates_per_step > 0:
            raise ConfigError(f"learner.updates_per_step is {self.updates_per_step}, must be above 0")


class ResidualLearner:
    """Replay, updates and guard of one residual; used by one thread."""

    def __init__(
        self, config: LearnerConfig, td3: ResidualTd3, base_id: str, online: Replay, demonstrations: Replay | None
    ) -> None:
        if demonstrations is not None and not len(demonstrations):
            raise ConfigError("the demonstrations hold no transition: record some, or do without")
        self.config, self.td3, self.base_id = config, td3, base_id
        self.guard = Guard(config.guard)
        self.updates = 0
        self._online, self._demonstrations = online, demonstrations

    @property
    def steps(self) -> int:
        """Return how many transitions have come."""
        return self._online.total

    @property
    def is_warm(self) -> bool:
        """Tell whether the critics know the base, so that the actor may act."""
        return self.updates >= self.config.critic_warmup_updates

    @property
    def share(self) -> float:
        """Return to which share of its reach the residual is cut at present."""
        return self.guard.share if self.is_warm else 0.0

    @property
    def is_due(self) -> bool:
        """Tell whether there is something to learn: never more updates per transition than configured."""
        ahead = self.steps - self.config.warmup_steps
        return ahead >= 0 and self.updates < self.config.critic_warmup_updates + ahead * self.config.updates_per_step

    def take(self, rows: list[Vector]) -> None:
        """Take transitions as `NStep` makes them."""
        self._online.add(rows)

    def update(self) -> dict[str, float]:
        """Take one step of the critics, and of the actor where it is due; return figures.

        Raises InvalidValue where one is not finite: what was learned is lost, weights given out before are not.
        """
        batch = self._batch()
        share = self.share
        figures = self.td3.update_critics(batch, share)
        if self.is_warm and self.updates % self.config.actor_every == 0:
            figures |= self.td3.update_actor(batch, share)
        self.updates += 1
        for name, value in figures.items():
            if not math.isfinite(value):
                raise InvalidValue(f"learner: {name} is {value} at update {self.updates}: the residual has diverged")
        return figures

    def weights(self) -> ActorWeights:
        """Return the actor as it is now, for the robot."""
        state = {name: tensor.detach().clone().numpy() for name, tensor in self.td3.actor.state_dict().items()}
        return ActorWeights(self.updates, self.share, self.config.noise_std, self.base_id, state)

    def state(self) -> dict[str, Any]:
        """Return what, beside networks and replay, is gone on from."""
        return {"updates": self.updates, "guard": self.guard.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.updates = state["updates"]
        self.guard.restore(state["guard"])

    def _batch(self) -> Batch:
        config, draw = self.config, self.td3.generator
        if self._demonstrations is None:
            return self._online.sample(config.batch_size, draw)
        shown = round(config.batch_size * config.demonstration_share)
        parts = self._demonstrations.sample(shown, draw), self._online.sample(config.batch_size - shown, draw)
        return Batch(*(_joined(field, *parts) for field in Batch.__dataclass_fields__))


def _joined(name: str, one: Batch, other: Batch) -> Tensor:
    return torch.cat([getattr(one, name), getattr(other, name)])
