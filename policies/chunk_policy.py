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
from armature.spec import ArraySpec, RobotSpec
from armature.transforms import to_absolute, to_relative
from armature.types import ActionChunk, CommittedActions, Observation
from policies.context import GOAL
from policies.device import compute_in_float32
from policies.guidance import Guidance, align
from policies.language import embed_prompts, shape_of
from policies.method import Sampled
from policies.nets.affine import AffineLayer
from policies.nets.observation import ObservationEncoder
from policies.nets.prompts import PROMPT
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
        compute_in_float32()
        _require_goal_family(family, config.goal_steps)
        self.family, self.policy_id = family, family
        self.spec = config.seen(spec)
        _require_prompt_seen(family, config, self.spec)
        # As it was found: names of all observations, fingerprints of pretrained folders.
        self.config = replace(config.pinned(), observations=self.spec.observation.names)
        self.method_config, self.normalizer = method, normalizer
        self.obs_steps = config.obs_steps
        self.relative_part = relative_part(self.config, self.spec)
        seen = (self.spec.observation, config.obs_steps, config.vision, normalizer, config.vector_noise)
        self.encoder = ObservationEncoder(*seen, config.goal_steps, shape_of(config.text))
        self.method = self._make_method()
        self.action_layer = AffineLayer(normalizer.affine(ACTION))
        self.engine: Engine | None = None
        self._goal: dict[str, Tensor] = {}
        self.prompts: tuple[str, ...] = ()
        self._episode = EpisodeState(torch.Generator())

    def _make_method(self) -> Any:
        made, context = method_class(self.family), self.encoder.context_spec
        if not _takes_prompt(self.family):
            # Only the image networks see it.
            context = replace(context, language_tokens=0, language_dim=0)
        return made(self.method_config, self.spec.action.dim, self.config.chunk_steps, context)

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the method's loss on a batch.

        `batch` holds observations (B, obs_steps, *shape), "action" (B, chunk_steps, D) in physical units, relative
        where the config says so, and for a policy that takes prompts "prompt" (B,), their places in `set_prompts`.
        In training mode observations are augmented. All draws come from `generator`.
        """
        context = self.encoder(batch, generator if self.training else None)
        return self.method.loss(self.action_layer(batch[ACTION]), context, generator)

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the loss: what wraps a module for training, for many processes or bf16, calls it as a whole."""
        return self.loss(batch, generator)

    @torch.no_grad()
    def sample(
        self,
        values: Mapping[str, Tensor],
        noise: Tensor,
        generator: torch.Generator | None = None,
        guidance: Guidance | None = None,
    ) -> Sampled:
        """Turn `noise` (B, chunk_steps, D) into actions in physical units, relative where the config says so."""
        guide = () if guidance is None else (guidance,)
        actions, diagnostics = self.method.sample(self.encoder(values), noise, generator, *guide)
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

    def set_prompts(self, prompts: Sequence[str]) -> None:
        """Embed the prompts to which `values["prompt"]` (B,) of batches refers by their places.

        Raises ConfigError for a policy that takes no prompt, and for a prompt that is empty or too long.
        """
        if self.encoder.prompts is None:
            raise ConfigError(f"{self.policy_id} takes no prompt, got {', '.join(map(repr, prompts))}")
        if "" in prompts:
            raise ConfigError(f"{self.policy_id}: the prompt is empty")
        self.encoder.prompts.fill(embed_prompts(self.config.text, prompts))
        self.prompts = tuple(prompts)

    def set_prompt(self, prompt: str) -> None:
        """Tell the policy what to do from the next chunk on; raise ConfigError as `set_prompts` does."""
        self.set_prompts([prompt])

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; the same seed gives the same chunks for the same observations.

        Raises ConfigError for a policy that takes a prompt and was given none.
        """
        self._episode = self.begin(seed)

    def begin(self, seed: int | None = None) -> EpisodeState:
        """Return the state of a new episode, for `infer_batch`; raise ConfigError as `reset` does."""
        self._require_prompt()
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return EpisodeState(generator)

    def infer(self, observation: Observation, committed: CommittedActions | None = None) -> ActionChunk:
        """Answer one observation with (chunk_steps, D) actions, which go on from those that are `committed`.

        Raises InvalidValue when it does not fit the spec, and ConfigError where the policy lacks a prompt or its family
        cannot go on from committed actions.
        """
        return self.infer_batch([observation], [self._episode], [committed])[0]

    def infer_batch(
        self,
        observations: Sequence[Observation],
        episodes: Sequence[EpisodeState],
        committed: Sequence[CommittedActions | None] = (),
    ) -> list[ActionChunk]:
        """Answer an observation of each episode, each as `infer` would; several at once without the engine.

        No engine knows of `committed` actions: with some, torch computes operation by operation.

        Only of a stochastic sampler the answers are others, though as likely: what it draws beyond the first noise
        comes from the first episode's generator for all.
        """
        self._require_prompt()
        if self.config.goal_steps and not self._goal:
            raise InvalidValue(f"{self.policy_id} needs a goal: give it one with set_goal")
        seen = [self.checked(observation) for observation in observations]
        noise = torch.stack([torch.randn(self.chunk_shape, generator=episode.generator) for episode in episodes])
        guidance = self._guidance(observations, seen, committed)
        drawn = noise.to(self.device), episodes[0].generator
        if self.engine is not None and len(seen) == 1 and guidance is None:
            sampled = self.engine(self.batch_of(seen), *drawn)
        else:
            sampled = self.sample(self.batch_of(seen), *drawn, guidance)
        return self.answers(observations, sampled, episodes)

    def answers(
        self, observations: Sequence[Observation], sampled: Sampled, episodes: Sequence[EpisodeState]
    ) -> list[ActionChunk]:
        """Make what `sample` gave for observations of some episodes the next chunks of these episodes."""
        chunks: list[ActionChunk] = []
        for i, (observation, episode) in enumerate(zip(observations, episodes, strict=True)):
            actions = sampled.actions[i].double().cpu().numpy()
            if self.relative_part is not None:
                position, elements = self.relative_part
                actions = to_absolute(actions, observation.values[position][-1], elements)
            episode.sequence += 1
            diagnostics = {name: figure[i].item() for name, figure in sampled.diagnostics.items()}
            chunks.append(self._chunk(observation.stamp_ns, actions, episode.sequence, diagnostics))
        return chunks

    def _guidance(
        self,
        observations: Sequence[Observation],
        seen: Sequence[Mapping[str, NDArray[Any]]],
        committed: Sequence[CommittedActions | None],
    ) -> Guidance | None:
        """Normalise what is committed at the steps of the chunks; None where nothing is."""
        if not any(each is not None for each in committed):
            return None
        require_committed_family(self.family)
        (steps, dim), period_ns = self.chunk_shape, self.spec.action.period_ns
        targets, weights = np.zeros((len(seen), steps, dim)), np.zeros((len(seen), steps))
        for i, (observation, actions) in enumerate(zip(observations, committed, strict=True)):
            if actions is not None:
                targets[i], weights[i] = align(actions, observation.stamp_ns, period_ns, self.chunk_shape)
        if self.relative_part is not None:
            position, elements = self.relative_part
            targets = to_relative(targets, np.stack([values[position][-1] for values in seen]), elements)
        if not weights.any():
            return None
        target = self.action_layer(torch.from_numpy(targets).to(self.device))
        return Guidance(target, torch.from_numpy(weights).to(target)[..., None])

    def _chunk(
        self, stamp_ns: int, actions: NDArray[np.float64], sequence: int, diagnostics: Mapping[str, float]
    ) -> ActionChunk:
        period_ns = self.spec.action.period_ns
        return ActionChunk(stamp_ns, stamp_ns, period_ns, actions, self.policy_id, sequence, diagnostics)

    def _require_prompt(self) -> None:
        if self.encoder.prompts is not None and len(self.encoder.prompts) != 1:
            raise ConfigError(f"{self.policy_id} takes a prompt and has {len(self.encoder.prompts)}: set one")

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """Return (chunk_steps, D)."""
        return self.config.chunk_steps, self.spec.action.dim

    @property
    def device(self) -> torch.device:
        """Return where the policy computes."""
        return self.action_layer.scale.device

    def batch_of(self, values: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Tensor]:
        """Put observations, arrays (obs_steps, *shape) each, on the policy's device, with the goal and the prompt."""
        names = self.spec.observation.names
        batch = {name: torch.from_numpy(np.stack([each[name] for each in values])) for name in names}
        batch |= {name: goal.expand(len(values), *goal.shape[1:]) for name, goal in self._goal.items()}
        if self.config.takes_prompt:
            batch[PROMPT] = torch.zeros(len(values), dtype=torch.int64)
        return {name: value.to(self.device) for name, value in batch.items()}

    def checked(self, observation: Observation) -> dict[str, NDArray[Any]]:
        """Return copies of what the policy sees of an observation; raise InvalidValue where that does not fit."""
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


def require_committed_family(family: str) -> None:
    """Raise ConfigError naming the families that can where this one cannot go on from committed actions."""
    if not getattr(method_class(family), "takes_committed", False):
        able = ", ".join(name for name in METHODS if getattr(method_class(name), "takes_committed", False))
        raise ConfigError(f"the family {family} cannot go on from committed actions. Valid: {able}")


def _require_prompt_seen(family: str, config: PolicyConfig, spec: RobotSpec) -> None:
    """Refuse a prompt of which neither the method nor the image networks would see anything."""
    has_film = config.vision.film and spec.observation.images
    if config.takes_prompt and not has_film and not _takes_prompt(family):
        able = ", ".join(name for name in METHODS if _takes_prompt(name))
        found = f"text.folder is {config.text.folder}: the family {family} takes no prompt"
        raise ConfigError(f"{found}. Valid: {able}, or any family with vision.film and a camera")


def _takes_prompt(family: str) -> bool:
    return getattr(method_class(family), "takes_prompt", False)
