"""A method made a policy for one robot: observations in, chunks of actions in physical units out.

Everything that is not a matter of the method is here: encoding, scaling, relative actions, random draws, the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from armature.errors import ConfigError, InvalidValue
from armature.normalizer import Normalizer
from armature.spec import JOINT_POSITION, ArraySpec, RobotSpec
from armature.transforms import to_absolute
from armature.types import ActionChunk, Observation
from policies.context import GOAL
from policies.method import Sampled
from policies.nets.affine import AffineLayer
from policies.nets.observation import ObservationEncoder
from policies.policy_config import PolicyConfig, relative_part
from policies.registry import METHODS, method_class

ACTION = "action"
Engine = Callable[[Mapping[str, Tensor], Tensor, torch.Generator | None], Sampled]
"""Stands in for `ChunkPolicy.sample`, for batches of one; see `policies.engine`."""


@dataclass
class EpisodeState:
    """What a policy remembers of an episode."""

    generator: torch.Generator
    """Noise is drawn on the CPU whatever the device, so that a seed means the same everywhere."""
    sequence: int = 0
    """Chunks given so far."""


class ChunkPolicy(nn.Module):
    """A policy of any family for the robot `spec`, which is narrowed to the observations that the config names."""

    def __init__(self, family: str, config: PolicyConfig, method: Any, spec: RobotSpec, normalizer: Normalizer) -> None:
        """`method` is the config of the family's method."""
        super().__init__()
        _require_goal_family(family, config.goal_steps)
        self.family, self.policy_id = family, family
        self.spec = config.seen(spec)
        self.config = replace(config, observations=self.spec.observation.names)
        self.method_config, self.normalizer = method, normalizer
        self.obs_steps = config.obs_steps
        self.relative_part = relative_part(self.config, self.spec)
        seen = (
            self.spec.observation,
            config.obs_steps,
            config.vision,
            normalizer,
            config.vector_noise,
            config.goal_steps,
        )
        self.encoder = ObservationEncoder(*seen)
        self.method = method_class(family)(method, self.spec.action.dim, config.chunk_steps, self.encoder.context_spec)
        self.action_layer = AffineLayer(normalizer.affine(ACTION))
        self.engine: Engine | None = None
        self._goal: dict[str, Tensor] = {}
        self._episode = EpisodeState(torch.Generator())

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the method's loss on a batch.

        `batch` holds observations (B, obs_steps, *shape) and "action" (B, chunk_steps, D) in physical units, relative
        where the config says so. In training mode observations are augmented. All draws come from `generator`.
        """
        context = self.encoder(batch, generator if self.training else None)
        return self.method.loss(self.action_layer(batch[ACTION]), context, generator)

    @torch.no_grad()
    def sample(self, values: Mapping[str, Tensor], noise: Tensor, generator: torch.Generator | None = None) -> Sampled:
        """Turn `noise` (B, chunk_steps, D) into actions in physical units, relative where the config says so."""
        actions, diagnostics = self.method.sample(self.encoder(values), noise, generator)
        return Sampled(self.action_layer.invert(actions), diagnostics)

    def set_goal(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Give the vectors (goal_steps, *shape) that chunks are to reach; they hold until others are given.

        Raises InvalidValue where the policy takes no goal, or these do not fit the spec.
        """
        steps = self.config.goal_steps
        if not steps:
            raise InvalidValue(f"{self.policy_id} takes no goal: it was made with goal_steps 0")
        goal: dict[str, Tensor] = {}
        for array in self.spec.observation.vectors:
            value = _steps_of(array, values, steps, "goal", self.policy_id)
            goal[f"{GOAL}{array.name}"] = torch.from_numpy(value)[None]
        self._goal = goal

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; the same seed gives the same chunks for the same observations."""
        self._episode = self.begin(seed)

    def begin(self, seed: int | None = None) -> EpisodeState:
        """Return the state of a new episode, for `infer_batch`."""
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return EpisodeState(generator)

    def infer(self, observation: Observation) -> ActionChunk:
        """Answer one observation with (chunk_steps, D) actions; raise InvalidValue when it does not fit the spec."""
        return self.infer_batch([observation], [self._episode])[0]

    def infer_batch(self, observations: Sequence[Observation], episodes: Sequence[EpisodeState]) -> list[ActionChunk]:
        """Answer an observation of each episode, each as `infer` would; several at once without the engine.

        Only of a stochastic sampler the answers are others, though as likely: what it draws beyond the first noise
        comes from the first episode's generator for all.
        """
        if self.config.goal_steps and not self._goal:
            raise InvalidValue(f"{self.policy_id} needs a goal: give it one with set_goal")
        values = [self._checked(observation) for observation in observations]
        noise = torch.stack([torch.randn(self.chunk_shape, generator=episode.generator) for episode in episodes])
        sample = self.engine if self.engine is not None and len(values) == 1 else self.sample
        sampled = sample(self.batch_of(values), noise.to(self.device), episodes[0].generator)
        chunks: list[ActionChunk] = []
        for i, (observation, episode) in enumerate(zip(observations, episodes, strict=True)):
            actions = sampled.actions[i].double().cpu().numpy()
            if self.relative_part is not None:
                actions = to_absolute(actions, values[i][JOINT_POSITION][-1], self.relative_part)
            episode.sequence += 1
            diagnostics = {name: figure[i].item() for name, figure in sampled.diagnostics.items()}
            chunks.append(self._chunk(observation.stamp_ns, actions, episode.sequence, diagnostics))
        return chunks

    def _chunk(
        self, stamp_ns: int, actions: NDArray[np.float64], sequence: int, diagnostics: Mapping[str, float]
    ) -> ActionChunk:
        period_ns = self.spec.action.period_ns
        return ActionChunk(stamp_ns, stamp_ns, period_ns, actions, self.policy_id, sequence, diagnostics)

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """Return (chunk_steps, D)."""
        return self.config.chunk_steps, self.spec.action.dim

    @property
    def device(self) -> torch.device:
        """Return where the policy computes."""
        return self.action_layer.scale.device

    def batch_of(self, values: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Tensor]:
        """Put observations, arrays (obs_steps, *shape) each, and the goal on the device, (B, steps, *shape)."""
        stacked = {name: np.stack([each[name] for each in values]) for name in self.spec.observation.names}
        batch = {name: torch.from_numpy(value).to(self.device) for name, value in stacked.items()}
        goals = {name: goal.to(self.device).expand(len(values), *goal.shape[1:]) for name, goal in self._goal.items()}
        return batch | goals

    def _checked(self, observation: Observation) -> dict[str, NDArray[Any]]:
        given = observation.values, self.obs_steps, "observation", self.policy_id
        return {array.name: _steps_of(array, *given) for array in self.spec.observation}


def _steps_of(
    array: ArraySpec, values: Mapping[str, NDArray[Any]], steps: int, what: str, policy_id: str
) -> NDArray[Any]:
    """Return a copy of the value of `array`, which must be `steps` valid ones."""
    if array.name not in values:
        raise InvalidValue(f"{what} lacks {array.name}; it holds {', '.join(values)}")
    value = values[array.name]
    if len(value) != steps:
        raise InvalidValue(f"{array.name}: {len(value)} steps, {policy_id} needs {steps}")
    for step in value:
        array.validate(step)
    return np.array(value)


def _require_goal_family(family: str, goal_steps: int) -> None:
    if goal_steps and not getattr(method_class(family), "takes_goal", False):
        able = [name for name in METHODS if getattr(method_class(name), "takes_goal", False)]
        raise ConfigError(f"goal_steps is {goal_steps}: the family {family} takes no goal. Valid: {', '.join(able)}")
