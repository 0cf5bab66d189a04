"""Behaviour cloning: the sizes of diffusion, of which it has the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from policies.bc import BcConfig
from policies.presets import diffusion
from policies.train_config import TrainConfig


def tiny(dataset: Path, out: Path) -> TrainConfig:
    """The smallest training that goes through every part: for tests."""
    return _regressed(diffusion.tiny(dataset, out), "bc_tiny")


def small(dataset: Path, out: Path) -> TrainConfig:
    """Training on two cores within the hour, from state."""
    return _regressed(diffusion.small(dataset, out), "bc_small")


def attentive(dataset: Path, out: Path) -> TrainConfig:
    """`small`, with the network of diffusion's `attentive`."""
    return _regressed(diffusion.attentive(dataset, out), "bc_small")


def paper(dataset: Path, out: Path) -> TrainConfig:
    """The published size of diffusion."""
    return _regressed(diffusion.paper(dataset, out), "bc_paper")


def _regressed(config: TrainConfig, preset: str) -> TrainConfig:
    method = BcConfig(config.method.denoiser, config.method.unet, config.method.transformer)
    return replace(config, method=method, preset=preset)
