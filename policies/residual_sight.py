"""What a residual sees of cameras, and what makes features of it: settings that learner and folder share. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from armature.errors import ConfigError

IMAGE_PX_MIN = 16


@dataclass(frozen=True)
class EncoderConfig:
    """The network of each camera, which learns from the critics' loss alone."""

    channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the convolutions; the last count is also that of the spatial-softmax key points."""
    strides: tuple[int, ...] = (4, 2, 1)
    features: int = 32
    """What a camera becomes, each between -1 and 1."""
    shift_px: int = 3
    """Learning moves every image by up to so many pixels, acting by none; DrQ-v2 has 4 of 84."""
    lr: float = 3e-4
    grad_norm_max: float = 1.0

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        if not self.channels or len(self.channels) != len(self.strides):
            raise ConfigError(f"encoder: {len(self.channels)} channels, but {len(self.strides)} strides")
        if self.features < 1 or self.shift_px < 0:
            raise ConfigError(f"encoder.features {self.features}, shift_px {self.shift_px}: must be >= 1 and >= 0")
        for name in ("lr", "grad_norm_max"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"encoder.{name} is {getattr(self, name)}, must be above 0")


@dataclass(frozen=True)
class Sight:
    """Which cameras, how large, and what makes features of them."""

    cameras: tuple[str, ...]
    image_px: int = 64
    """Edge of the square images [px]."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"cameras are {', '.join(self.cameras) or 'none'}: name at least one, each once")
        if self.image_px < IMAGE_PX_MIN or self.encoder.shift_px > self.image_px // 4:
            limits = f"at least {IMAGE_PX_MIN} and four times encoder.shift_px, {self.encoder.shift_px}"
            raise ConfigError(f"image_px is {self.image_px}, must be {limits}")

    @property
    def frame_shape(self) -> tuple[int, int, int, int]:
        """Return the shape of what all cameras show at one moment, uint8."""
        return len(self.cameras), self.image_px, self.image_px, 3

    @property
    def features(self) -> int:
        """Return how many features all cameras become."""
        return len(self.cameras) * self.encoder.features
