"""What a frozen diffusion or flow policy makes of a noise that somebody else chose.

The policy's own encoder is asked once per observation; what it answers, flat, is all that steering sees and keeps: the
chunk of any noise follows from it. So a steered policy needs nothing of the robot that the policy itself does not see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from armature.errors import ConfigError
from policies.chunk_policy import ChunkPolicy, EpisodeState
from policies.context import Context
from policies.method import Sampled
from policies.nets.prompts import PROMPT

OBSERVATION_MAX = 4096
"""Numbers in an observation that the small networks of reinforcement learning can be given."""
_SAMPLERS = {"diffusion": ("ddim", "dpm++"), "hrdt": ("euler",)}


def require_steerable(policy: ChunkPolicy) -> None:
    """Raise ConfigError unless its chunk is a function of observation and noise alone, and they are of fit size."""
    valid = "; ".join(f"{family} with {' or '.join(samplers)}" for family, samplers in _SAMPLERS.items())
    if policy.family not in _SAMPLERS:
        raise ConfigError(
            f"{policy.policy_id}: the noise of the family {policy.family} cannot be steered. Valid: {valid}"
        )
    sampler = getattr(policy.method_config, "sampler", "euler")
    if sampler not in _SAMPLERS[policy.family]:
        raise ConfigError(f"{policy.policy_id}: its sampler {sampler} draws more than the first noise. Valid: {valid}")
    if (size := observation_size(policy)) > OBSERVATION_MAX:
        raise ConfigError(
            f"{policy.policy_id}: an encoded observation has {size} numbers, at most {OBSERVATION_MAX} can be steered "
            "by: choose a vision.pooling that leaves one token per image"
        )


def observation_size(policy: ChunkPolicy) -> int:
    """Return how many numbers an encoded observation has."""
    spec = policy.encoder.context_spec
    return spec.obs_steps * (spec.state_dim + spec.image_tokens * spec.image_dim)


class NoiseDecoder:
    """Encodes observations and turns noises into chunks, batched and without gradient; the policy stays as it is."""

    def __init__(self, policy: ChunkPolicy, execute_steps: int, *, repeat: bool = False) -> None:
        """`execute_steps` of a chunk are executed; `repeat`: one noise (D,) stands for every step of the chunk.

        Raises ConfigError naming what cannot be.
        """
        require_steerable(policy)
        steps, dim = policy.chunk_shape
        if not 1 <= execute_steps <= steps:
            raise ConfigError(f"execute_steps is {execute_steps}, the chunks of {policy.policy_id} have {steps}")
        self.policy, self.execute_steps = policy, execute_steps
        self.observation_dim = observation_size(policy)
        self.action_dim = execute_steps * dim
        self.noise_dim = dim if repeat else steps * dim

    def observe(self, values: Sequence[Mapping[str, NDArray[Any]]]) -> Tensor:
        """Return observations (B, O) of the arrays (obs_steps, *shape) that the policy sees."""
        return self.encode(self.policy.batch_of(values))

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return observations (B, O) of a batch as `ChunkPolicy.batch_of` makes it."""
        context = self.policy.encoder(batch)
        return torch.cat([context.state.flatten(1), context.images.flatten(1)], dim=1)

    def encode_windows(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return observations (B, O) of windows of a dataset, each with the prompt that the policy has."""
        told = {PROMPT: torch.zeros(len(next(iter(batch.values()))), dtype=torch.int64)}
        return self.encode({**batch, **told} if self.policy.config.takes_prompt else batch)

    def expand(self, noise: Tensor) -> Tensor:
        """Return noises (B, W) as the policy takes them, (B, chunk_steps, D)."""
        steps, dim = self.policy.chunk_shape
        return noise.unflatten(1, (-1, dim)).expand(-1, steps, dim)

    @torch.no_grad()
    def chunks(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return the normalised chunks (B, chunk_steps, D) of observations (B, O) and noises (B, chunk_steps, D)."""
        return self.policy.method.sample(self._context(observation), noise).actions

    def executed(self, chunks: Tensor) -> Tensor:
        """Return what is executed of normalised chunks (B, at least execute_steps, D), flat: (B, A)."""
        return chunks[:, : self.execute_steps].flatten(1)

    def __call__(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return what is executed (B, A) where observations (B, O) are answered with noises (B, W)."""
        return self.executed(self.chunks(observation, self.expand(noise)))

    def look(self, observation: Tensor, own: Tensor, noises: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chunks of the policy's `own` noises (B, chunk_steps, D), and those of `noises` (B, N, W).

        They are (B, chunk_steps, D) and (B, N, chunk_steps, D), of observations (B, O), denoised in one batch.
        """
        count = 1 + noises.shape[1]
        every = torch.cat([own[:, None], self.expand(noises.flatten(0, 1)).unflatten(0, noises.shape[:2])], dim=1)
        chunks = self.chunks(observation.repeat_interleave(count, dim=0), every.flatten(0, 1))
        chunks = chunks.unflatten(0, (len(observation), count))
        return chunks[:, 0], chunks[:, 1:]

    def sampled(self, chunks: Tensor) -> Sampled:
        """Return normalised chunks as `ChunkPolicy.sample` would, for `ChunkPolicy.answers`."""
        return Sampled(self.policy.action_layer.invert(chunks), {})

    def draw(self, episode: EpisodeState) -> Tensor:
        """Return the noise (chunk_steps, D) that the policy by itself would begin its next chunk with."""
        return torch.randn(self.policy.chunk_shape, generator=episode.generator)

    def _context(self, observation: Tensor) -> Context:
        spec, prompts = self.policy.encoder.context_spec, self.policy.encoder.prompts
        count = len(observation)
        state, images = observation.split([spec.obs_steps * spec.state_dim, self._images_size], dim=1)
        told = (None, None) if prompts is None else prompts(torch.zeros(count, dtype=torch.int64))
        shape = count, spec.obs_steps, spec.image_tokens, spec.image_dim
        return Context(state.reshape(count, spec.obs_steps, -1), images.reshape(shape), *told)

    @property
    def _images_size(self) -> int:
        spec = self.policy.encoder.context_spec
        return spec.obs_steps * spec.image_tokens * spec.image_dim
