"""A policy whose noise a learned actor chooses: to everything else it is a policy like any other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from armature.errors import CheckpointError, ConfigError
from armature.types import ActionChunk, CommittedActions, Observation
from policies.chunk_policy import ChunkPolicy
from policies.dsrl import NoiseActor
from policies.noise_decoder import NoiseDecoder

FORMAT = "armature-noise-actor"


@dataclass(frozen=True)
class NoiseWeights:
    """What a training of `policies.dsrl` gives out."""

    base_id: str
    """The policy whose noise this chooses."""
    share: float
    """The share of the chunks in which the guard trusted the actor."""
    magnitude: float
    repeat_noise: bool
    hidden: tuple[int, ...]
    arrays: Mapping[str, Tensor]
    """As in `NoiseActor.state_dict()`."""

    def to_bytes(self) -> bytes:
        """Return a safetensors file; inverse of `from_file`."""
        told = {"base_id": self.base_id, "share": self.share, "magnitude": self.magnitude,
                "repeat_noise": self.repeat_noise, "hidden": self.hidden}  # fmt: skip
        return save(dict(self.arrays), metadata={"format": FORMAT, "actor": json.dumps(told)})

    @classmethod
    def from_file(cls, path: Path) -> NoiseWeights:
        """Read what `to_bytes` wrote; raise CheckpointError where it is absent, damaged, or something else."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: no actor can be read: {error}") from error
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path}: is {metadata.get('format')!r}, expected {FORMAT!r}")
        told = json.loads(metadata["actor"])
        return cls(**{**told, "hidden": tuple(told["hidden"])}, arrays=arrays)


class SteeredPolicy:
    """A frozen policy with the actor that steers it: keeps `armature.policy.Policy`, and needs nothing more of a robot.

    The actor chooses the noise of a `share` of the chunks, the one in the middle of what it may draw; the others begin
    with noise of the policy's own. So it was judged while it was learned.
    """

    def __init__(self, policy: ChunkPolicy, weights: NoiseWeights) -> None:
        """Raise ConfigError where the actor is of another policy, or cannot steer this one."""
        if weights.base_id != policy.policy_id:
            raise ConfigError(f"the actor steers {weights.base_id}, not {policy.policy_id}")
        self._policy = policy
        self._decoder = NoiseDecoder(policy, policy.chunk_shape[0], repeat=weights.repeat_noise)
        sizes = self._decoder.observation_dim, self._decoder.noise_dim, weights.hidden
        self._actor = NoiseActor(*sizes, weights.magnitude)
        self._actor.load_state_dict(dict(weights.arrays))
        self.spec, self.obs_steps = policy.spec, policy.obs_steps
        self.policy_id = f"steered-{policy.policy_id}"
        self._share = weights.share
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; a seed fixes which chunks are steered, and the noise of the others."""
        self._episode, self._rng = self._policy.begin(seed), np.random.default_rng(seed)

    @torch.no_grad()
    def infer(self, observation: Observation, committed: CommittedActions | None = None) -> ActionChunk:
        """Answer one observation; raise ConfigError where it is to go on from `committed` actions."""
        if committed is not None:
            raise ConfigError(f"{self.policy_id} cannot go on from committed actions: schedule it by receding_horizon")
        seen = self._decoder.observe([self._policy.checked(observation)])
        own, is_steered = self._decoder.draw(self._episode)[None], self._rng.random() < self._share
        noise = self._decoder.expand(self._actor.mode(seen)) if is_steered else own
        chunks = self._decoder.chunks(seen, noise)
        (answer,) = self._policy.answers([observation], self._decoder.sampled(chunks), [self._episode])
        return replace(answer, policy_id=self.policy_id)


def load_steered(policy: ChunkPolicy, actor: Path) -> SteeredPolicy:
    """Have a policy steered by the actor in a file; raise as `NoiseWeights.from_file` and SteeredPolicy do."""
    return SteeredPolicy(policy, NoiseWeights.from_file(actor))
