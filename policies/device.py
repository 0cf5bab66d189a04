"""Where networks compute."""

from __future__ import annotations

import torch

from armature.errors import ConfigError


def require_device(device: str) -> None:
    """Raise ConfigError where torch does not see the device."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}': torch sees no CUDA device here. Valid: cpu")
