"""One encoder for everything a policy observes: an image network per camera beside the normalised vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from armature.errors import ConfigError
from armature.normalizer import Normalizer
from armature.spec import ObservationSpec
from policies.context import GOAL, Context, ContextSpec
from policies.nets.affine import AffineLayer
from policies.nets.vision import ImageEncoder, centre_corners, crop, random_corners


@dataclass(frozen=True)
class VisionConfig:
    """The image network of each camera."""

    channels: tuple[int, ...] = (32, 64, 64)
    """Channels of the convolutions; the last count is also that of the spatial-softmax key points."""
    strides: tuple[int, ...] = (4, 2, 1)
    """Strides of the convolutions: a large first one is what makes training on a CPU affordable."""
    features: int = 64
    """Features per camera and observation step."""
    crop_margin_px: int = 12
    """The window that is seen is this much smaller than the image: at a random place in training, centred otherwise."""


class ObservationEncoder(nn.Module):
    """Encode aligned observations, each (B, obs_steps, *shape), as a Context."""

    def __init__(
        self,
        spec: ObservationSpec,
        obs_steps: int,
        vision: VisionConfig,
        normalizer: Normalizer,
        vector_noise: float = 0.0,
        goal_steps: int = 0,
    ) -> None:
        super().__init__()
        _check_vision(spec, vision)
        self.spec, self.margin_px, self.vector_noise = spec, vision.crop_margin_px, vector_noise
        self.cameras = nn.ModuleList(
            ImageEncoder(vision.channels, vision.strides, vision.features) for _ in spec.images
        )
        self.vectors = nn.ModuleList(AffineLayer(normalizer.affine(array.name)) for array in spec.vectors)
        state_dim = sum(array.size for array in spec.vectors)
        if goal_steps and not state_dim:
            raise ConfigError(f"goal_steps is {goal_steps}, but no vector is observed that could be the goal")
        sizes = (obs_steps, state_dim, len(spec.images), vision.features)
        self.context_spec = ContextSpec(*sizes, goal_steps=goal_steps)

    def forward(self, values: Mapping[str, Tensor], augment: torch.Generator | None = None) -> Context:
        """Encode; `augment` draws image windows and noise on the vectors, None takes centred windows and no noise.

        A policy with goals finds the vectors of the goal, (B, goal_steps, *shape), under GOAL and their name.
        """
        images = [
            self._camera(encoder, values[array.name], augment)
            for array, encoder in zip(self.spec.images, self.cameras, strict=True)
        ]
        vectors = [
            self._vector(layer, values[array.name], augment)
            for array, layer in zip(self.spec.vectors, self.vectors, strict=True)
        ]
        like = values[self.spec.names[0]]
        empty = torch.zeros(*like.shape[:2], 0, device=like.device)
        state = torch.cat(vectors, dim=-1) if vectors else empty
        goal = self._goal(values) if self.context_spec.goal_steps else None
        return Context(state, torch.stack(images, dim=2) if images else empty[..., None], goal=goal)

    def _goal(self, values: Mapping[str, Tensor]) -> Tensor:
        named = zip(self.spec.vectors, self.vectors, strict=True)
        return torch.cat([layer(values[f"{GOAL}{array.name}"].flatten(2)) for array, layer in named], dim=-1)

    def _camera(self, encoder: nn.Module, images: Tensor, augment: torch.Generator | None) -> Tensor:
        count, margin = len(images), self.margin_px
        corners = centre_corners(count, margin) if augment is None else random_corners(count, margin, augment)
        seen = crop(images, margin, corners)
        return encoder(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])

    def _vector(self, layer: nn.Module, vector: Tensor, augment: torch.Generator | None) -> Tensor:
        normalised = layer(vector.flatten(2))
        if augment is None or self.vector_noise == 0:
            return normalised
        noise = torch.randn(normalised.shape, generator=augment).to(normalised.device)
        return normalised + self.vector_noise * noise


def _check_vision(spec: ObservationSpec, vision: VisionConfig) -> None:
    if len(vision.channels) != len(vision.strides):
        raise ConfigError(f"vision: {len(vision.channels)} channels, but {len(vision.strides)} strides")
    for image in spec.images:
        if not 0 <= vision.crop_margin_px < min(image.shape[:2]) // 2:
            side = min(image.shape[:2])
            raise ConfigError(f"vision.crop_margin_px {vision.crop_margin_px}: {image.name} allows 0..{side // 2 - 1}")
