"""From camera images to features: a cropped window, a small CNN, spatial softmax.

Images stay uint8 until they are inside the network. Training and inference cut windows of the same size with the same
function: training at a random place, inference in the centre.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageEncoder(nn.Module):
    """Turn images of one camera into features: where each learned filter responds, as in Levine et al. 2016."""

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], features: int) -> None:
        super().__init__()
        *widths, last = zip((3, *channels[:-1]), channels, strides, strict=True)
        blocks = [_block(*sizes, kernel=5 if i == 0 else 3) for i, sizes in enumerate(widths)]
        # Key points want the raw response: normalisation would limit how sharply a filter can point at one place.
        self.convolutions = nn.Sequential(*blocks, _convolution(*last, kernel=3 if widths else 5))
        self.head = nn.Linear(channels[-1] * 2, features)
        # NHWC is the cameras' own order, and oneDNN's fast one for few channels.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, H, W, 3) uint8 to features (B, features)."""
        x = images.permute(0, 3, 1, 2).float().mul_(1 / 127.5).sub_(1.0)
        return self.head(spatial_softmax(self.convolutions(x)).flatten(1))


def spatial_softmax(maps: Tensor) -> Tensor:
    """Return the expected position (x, y) in [-1, 1] of every channel, (B, C, H, W) -> (B, C, 2)."""
    height, width = maps.shape[-2:]
    # Over NHWC, as the convolutions leave it: the maps need not be copied into another order.
    probability = maps.permute(0, 2, 3, 1).flatten(1, 2).softmax(dim=1)  # (B, H*W, C)
    y, x = torch.meshgrid(_ticks(height, maps), _ticks(width, maps), indexing="ij")
    return probability.transpose(1, 2) @ torch.stack([x.flatten(), y.flatten()], dim=-1)


def _ticks(count: int, like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, count, device=like.device, dtype=like.dtype)


def crop(images: Tensor, margin_px: int, corner_px: Tensor) -> Tensor:
    """Cut out of each sample's images a window that is `margin_px` smaller, at its corner (dy, dx).

    `images` (B, T, H, W, 3), `corner_px` (B, 2) integers in 0..margin_px; the T steps of a sample share their window.
    Slicing sample by sample copies whole rows: 50 times faster than one gather over rows and columns.
    """
    height, width = images.shape[2] - margin_px, images.shape[3] - margin_px
    corners = zip(images, corner_px.tolist(), strict=True)
    return torch.stack([image[:, dy : dy + height, dx : dx + width] for image, (dy, dx) in corners])


def centre_corners(count: int, margin_px: int) -> Tensor:
    """Return the corners (count, 2) of centred windows."""
    return torch.full((count, 2), margin_px // 2)


def random_corners(count: int, margin_px: int, generator: torch.Generator) -> Tensor:
    """Draw corners (count, 2) uniformly in 0..margin_px."""
    return torch.randint(0, margin_px + 1, (count, 2), generator=generator)


def _block(inputs: int, outputs: int, stride: int, kernel: int) -> nn.Sequential:
    norm = nn.GroupNorm(outputs // 4 if outputs % 4 == 0 else 1, outputs)
    return nn.Sequential(_convolution(inputs, outputs, stride, kernel), norm, nn.ReLU())


def _convolution(inputs: int, outputs: int, stride: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
