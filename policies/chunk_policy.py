"""A method made a policy for one robot: observations in, chunks of actions in physical units out.

Everything that is not a matter of the method is here: encoding, scaling, relative actions, random draws, the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from armature.errors import ConfigError, InvalidValue
from armature.normalizer import Normalizer
from armature.spec import JOINT_POSITION, RobotSpec
from armature.transforms import to_absolute
from armature.types import ActionChunk, Observation
from policies.language import embed_prompts, shape_of
from policies.method import Sampled
from policies.nets.affine import AffineLayer
from policies.nets.observation import ObservationEncoder
from policies.nets.prompts import PROMPT
from policies.policy_config import PolicyConfig, relative_part
from policies.registry import method_class

ACTION = "action"


class ChunkPolicy(nn.Module):
    """A policy of any family for the robot `spec`, which is narrowed to the observations that the config names."""

    def __init__(self, family: str, config: PolicyConfig, method: Any, spec: RobotSpec, normalizer: Normalizer) -> None:
        """`method` is the config of the family's method."""
        super().__init__()
        self.family, self.policy_id = family, family
        self.spec = config.seen(spec)
        # As it was found: names of all observations, fingerprints of pretrained folders.
        self.config = replace(config.pinned(), observations=self.spec.observation.names)
        self.method_config, self.normalizer = method, normalizer
        self.obs_steps = config.obs_steps
        self.relative_part = relative_part(self.config, self.spec)
        seen = (self.spec.observation, config.obs_steps, config.vision, normalizer, config.vector_noise)
        self.encoder = ObservationEncoder(*seen, shape_of(config.text))
        self.method = method_class(family)(method, self.spec.action.dim, config.chunk_steps, self.encoder.context_spec)
        self.action_layer = AffineLayer(normalizer.affine(ACTION))
        self._sequence = 0
        # Noise is drawn on the CPU whatever the device, so that a seed means the same everywhere.
        self._generator = torch.Generator()

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the method's loss on a batch.

        `batch` holds observations (B, obs_steps, *shape), "action" (B, chunk_steps, D) in physical units, relative
        where the config says so, and for a policy that takes prompts "prompt" (B,), their places in `set_prompts`.
        In training mode observations are augmented. All draws come from `generator`.
        """
        context = self.encoder(batch, generator if self.training else None)
        return self.method.loss(self.action_layer(batch[ACTION]), context, generator)

    @torch.no_grad()
    def sample(self, values: Mapping[str, Tensor], noise: Tensor, generator: torch.Generator | None = None) -> Sampled:
        """Turn `noise` (B, chunk_steps, D) into actions in physical units, relative where the config says so."""
        actions, diagnostics = self.method.sample(self.encoder(values), noise, generator)
        return Sampled(self.action_layer.invert(actions), diagnostics)

    def set_prompts(self, prompts: Sequence[str]) -> None:
        """Embed the prompts to which `values["prompt"]` (B,) of batches refers by their places.

        Raises ConfigError for a policy that takes no prompt, and for a prompt that is empty or too long.
        """
        if self.encoder.prompts is None:
            raise ConfigError(f"{self.policy_id} takes no prompt, got {', '.join(map(repr, prompts))}")
        if "" in prompts:
            raise ConfigError(f"{self.policy_id}: the prompt is empty")
        self.encoder.prompts.fill(embed_prompts(self.config.text, prompts))

    def set_prompt(self, prompt: str) -> None:
        """Tell the policy what to do from the next chunk on; raise ConfigError as `set_prompts` does."""
        self.set_prompts([prompt])

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; the same seed gives the same chunks for the same observations.

        Raises ConfigError for a policy that takes a prompt and was given none.
        """
        self._require_prompt()
        self._sequence = 0
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def infer(self, observation: Observation) -> ActionChunk:
        """Answer one observation with (chunk_steps, D) actions.

        Raises InvalidValue when it does not fit the spec, and ConfigError where the policy lacks a prompt.
        """
        self._require_prompt()
        values = self._checked(observation)
        shape = (1, self.config.chunk_steps, self.spec.action.dim)
        device = self.action_layer.scale.device
        noise = torch.randn(shape, generator=self._generator).to(device)
        batch = {name: torch.from_numpy(value)[None].to(device) for name, value in values.items()}
        if self.config.takes_prompt:
            batch[PROMPT] = torch.zeros(1, dtype=torch.int64, device=device)
        sampled = self.sample(batch, noise, self._generator)
        actions = sampled.actions[0].double().cpu().numpy()
        if self.relative_part is not None:
            actions = to_absolute(actions, values[JOINT_POSITION][-1], self.relative_part)
        self._sequence += 1
        stamp_ns, period_ns = observation.stamp_ns, self.spec.action.period_ns
        diagnostics = {name: figure[0].item() for name, figure in sampled.diagnostics.items()}
        return ActionChunk(stamp_ns, stamp_ns, period_ns, actions, self.policy_id, self._sequence, diagnostics)

    def _require_prompt(self) -> None:
        if self.encoder.prompts is not None and len(self.encoder.prompts) != 1:
            raise ConfigError(f"{self.policy_id} takes a prompt and has {len(self.encoder.prompts)}: set one")

    def _checked(self, observation: Observation) -> dict[str, NDArray[Any]]:
        values: dict[str, NDArray[Any]] = {}
        for array in self.spec.observation:
            if array.name not in observation.values:
                raise InvalidValue(f"observation lacks {array.name}; it holds {', '.join(observation.values)}")
            value = observation.values[array.name]
            if len(value) != self.obs_steps:
                raise InvalidValue(f"{array.name}: {len(value)} steps, {self.policy_id} needs {self.obs_steps}")
            for step in value:
                array.validate(step)
            values[array.name] = np.array(value)
        return values
