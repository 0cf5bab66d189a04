"""MoDE: sizes."""

from __future__ import annotations

from pathlib import Path

from policies.language import TextConfig
from policies.mode import ModeConfig
from policies.nets.observation import VisionConfig
from policies.policy_config import PolicyConfig
from policies.train_config import TrainConfig
from policies.training_state import OptimizerConfig


def tiny(dataset: Path, out: Path) -> TrainConfig:
    """The smallest training that goes through every part: for tests."""
    policy = PolicyConfig(chunk_steps=8, vision=VisionConfig((4, 8), (2, 2), features=8, crop_margin_px=4))
    dropout = {"attention_dropout": 0.0, "expert_dropout": 0.0}
    method = ModeConfig(width=32, layers=1, heads=2, noise_draws=4, sampling_steps=5, **dropout)
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=5)
    sizes = {"steps": 20, "batch_size": 8, "validation_fraction": 0.25}
    return TrainConfig(dataset, out, policy, method, optimizer, preset="mode_tiny", **sizes)


def small(dataset: Path, out: Path) -> TrainConfig:
    """Training on a CPU within the hour."""
    policy = PolicyConfig(obs_steps=2)
    method = ModeConfig(width=96, layers=3, heads=4, attention_dropout=0.1, sampling_steps=5)
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=200)
    return TrainConfig(dataset, out, policy, method, optimizer, preset="mode_small", steps=6000, batch_size=128)


def paper(dataset: Path, out: Path) -> TrainConfig:
    """The published pretrained size, rates and average of the weights (Reuss et al. 2024, table 3).

    Each camera (224 px, shifted by up to 10) has a ResNet-50 modulated by the prompt, which CLIP ViT-B/32 embeds as one
    token; the paper's ResNets begin with weights of ImageNet and batch normalisation. The rate rises, then falls by a
    half cosine; the released one rises for 2 % of the steps, stays for 8 % and decays.
    """
    vision = VisionConfig(network="resnet50", pooling="average", film=True, crop_margin_px=20)
    text = TextConfig("clip-vit-base-patch32", max_tokens=77, pooled=True)
    policy = PolicyConfig(chunk_steps=10, vision=vision, text=text)
    method = ModeConfig(causal=True)
    optimizer = OptimizerConfig(learning_rate=1e-4, betas=(0.9, 0.95), weight_decay=0.1, warmup_steps=6000,
                                ema_power=2 / 3, ema_max=0.9999)  # fmt: skip
    return TrainConfig(dataset, out, policy, method, optimizer, preset="mode_paper", steps=300_000, batch_size=512)
