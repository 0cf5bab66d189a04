"""Where and how networks compute, refused where it cannot be before anything is learned."""

from __future__ import annotations

import os
import shutil

import torch

from armature.errors import ConfigError, unknown


def require_device(device: str) -> None:
    """Raise ConfigError where torch does not see the device: cpu, cuda, or cuda and a number."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda") and not count:
        raise ConfigError(f"device '{device}': torch sees no CUDA device here. Valid: cpu")
    valid = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if device not in valid:
        raise ConfigError(unknown("device", device, valid))


def compute_in_float32() -> None:
    """Have convolutions on a GPU compute in float32, as all else does.

    torch would let them round what they are given to 10 bits (TF32): joint targets of an untrained policy then differ
    by up to 0.0025 rad from those of a CPU.
    """
    torch.backends.cudnn.allow_tf32 = False


def compiler() -> str | None:
    """Return where the C++ compiler is that torch.compile takes for a CPU; None without one."""
    return shutil.which(os.environ.get("CXX", "g++"))


def require_compiler() -> None:
    """Raise ConfigError where there is none."""
    if compiler() is None:
        wanted = os.environ.get("CXX", "g++")
        raise ConfigError(f"compiled: the C++ compiler {wanted} is not there; install it, or name another by CXX")
