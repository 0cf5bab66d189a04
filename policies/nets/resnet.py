"""ResNet (He et al. 2016) with group instead of batch normalisation, conditioned by FiLM where wanted.

Group normalisation, because batch statistics do not go together with an average of the weights (Chi et al. 2023,
section 3.2); 16 channels a group, as there. FiLM stands after each of the four stages, as in MoDE (Reuss et al. 2024):
x <- (1 + gamma) x + beta, both linear in the condition and zero at first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from policies.nets.vision import spatial_softmax

ResNetName = Literal["resnet18", "resnet34", "resnet50"]
Pooling = Literal["spatial_softmax", "average", "tokens"]

_STEM, _STAGES, _GROUP = 64, (64, 128, 256, 512), 16
_SHRINKS = 5
"""How often a side is halved, rounded up: stem, pooling after it, and the last three stages."""


@dataclass(frozen=True)
class Depth:
    """Blocks of each stage, and by how much a block's output is wider than its middle: 4 for bottlenecks."""

    blocks: tuple[int, int, int, int]
    expansion: int


DEPTHS: dict[str, Depth] = {
    "resnet18": Depth((2, 2, 2, 2), 1),
    "resnet34": Depth((3, 4, 6, 3), 1),
    "resnet50": Depth((3, 4, 6, 3), 4),
}


class ResNetEncoder(nn.Module):
    """Turn images of one camera into tokens.

    `spatial_softmax` makes one token of `features` from where `key_points` filters respond (Levine et al. 2016; 32 in
    robomimic and EBT-Policy; 0 takes the channels of the trunk themselves); `average` makes one token of all channels,
    `tokens` one of each cell of the last map.
    """

    def __init__(
        self, name: ResNetName, pooling: Pooling, features: int, key_points: int = 0, film_dim: int = 0
    ) -> None:
        super().__init__()
        self.trunk = ResNet(name, film_dim)
        self.pooling = pooling
        channels = self.trunk.channels
        self.dim = channels
        if pooling == "spatial_softmax":
            self.filters = nn.Conv2d(channels, key_points, 1) if key_points else nn.Identity()
            self.head = nn.Linear(2 * (key_points or channels), features)
            self.dim = features
        # NHWC is the cameras' own order.
        self.to(memory_format=torch.channels_last)

    def count_tokens(self, height: int, width: int) -> int:
        """Return how many tokens an image of this size becomes."""
        return math.prod(-(-side // 2**_SHRINKS) for side in (height, width)) if self.pooling == "tokens" else 1

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map images (B, H, W, 3) uint8, and with FiLM a condition (B, film_dim), to tokens (B, tokens, dim)."""
        x = images.permute(0, 3, 1, 2).float().mul_(1 / 127.5).sub_(1.0)
        maps = self.trunk(x, condition)
        if self.pooling == "spatial_softmax":
            return self.head(spatial_softmax(self.filters(maps)).flatten(1))[:, None]
        cells = maps.flatten(2).transpose(1, 2)
        return cells if self.pooling == "tokens" else cells.mean(dim=1, keepdim=True)


class ResNet(nn.Module):
    """The network without its classifier: images (B, 3, H, W) to maps (B, channels, H / 32, W / 32)."""

    def __init__(self, name: ResNetName, film_dim: int = 0) -> None:
        super().__init__()
        depth = DEPTHS[name]
        widths = [width * depth.expansion for width in _STAGES]
        self.channels = widths[-1]
        self.stem = nn.Sequential(_convolution(3, _STEM, 7, 2), _norm(_STEM), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList(
            _stage(*sizes, depth.expansion, count, stride=1 if i == 0 else 2)
            for i, (sizes, count) in enumerate(zip(pairwise((_STEM, *widths)), depth.blocks, strict=True))
        )
        self.films = nn.ModuleList(_film(film_dim, width) for width in widths) if film_dim else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map images, and with FiLM a condition (B, film_dim), to the last maps."""
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if self.films is not None:
                gamma, beta = self.films[i](condition)[..., None, None].chunk(2, dim=1)
                x = torch.addcmul(beta, 1 + gamma, x)
        return x


class Residual(nn.Module):
    """x + f(x), then ReLU; a convolution fits x to another width or size."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        self.change = (
            _bottleneck(inputs, outputs, expansion, stride) if expansion > 1 else _basic(inputs, outputs, stride)
        )
        fits = inputs == outputs and stride == 1
        shortcut = (_convolution(inputs, outputs, 1, stride), _norm(outputs))
        self.shortcut = nn.Identity() if fits else nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return torch.relu(self.change(x) + self.shortcut(x))


def _stage(inputs: int, outputs: int, expansion: int, count: int, stride: int) -> nn.Sequential:
    first = Residual(inputs, outputs, expansion, stride)
    return nn.Sequential(first, *(Residual(outputs, outputs, expansion, 1) for _ in range(count - 1)))


def _basic(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = (_convolution(inputs, outputs, 3, stride), _norm(outputs), nn.ReLU())
    return nn.Sequential(*first, _convolution(outputs, outputs, 3, 1), _norm(outputs))


def _bottleneck(inputs: int, outputs: int, expansion: int, stride: int) -> nn.Sequential:
    """Make a narrow 3x3 convolution between two 1x1; the 3x3 takes the stride, as in all released weights."""
    width = outputs // expansion
    narrow = (_convolution(inputs, width, 1, 1), _norm(width), nn.ReLU())
    middle = (_convolution(width, width, 3, stride), _norm(width), nn.ReLU())
    return nn.Sequential(*narrow, *middle, _convolution(width, outputs, 1, 1), _norm(outputs))


def _film(condition_dim: int, channels: int) -> nn.Linear:
    layer = nn.Linear(condition_dim, 2 * channels)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // _GROUP, channels)
