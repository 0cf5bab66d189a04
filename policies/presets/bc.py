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


def paper(dataset: Path, out: Path) -> TrainConfig:
    """The published size of diffusion."""
    return _regressed(diffusion.paper(dataset, out), "bc_paper")


def _regressed(config: TrainConfig, preset: str) -> TrainConfig:
    return replace(config, method=BcConfig(config.method.unet), preset=preset)
