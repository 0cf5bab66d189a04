"""One encoder for everything a policy observes: images and normalised vectors, and the prompt where it takes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from armature.errors import ConfigError, unknown
from armature.normalizer import Normalizer
from armature.spec import ObservationSpec
from policies.context import GOAL, Context, ContextSpec
from policies.nets.affine import AffineLayer
from policies.nets.pretrained_vision import PretrainedEncoder, PretrainedVision
from policies.nets.prompts import PROMPT, PromptShape, PromptTable, pooled
from policies.nets.resnet import ResNetEncoder
from policies.nets.vision import ImageEncoder, centre_corners, crop, random_corners

Network = Literal["cnn", "resnet18", "resnet34", "resnet50", "pretrained"]
_POOLINGS = {
    "cnn": ("spatial_softmax",),
    "pretrained": ("tokens", "average", "pooled"),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50"), ("spatial_softmax", "average", "tokens")),
}


@dataclass(frozen=True)
class VisionConfig:
    """The image network of each camera."""

    channels: tuple[int, ...] = (32, 64, 64)
    """`cnn`: channels of the convolutions; the last count is also that of the spatial-softmax key points."""
    strides: tuple[int, ...] = (4, 2, 1)
    """`cnn`: strides of the convolutions: a large first one is what makes training on a CPU affordable."""
    features: int = 64
    """Features per camera and observation step, with spatial softmax."""
    crop_margin_px: int = 12
    """The window that is seen is this much smaller than the image: at a random place in training, centred otherwise."""
    network: Network = "cnn"
    """A small own network or a ResNet for each camera, learned from the beginning; or pretrained towers for all."""
    pooling: Literal["spatial_softmax", "average", "tokens", "pooled"] = "spatial_softmax"
    """What an image becomes. One token: of where the filters respond (not `pretrained`), of the average over the image,
    or of the tower's own summary (`pretrained` only). Or many: one for each cell or patch (not `cnn`)."""
    key_points: int = 0
    """ResNets with spatial softmax: filters that are learned to respond; 0: the channels of the last map."""
    film: bool = False
    """ResNets: the prompt scales and shifts the channels after each stage."""
    pretrained: PretrainedVision = field(default_factory=PretrainedVision)

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        if self.network not in _POOLINGS:
            raise ConfigError(unknown("vision.network", self.network, _POOLINGS))
        for name in ("channels", "strides"):
            if not all(value >= 1 for value in getattr(self, name)) or not getattr(self, name):
                raise ConfigError(f"vision.{name} is {getattr(self, name)}, must name numbers of at least 1")
        for name, least in (("features", 1), ("key_points", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"vision.{name} is {getattr(self, name)}, must be at least {least}")


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
        prompt: PromptShape | None = None,
    ) -> None:
        """`prompt` is the shape of an embedded prompt, None for a policy that takes none."""
        super().__init__()
        _check_vision(spec, vision, prompt)
        self.spec, self.margin_px, self.vector_noise = spec, vision.crop_margin_px, vector_noise
        # Pretrained towers see all cameras; other networks learn to see one.
        networks = min(1, len(spec.images)) if vision.network == "pretrained" else len(spec.images)
        self.cameras = nn.ModuleList(_network(vision, prompt) for _ in range(networks))
        self.is_conditioned = vision.film
        self.vectors = nn.ModuleList(AffineLayer(normalizer.affine(array.name)) for array in spec.vectors)
        self.prompts = None if prompt is None else PromptTable(prompt)
        state_dim = sum(array.size for array in spec.vectors)
        if goal_steps and not state_dim:
            raise ConfigError(f"goal_steps is {goal_steps}, but no vector is observed that could be the goal")
        images = _image_tokens(spec, vision, self.cameras)
        self.context_spec = ContextSpec(obs_steps, state_dim, *images, *(prompt or (0, 0)), goal_steps)

    def forward(self, values: Mapping[str, Tensor], augment: torch.Generator | None = None) -> Context:
        """Encode; `augment` draws image windows and noise on the vectors, None takes centred windows and no noise.

        A policy that takes a prompt finds in `values` the places (B,) of the prompts in its table, one with goals the
        vectors of the goal, (B, goal_steps, *shape), under GOAL and their name.
        """
        language = (None, None) if self.prompts is None else self.prompts(values[PROMPT])
        condition = pooled(*language) if self.is_conditioned else None
        images = [
            self._camera(self.cameras[min(i, len(self.cameras) - 1)], values[array.name], condition, augment)
            for i, array in enumerate(self.spec.images)
        ]
        vectors = [
            self._vector(layer, values[array.name], augment)
            for array, layer in zip(self.spec.vectors, self.vectors, strict=True)
        ]
        like = values[self.spec.names[0]]
        empty = torch.zeros(*like.shape[:2], 0, device=like.device)
        state = torch.cat(vectors, dim=-1) if vectors else empty
        goal = self._goal(values) if self.context_spec.goal_steps else None
        return Context(state, torch.cat(images, dim=2) if images else empty[..., None], *language, goal)

    def _goal(self, values: Mapping[str, Tensor]) -> Tensor:
        named = zip(self.spec.vectors, self.vectors, strict=True)
        return torch.cat([layer(values[f"{GOAL}{array.name}"].flatten(2)) for array, layer in named], dim=-1)

    def _camera(
        self, encoder: nn.Module, images: Tensor, condition: Tensor | None, augment: torch.Generator | None
    ) -> Tensor:
        """Turn images (B, obs_steps, H, W, 3) into tokens (B, obs_steps, tokens, dim)."""
        count, margin = len(images), self.margin_px
        corners = centre_corners(count, margin) if augment is None else random_corners(count, margin, augment)
        seen = crop(images, margin, corners)
        steps = seen.shape[:2]
        each = () if condition is None else (condition.repeat_interleave(steps[1], dim=0),)
        tokens = encoder(seen.flatten(0, 1), *each)
        return tokens.reshape(*steps, -1, tokens.shape[-1])

    def _vector(self, layer: nn.Module, vector: Tensor, augment: torch.Generator | None) -> Tensor:
        normalised = layer(vector.flatten(2))
        if augment is None or self.vector_noise == 0:
            return normalised
        noise = torch.randn(normalised.shape, generator=augment).to(normalised.device)
        return normalised + self.vector_noise * noise


def _network(vision: VisionConfig, prompt: PromptShape | None) -> Any:
    if vision.network == "cnn":
        return ImageEncoder(vision.channels, vision.strides, vision.features)
    if vision.network == "pretrained":
        return PretrainedEncoder(vision.pretrained, vision.pooling)
    film_dim = prompt.dim if vision.film and prompt else 0
    return ResNetEncoder(vision.network, vision.pooling, vision.features, vision.key_points, film_dim)


def _image_tokens(spec: ObservationSpec, vision: VisionConfig, cameras: nn.ModuleList) -> tuple[int, int]:
    """Return how many tokens all images of a step become, and their size."""
    if vision.network == "cnn" or not spec.images:
        return len(spec.images), vision.features
    sides = [[side - vision.crop_margin_px for side in image.shape[:2]] for image in spec.images]
    return sum(cameras[0].count_tokens(*side) for side in sides), cameras[0].dim


def _check_vision(spec: ObservationSpec, vision: VisionConfig, prompt: PromptShape | None) -> None:
    if len(vision.channels) != len(vision.strides):
        raise ConfigError(f"vision: {len(vision.channels)} channels, but {len(vision.strides)} strides")
    if vision.pooling not in (valid := _POOLINGS[vision.network]):
        raise ConfigError(f"vision.pooling '{vision.pooling}': {vision.network} allows {', '.join(valid)}")
    if vision.pretrained.folders and vision.network != "pretrained":
        raise ConfigError(
            f"vision.pretrained.folders {', '.join(map(str, vision.pretrained.folders))}: vision.network "
            f"{vision.network} looks at none of them. Valid with: pretrained"
        )
    if vision.film and (prompt is None or not vision.network.startswith("resnet")):
        raise ConfigError(
            f"vision.film: needs a prompt (text.folder) and a ResNet, got vision.network {vision.network}"
        )
    for image in spec.images:
        if not 0 <= vision.crop_margin_px < min(image.shape[:2]) // 2:
            side = min(image.shape[:2])
            raise ConfigError(f"vision.crop_margin_px {vision.crop_margin_px}: {image.name} allows 0..{side // 2 - 1}")
