"""EBT-Policy: sizes."""

from __future__ import annotations

from pathlib import Path

from policies.ebt import EbtConfig
from policies.nets.observation import VisionConfig
from policies.policy_config import PolicyConfig
from policies.train_config import TrainConfig
from policies.training_state import OptimizerConfig


def tiny(dataset: Path, out: Path) -> TrainConfig:
    """The smallest training that goes through every part: for tests."""
    policy = PolicyConfig(chunk_steps=8, vision=VisionConfig((4, 8), (2, 2), features=8, crop_margin_px=4))
    method = EbtConfig(
        **{"width": 16, "layers": 1, "observation_layers": 1, "heads": 2, "dropout": 0.0, "step_size": 50.0},
        **{"train_steps": 1, "train_steps_extra": 1},
    )
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=5)
    sizes = {"steps": 20, "batch_size": 8, "validation_fraction": 0.25}
    return TrainConfig(dataset, out, policy, method, optimizer, preset="ebt_tiny", **sizes)


def small(dataset: Path, out: Path) -> TrainConfig:
    """Training on a CPU within the hour, from state."""
    policy = PolicyConfig(obs_steps=2)
    method = EbtConfig(
        **{"width": 64, "layers": 2, "observation_layers": 2, "dropout": 0.0, "step_size": 100.0},
        # With one step size: of drawn ones the network, which does not see them, learns a mean that fits none of them.
        **{"train_steps": 2, "train_steps_extra": 0, "step_size_spread": 1.0},
    )
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=200)
    return TrainConfig(dataset, out, policy, method, optimizer, preset="ebt_small", steps=20_000, batch_size=64)


def paper(dataset: Path, out: Path) -> TrainConfig:
    """EBT-Policy-S as released: 8.6 M parameters beside the image networks, 6 to 10 steps in training, 2 in use.

    Only the colours of images are not jittered.

    Each camera (84 px, of which a window of 76 is seen) has a ResNet-18 of 32 key points and 64 features: with two of
    them 31 M.
    """
    vision = VisionConfig(network="resnet18", key_points=32, features=64, crop_margin_px=8)
    optimizer = OptimizerConfig(learning_rate=1e-4, betas=(0.9, 0.999), warmup_steps=500)
    sizes = {"steps": 900_000, "batch_size": 64}
    policy = PolicyConfig(obs_steps=2, vision=vision)
    return TrainConfig(dataset, out, policy, EbtConfig(), optimizer, preset="ebt_paper", **sizes)
