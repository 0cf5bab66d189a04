"""Diffusion policy with a U-Net: sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from policies.diffusion import DiffusionConfig
from policies.nets.denoisers import DitConfig, TransformerConfig, UnetConfig
from policies.nets.observation import VisionConfig
from policies.policy_config import PolicyConfig
from policies.train_config import TrainConfig
from policies.training_state import OptimizerConfig


def tiny(dataset: Path, out: Path) -> TrainConfig:
    """The smallest training that goes through every part: for tests."""
    policy = PolicyConfig(chunk_steps=8, vision=VisionConfig((4, 8), (2, 2), features=8, crop_margin_px=4))
    method = DiffusionConfig(
        sampling_steps=4,
        unet=UnetConfig(dims=(16, 32), kernel=3, groups=4, step_dim=16),
        transformer=TransformerConfig(width=16, layers=1, heads=2),
        dit=DitConfig(width=16, layers=1, heads=2, step_dim=16),
    )
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=5)
    sizes = {"steps": 20, "batch_size": 8, "validation_fraction": 0.25}
    return TrainConfig(dataset, out, policy, method, optimizer, preset="diffusion_tiny", **sizes)


def small(dataset: Path, out: Path) -> TrainConfig:
    """Training on two cores within the hour, from state."""
    policy = PolicyConfig(obs_steps=2)
    method = DiffusionConfig(unet=UnetConfig(dims=(64, 128)), noise_draws=1)
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=200)
    return TrainConfig(dataset, out, policy, method, optimizer, preset="diffusion_small", steps=9000, batch_size=128)


def attentive(dataset: Path, out: Path) -> TrainConfig:
    """`small`, but actions attend to the observation: on Can the U-Net, which that only scales and shifts, had 78 %."""
    config = small(dataset, out)
    network = TransformerConfig(width=128, layers=4, heads=4, dropout=0.0)
    return replace(config, method=replace(config.method, denoiser="transformer", transformer=network))


def paper(dataset: Path, out: Path) -> TrainConfig:
    """The published size and schedule (Chi et al. 2023, state-based Push-T).

    Unlike there the 100 steps are those of DDIM, which draw nothing, and gradients are clipped, as in every family.
    """
    policy = PolicyConfig(obs_steps=2)
    method = DiffusionConfig(unet=UnetConfig(dims=(256, 512, 1024), step_dim=256), sampling_steps=100, noise_draws=1)
    optimizer = OptimizerConfig(learning_rate=1e-4, warmup_steps=500, ema_max=0.9999)
    return TrainConfig(dataset, out, policy, method, optimizer, preset="diffusion_paper", steps=100_000, batch_size=256)
