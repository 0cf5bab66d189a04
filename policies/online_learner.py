"""What all that learn from a robot share: how much is learned when, and when what was learned is given up."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from armature.errors import ConfigError, InvalidValue
from policies.frame_replay import FrameReplay
from policies.replay import Replay
from policies.residual_guard import Guard, GuardConfig, Verdict

Kept = Replay | FrameReplay
"""What is learned from."""


@dataclass(frozen=True, kw_only=True)
class OnlineLearnerConfig:
    """How much is learned from how many transitions."""

    guard: GuardConfig = field(default_factory=GuardConfig)
    batch_size: int = 256
    demonstration_share: float = 0.5
    """Of every batch, where there are demonstrations."""
    updates_per_step: float = 1.0
    """Of the critics, per step of the robot."""
    actor_every: int = 2
    """The actor takes one step for so many of the critics."""
    warmup_steps: int = 4000
    """Steps of the base before the first update."""
    critic_warmup_updates: int = 2000
    """Updates of the critics, at once after that, before they have a say: they learn what the base is worth."""
    capacity: int = 300_000
    """Transitions that are kept."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("batch_size", "actor_every", "warmup_steps", "critic_warmup_updates", "capacity"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learner.{name} is {getattr(self, name)}, must be at least 1")
        if not 0 <= self.demonstration_share < 1:
            raise ConfigError(f"learner.demonstration_share is {self.demonstration_share}, must be in [0, 1)")
        if not 0 < self.updates_per_step < math.inf:
            raise ConfigError(f"learner.updates_per_step is {self.updates_per_step}, must be above 0 and finite")


class Actor(Protocol):
    """What is learned, as far as the guard is concerned."""

    keeps: bool
    """Whether an actor can be kept at all; else there is only the one that changes nothing to go back to."""

    def keep_actor(self) -> None:
        """Remember the actor as one that did well."""
        ...

    def fall_back(self) -> None:
        """Return to the actor that did well."""
        ...


class OnlineLearner(ABC):
    """Pace and guard of what learns from `online`; used by one thread."""

    def __init__(self, config: OnlineLearnerConfig, actor: Actor, online: Kept, demonstrations: Kept | None) -> None:
        if demonstrations is not None and not len(demonstrations):
            raise ConfigError("the demonstrations hold no transition: record some, or do without")
        self._pace, self._actor, self._online = config, actor, online
        self.guard = Guard(config.guard, keeps=actor.keeps)
        self.updates = 0
        self.went_back_at = -1
        """How many updates there had been when the actor was last gone back from."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Return how many steps of the robot have come."""

    @property
    def is_warm(self) -> bool:
        """Tell whether the critics have had their warm-up, so that the actor may act."""
        return self.updates >= self._pace.critic_warmup_updates

    @property
    def share(self) -> float:
        """Return in which share the actor acts at present."""
        return self.guard.share if self.is_warm else 0.0

    @property
    def is_due(self) -> bool:
        """Tell whether there is something to learn: never more updates per step than configured."""
        ahead = self.steps - self._pace.warmup_steps
        due = self._pace.critic_warmup_updates + ahead * self._pace.updates_per_step
        return ahead >= 0 and len(self._online) > 0 and self.updates < due

    def judge(self, share: float, *, success: bool, version: int | None = None) -> Verdict:
        """Count an episode of the actor at `share`; keep the actor, or go back to the one kept, as the guard says.

        `version` is that of its weights, None: the newest; those that were given up since tell nothing of what acts.
        """
        if version is not None and version <= self.went_back_at:
            return Verdict.STAYS
        verdict = self.guard.record(share, success=success)
        if verdict is Verdict.GROWS:
            self._actor.keep_actor()
        elif verdict in (Verdict.FALLS, Verdict.RETURNS):
            self._actor.fall_back()
            self.went_back_at = self.updates
        return verdict

    def update(self) -> dict[str, float]:
        """Take one step of the critics, and of the actor where it is due; return figures.

        Raises InvalidValue where one is not finite: what was learned is lost, weights given out before are not.
        """
        figures = self._learn(with_actor=self.updates % self._pace.actor_every == 0)
        self.updates += 1
        for name, value in figures.items():
            if not math.isfinite(value):
                raise InvalidValue(f"learner: {name} is {value} at update {self.updates}: what is learned has diverged")
        return figures

    def state(self) -> dict[str, Any]:
        """Return what, beside networks and replay, is gone on from."""
        return {"updates": self.updates, "guard": self.guard.state(), "went_back_at": self.went_back_at}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.updates, self.went_back_at = state["updates"], state["went_back_at"]
        self.guard.restore(state["guard"])

    @abstractmethod
    def _learn(self, *, with_actor: bool) -> dict[str, float]:
        """Take one step of the critics, and of the actor if so told; return figures."""
