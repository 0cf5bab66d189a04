"""Learns to steer by noise from chunks as they come: as many updates as steps, half of every batch demonstrations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from armature.errors import ConfigError, InvalidValue
from policies.chunk_replay import ChunkBatch, Vector, joined
from policies.dsrl import Dsrl, DsrlConfig
from policies.replay import Replay
from policies.residual_guard import Guard, GuardConfig
from policies.steered_policy import NoiseWeights


@dataclass(frozen=True)
class DsrlLearnerConfig:
    """How much is learned from how many transitions."""

    dsrl: DsrlConfig = field(default_factory=DsrlConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Its share is that of the chunks whose noise the actor chooses."""
    batch_size: int = 256
    demonstration_share: float = 0.5
    """Of every batch, where there are demonstrations."""
    updates_per_step: float = 1.0
    """Of the critics, per step of the robot."""
    actor_every: int = 2
    """The actor takes one step for so many of the critics."""
    warmup_steps: int = 4000
    """Steps of the policy by itself before the first update."""
    critic_warmup_updates: int = 2000
    """Updates of the critics alone, at once after that: they learn the value of the policy by itself."""
    capacity: int = 20_000
    """Chunks that are kept; one takes some kilobytes."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("batch_size", "actor_every", "warmup_steps", "capacity"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learner.{name} is {getattr(self, name)}, must be at least 1")
        if not 0 <= self.demonstration_share < 1:
            raise ConfigError(f"learner.demonstration_share is {self.demonstration_share}, must be in [0, 1)")
        if not self.updates_per_step > 0:
            raise ConfigError(f"learner.updates_per_step is {self.updates_per_step}, must be above 0")


class DsrlLearner:
    """Replay, updates and guard of one actor; used by one thread."""

    def __init__(
        self, config: DsrlLearnerConfig, dsrl: Dsrl, base_id: str, online: Replay, demonstrations: Replay | None
    ) -> None:
        if demonstrations is not None and not len(demonstrations):
            raise ConfigError("the demonstrations hold no transition: record some, or do without")
        self.config, self.dsrl, self.base_id = config, dsrl, base_id
        self.guard = Guard(config.guard)
        self.updates, self.steps = 0, 0
        self._online, self._demonstrations = online, demonstrations

    @property
    def is_warm(self) -> bool:
        """Tell whether the critics know the policy, so that the actor may act."""
        return self.updates >= self.config.critic_warmup_updates

    @property
    def share(self) -> float:
        """Return in which share of the chunks the actor acts at present."""
        return self.guard.share if self.is_warm else 0.0

    @property
    def is_due(self) -> bool:
        """Tell whether there is something to learn: never more updates per step than configured."""
        ahead = self.steps - self.config.warmup_steps
        due = self.config.critic_warmup_updates + ahead * self.config.updates_per_step
        return ahead >= 0 and len(self._online) > 0 and self.updates < due

    def take(self, row: Vector | None, steps: int) -> None:
        """Take what came of a chunk of so many executed steps; None where nothing can be learned from it."""
        self.steps += steps
        if row is not None:
            self._online.add([row])

    def update(self) -> dict[str, float]:
        """Take one step of the critics, and of the actor where it is due; return figures.

        Raises InvalidValue where one is not finite: what was learned is lost, weights given out before are not.
        """
        share = self.share
        figures = self.dsrl.update_critics(self._batch(), share)
        for _ in range(self.config.dsrl.distil_steps):
            figures |= self.dsrl.distil(self._batch())
        if self.is_warm and self.updates % self.config.actor_every == 0:
            figures |= self.dsrl.update_actor(self._batch())
        self.updates += 1
        for name, value in figures.items():
            if not math.isfinite(value):
                raise InvalidValue(f"learner: {name} is {value} at update {self.updates}: the actor has diverged")
        return figures

    def weights(self) -> NoiseWeights:
        """Return the actor as it is now, for `steered_policy.load_steered`."""
        state = {name: tensor.detach().clone().contiguous() for name, tensor in self.dsrl.actor.state_dict().items()}
        config = self.config.dsrl
        return NoiseWeights(self.base_id, self.share, config.magnitude, config.repeat_noise, config.hidden, state)

    def _batch(self) -> ChunkBatch:
        config, draw = self.config, self.dsrl.generator
        if self._demonstrations is None:
            return self._online.sample(config.batch_size, draw)
        shown = round(config.batch_size * config.demonstration_share)
        online = self._online.sample(config.batch_size - shown, draw)
        return joined(self._demonstrations.sample(shown, draw), online)
