"""Learns the residual from transitions as they come: half of every batch demonstrations, as many updates as steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from armature.errors import ConfigError
from policies.actor_weights import ActorWeights
from policies.frame_replay import FrameReplay
from policies.online_learner import OnlineLearner, OnlineLearnerConfig
from policies.pixel_td3 import PixelTd3
from policies.replay import Batch, Replay, Vector
from policies.residual_guard import GuardConfig
from policies.residual_td3 import ResidualConfig, ResidualTd3


@dataclass(frozen=True, kw_only=True)
class LearnerConfig(OnlineLearnerConfig):
    """How a residual is learned, and how it is looked for."""

    device: str = "cpu"
    """cpu, or cuda: where networks learn, and answer in simulation."""
    td3: ResidualConfig = field(default_factory=ResidualConfig)
    guard: GuardConfig = field(default_factory=lambda: GuardConfig(share_first=0.5))
    batch_size: int = 128
    updates_per_step: float = 2.0
    warmup_steps: int = 10_000
    critic_warmup_updates: int = 10_000
    noise_std: float = 0.15
    """Of the exploration, as a share of what the residual may do at the time; in the warm-up, of all its reach."""
    noise_memory_steps: float = 5.0
    """How long the noise stays on one side."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        super().__post_init__()
        if not 0 <= self.noise_std <= 1:
            raise ConfigError(f"learner.noise_std is {self.noise_std}, must be 0 to 1")
        if not self.noise_memory_steps >= 0:
            raise ConfigError(f"learner.noise_memory_steps is {self.noise_memory_steps}, must not be negative")


class ResidualLearner(OnlineLearner):
    """Replay, updates and guard of one residual; used by one thread."""

    def __init__(
        self,
        config: LearnerConfig,
        td3: ResidualTd3 | PixelTd3,
        base_id: str,
        online: Replay | FrameReplay,
        demonstrations: Replay | FrameReplay | None,
        human: Replay | None = None,
        *,
        is_new: bool = True,
    ) -> None:
        """`human` is for what a person does at the robot: it counts as demonstrated, and is drawn with the rest.

        `is_new`: nobody has taught the actor yet; else it stays as it is until the critics have a say.
        A `PixelTd3` learns from replays of frames, all others from those of vectors.
        """
        super().__init__(config, td3, online, demonstrations)
        self.config, self.td3, self.base_id = config, td3, base_id
        self._human, self._is_new = human, is_new
        self._shown = [each for each in (demonstrations, human) if each is not None]

    @property
    def steps(self) -> int:
        """Return how many transitions have come."""
        return self._online.total

    @property
    def noise_std(self) -> float:
        """Return the deviation of the exploration now, as a share of the reach.

        Wide at first, so that critics see large corrections fail that no demonstrator made; then it grows with the room
        of the actor, so that it does not decide alone what happens.
        """
        return self.config.noise_std * (self.share if self.is_warm else 1.0)

    @property
    def demonstrated(self) -> int:
        """Return how many transitions count as demonstrated."""
        return sum(len(replay) for replay in self._shown)

    def take(self, rows: list[Vector], *, is_human: bool = False) -> None:
        """Take transitions as `NStep` makes them; those whose action is a person's are demonstrations as well."""
        self._online.add(rows)
        if is_human and self._human is not None:
            self._human.add(rows)

    def _learn(self, *, with_actor: bool) -> dict[str, float]:
        # In the warm-up as well: what the actor is about to do is what the critics have to know the value of.
        (batch, shown), room = self._batch(), self.guard.share
        batch = batch.to(self.td3.reach.device)
        figures = self.td3.update_critics(batch, room)
        # Without anything to learn from, its optimiser would only count the steps.
        is_taught = self._is_new and shown > 0 and self.config.td3.demonstration_weight > 0
        if not with_actor or not (self.is_warm or is_taught):
            return figures
        # Young critics lead astray where demonstrations would not: in the warm-up they have no say about the actor,
        # then as much as it has about the robot.
        return figures | self.td3.update_actor(batch, shown, share=room, belief=self.share)

    def weights(self) -> ActorWeights:
        """Return the actor as it is now, for the robot."""
        state = {name: tensor.detach().cpu().clone().numpy() for name, tensor in self.td3.acting.state_dict().items()}
        return ActorWeights(self.updates, self.share, self.noise_std, self.base_id, state)

    def _batch(self) -> tuple[Any, int]:
        """Draw a batch of the replays' kind, and how many of its rows, at its beginning, are demonstrated."""
        config, draw = self.config, self.td3.generator
        sizes = [len(replay) for replay in self._shown]
        if not sum(sizes):
            return self._online.sample(config.batch_size, draw), 0
        shown = round(config.batch_size * config.demonstration_share)
        counts = _split(shown, sizes)
        drawn = [replay.sample(n, draw) for replay, n in zip(self._shown, counts, strict=True) if n]
        parts = *drawn, self._online.sample(config.batch_size - shown, draw)
        return type(parts[0])(*(_joined(each.name, parts) for each in fields(parts[0]))), shown


def _split(count: int, sizes: list[int]) -> list[int]:
    """Return how many of `count` to draw from parts of `sizes`, so that each of their rows counts as much."""
    ends = [round(count * sum(sizes[: i + 1]) / sum(sizes)) for i in range(len(sizes))]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def _joined(name: str, parts: Iterable[Batch]) -> Tensor:
    return torch.cat([getattr(part, name) for part in parts])
