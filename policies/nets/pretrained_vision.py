"""Pretrained vision towers (DINOv2, SigLIP, CLIP) as image encoders: images of any size in, tokens out.

A tower sees images as it was trained: square, in its own size and with its own mean and deviation. Several towers may
look at the same image; their tokens are put side by side, as H-RDT does with DINOv2 and SigLIP (Bi et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from armature.errors import ConfigError, unknown
from policies.nets.frozen import Frozen, freeze_unused
from policies.nets.pretrained import IMAGES, PretrainedFolder, load_network, open_folder

TowerPooling = Literal["tokens", "average", "pooled"]
Fit = Literal["letterbox", "stretch"]

_CLASSES = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
_PROJECTED = "CLIPVisionModelWithProjection"
_WHAT = "vision.pretrained.folders"


@dataclass(frozen=True)
class PretrainedVision:
    """Which pretrained towers see the images, and how."""

    folders: tuple[str, ...] = ()
    """Folders of transformers checkpoints (DINOv2, SigLIP, CLIP); the tokens of several are put side by side."""
    frozen: bool = True
    """Frozen weights are neither learned nor stored in checkpoints: loading one needs, and verifies, the folder."""
    layer: int = -1
    """Which layer's tokens: -1 the tower's output, -2 those before its last block (and without its last norm), ..."""
    fit: Fit = "letterbox"
    """How an image becomes square: between bars of the mean colour, or stretched."""
    image_size_px: int = 0
    """Side of the square; 0: what the tower was trained on."""
    class_tokens: bool = False
    """Keep the class token and the registers, which come before the patches."""
    fingerprints: tuple[str, ...] = ()
    """What the folders must be, in their order; training fills it in, none given accepts any."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        if self.fit not in (valid := get_args(Fit)):
            raise ConfigError(unknown("vision.pretrained.fit", self.fit, valid))


def pin(config: PretrainedVision) -> PretrainedVision:
    """Check the folders and fill in their fingerprints; raise ConfigError naming a folder that is not as it was."""
    return replace(config, fingerprints=tuple(folder.fingerprint for folder in _open(config)))


class PretrainedEncoder(nn.Module):
    """Turn images into tokens by pretrained towers: every patch, their average, or the tower's own summary of them.

    That summary is the class token of DINOv2, the attention pooling of SigLIP, the projected embedding of CLIP.
    """

    def __init__(self, config: PretrainedVision, pooling: TowerPooling) -> None:
        super().__init__()
        self.towers = nn.ModuleList(_Tower(folder, config, pooling) for folder in _open(config))
        counts = {tower.tokens for tower in self.towers}
        if len(counts) > 1:
            found = ", ".join(f"{n}: {t.tokens}" for n, t in zip(config.folders, self.towers, strict=True))
            raise ConfigError(f"{_WHAT}: their tokens do not go together ({found})")
        self.tokens = counts.pop()
        self.dim = sum(tower.dim for tower in self.towers)

    def count_tokens(self, height: int, width: int) -> int:
        """Return how many tokens an image becomes; its size does not matter, since towers see squares of one size."""
        return self.tokens

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map images (B, H, W, 3) uint8 to tokens (B, tokens, dim)."""
        return torch.cat([tower(images) for tower in self.towers], dim=-1)


class _Tower(nn.Module):
    def __init__(self, folder: PretrainedFolder, config: PretrainedVision, pooling: TowerPooling) -> None:
        super().__init__()
        self.config, self.pooling = config, pooling
        is_projected = pooling == "pooled" and folder.model_type.startswith("clip")
        network = load_network(folder, _PROJECTED if is_projected else _CLASSES[folder.model_type])
        sizes = network.config
        _check(folder, config, pooling, sizes)
        self.size_px, mean, deviation = _image_format(folder, config, sizes)
        self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(deviation)[:, None, None], persistent=False)
        self.skipped = 0 if config.class_tokens else _class_tokens(folder.model_type, sizes)
        # Only these two have a fixed table of positions unless told to interpolate it.
        is_fixed = folder.model_type.startswith(("clip", "siglip")) and self.size_px != sizes.image_size
        self.options = {"interpolate_pos_encoding": True} if is_fixed else {}
        self.network = Frozen(network) if config.frozen else network
        probe = self(torch.zeros(1, self.size_px, self.size_px, 3, dtype=torch.uint8))
        if not config.frozen:
            freeze_unused(network, probe)
        _, self.tokens, self.dim = probe.shape

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, H, W, 3) uint8 to tokens (B, tokens, dim)."""
        square = fit_square(images.permute(0, 3, 1, 2), self.size_px, self.mean, self.deviation, self.config.fit)
        needs_layers = self.config.layer != -1
        found = self.network(pixel_values=square, output_hidden_states=needs_layers, **self.options)
        if self.pooling == "pooled":
            return (found.image_embeds if "image_embeds" in found else found.pooler_output)[:, None]
        tokens = found.hidden_states[self.config.layer] if needs_layers else found.last_hidden_state
        tokens = tokens[:, self.skipped :]
        return tokens.mean(dim=1, keepdim=True) if self.pooling == "average" else tokens


def fit_square(images: Tensor, size_px: int, mean: Tensor, deviation: Tensor, fit: str) -> Tensor:
    """Resize images (B, 3, H, W) uint8 to squares of `size_px`, normalised; letterbox bars have the mean colour."""
    height, width = images.shape[-2:]
    scale = size_px / max(height, width)
    inner = [max(1, round(side * scale)) for side in (height, width)] if fit == "letterbox" else [size_px, size_px]
    seen = images.float()
    if inner != [height, width]:
        seen = nn.functional.interpolate(seen, inner, mode="bicubic", antialias=True).clamp_(0, 255)
    missing = [size_px - side for side in reversed(inner)]
    bars = [bar for side in missing for bar in (side // 2, side - side // 2)]
    return nn.functional.pad((seen - mean) / deviation, bars)


def _open(config: PretrainedVision) -> list[PretrainedFolder]:
    expected = config.fingerprints or ("",) * len(config.folders)
    if not config.folders:
        raise ConfigError(f"{_WHAT} is empty: name the folder of a pretrained tower")
    if len(expected) != len(config.folders):
        raise ConfigError(f"vision.pretrained: {len(config.folders)} folders, but {len(expected)} fingerprints")
    return [open_folder(n, _WHAT, _CLASSES, f) for n, f in zip(config.folders, expected, strict=True)]


def _check(folder: PretrainedFolder, config: PretrainedVision, pooling: TowerPooling, sizes: Any) -> None:
    layers = sizes.num_hidden_layers
    if not -layers <= config.layer <= -1:
        raise ConfigError(f"vision.pretrained.layer {config.layer}: {folder.path} allows -{layers}..-1")
    if pooling == "pooled" and config.layer != -1:
        raise ConfigError(f"vision.pretrained.layer {config.layer}: pooling 'pooled' is of the tower's output, -1")
    if pooling == "pooled" and not getattr(sizes, "vision_use_head", True):
        raise ConfigError(f"vision.pooling 'pooled': {folder.path} has no pooling head. Valid: tokens, average")


def _image_format(
    folder: PretrainedFolder, config: PretrainedVision, sizes: Any
) -> tuple[int, list[float], list[float]]:
    """Return side [px], mean and deviation (in 0..1) of the images that the tower takes."""
    written = folder.read_json(IMAGES)
    lists = [written.get(name) for name in ("image_mean", "image_std")]
    if not all(isinstance(values, list) and len(values) == 3 for values in lists):
        raise ConfigError(f"{folder.path / IMAGES}: image_mean and image_std of three numbers each are needed")
    side = config.image_size_px or _side(written) or sizes.image_size
    if side < sizes.patch_size:
        raise ConfigError(f"vision.pretrained.image_size_px {side}: a patch of {folder.path} has {sizes.patch_size}")
    return side, *lists


def _side(written: Mapping[str, Any]) -> int:
    """Return the side of the square that an image processor ends with, 0 where it does not say."""
    size = written.get("crop_size") if written.get("do_center_crop") else written.get("size")
    sides = [size] if isinstance(size, int) else list((size or {}).values())
    return int(sides[0]) if sides else 0


def _class_tokens(model_type: str, sizes: Any) -> int:
    """Count the tokens before the patches."""
    if model_type.startswith("siglip"):
        return 0
    return 1 + (sizes.num_register_tokens if model_type == "dinov2_with_registers" else 0)
