"""Recipes for Lift that `armature demo --from-scratch` trains with."""

from __future__ import annotations

from pathlib import Path

from policies.diffusion import DiffusionConfig
from policies.nets.denoisers import UnetConfig
from policies.presets.arm import PIXELS, STATE
from policies.train_config import TrainConfig
from policies.training_state import OptimizerConfig

_OPTIMIZER = OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4, warmup_steps=200)
_UNET = UnetConfig(dims=(64, 128), kernel=5, step_dim=64)


def lift_pixels(dataset: Path, out: Path) -> TrainConfig:
    """Lift from two 128x128 cameras, joint positions and gripper opening."""
    method = DiffusionConfig(unet=_UNET)
    return TrainConfig(dataset, out, PIXELS, method, _OPTIMIZER, preset="lift_pixels", steps=3000)


def lift_state(dataset: Path, out: Path) -> TrainConfig:
    """Lift from simulator state: joint positions, gripper opening, poses of TCP and cube."""
    method = DiffusionConfig(unet=_UNET, noise_draws=1)
    return TrainConfig(dataset, out, STATE, method, _OPTIMIZER, preset="lift_state", steps=3000, batch_size=128)
