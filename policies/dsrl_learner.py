"""Learns to steer by noise from chunks as they come: as many updates as steps, half of every batch demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.chunk_replay import ChunkBatch, Vector, joined
from policies.dsrl import Dsrl, DsrlConfig
from policies.online_learner import OnlineLearner, OnlineLearnerConfig
from policies.replay import Replay
from policies.steered_policy import NoiseWeights


@dataclass(frozen=True, kw_only=True)
class DsrlLearnerConfig(OnlineLearnerConfig):
    """How noises are learned; the guard's share is that of the chunks whose noise the actor chooses."""

    dsrl: DsrlConfig = field(default_factory=DsrlConfig)
    capacity: int = 20_000
    """Chunks that are kept; one takes some kilobytes."""


class DsrlLearner(OnlineLearner):
    """Replay, updates and guard of one actor; used by one thread."""

    steps = 0

    def __init__(
        self, config: DsrlLearnerConfig, dsrl: Dsrl, base_id: str, online: Replay, demonstrations: Replay | None
    ) -> None:
        super().__init__(config, dsrl, online, demonstrations)
        self.config, self.dsrl, self.base_id = config, dsrl, base_id
        self._demonstrations = demonstrations

    def take(self, row: Vector | None, steps: int) -> None:
        """Take what came of a chunk of so many executed steps; None where nothing can be learned from it."""
        self.steps += steps
        if row is not None:
            self._online.add([row])

    def _learn(self, *, with_actor: bool) -> dict[str, float]:
        figures = self.dsrl.update_critics(self._batch(), self.share)
        for _ in range(self.config.dsrl.distil_steps):
            figures |= self.dsrl.distil(self._batch())
        return figures | self.dsrl.update_actor(self._batch()) if with_actor and self.is_warm else figures

    def state(self) -> dict[str, Any]:
        """Return what, beside networks and replay, is gone on from."""
        return {**super().state(), "steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        super().restore(state)
        self.steps = state["steps"]

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
