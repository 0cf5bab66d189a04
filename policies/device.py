"""Where and how networks compute, refused where it cannot be before anything is learned."""

from __future__ import annotations

import os
import shutil

import torch

from armature.errors import ConfigError


def require_device(device: str) -> None:
    """Raise ConfigError where torch does not see the device."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}': torch sees no CUDA device here. Valid: cpu")


def require_compiler() -> None:
    """Raise ConfigError where torch.compile would find no C++ compiler for a CPU."""
    names = [os.environ.get("CXX", "g++"), "g++", "clang++"]
    if not any(map(shutil.which, names)):
        raise ConfigError("compiled: there is no C++ compiler here (g++ or clang++, or what CXX names)")
