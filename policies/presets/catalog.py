"""All training runs that are known to work, by name; variants are made with `dataclasses.replace`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from policies.presets import diffusion
from policies.presets.lift import lift_pixels, lift_state
from policies.presets.pusht import adapted
from policies.train_config import TrainConfig

SIZES = ("tiny", "small", "paper")
_FAMILIES = {"diffusion": diffusion}

PRESETS: dict[str, Callable[[Path, Path], TrainConfig]] = {
    **{f"{family}_{size}": getattr(module, size) for family, module in _FAMILIES.items() for size in SIZES},
    **{f"pusht_{family}": adapted(family, module.small) for family, module in _FAMILIES.items()},
    "lift_pixels": lift_pixels,
    "lift_state": lift_state,
}
"""`tiny` is for tests, `small` for training on a CPU, `paper` the published size."""
