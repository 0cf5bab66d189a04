"""Score-based policy: sizes. Give it goals with `--policy.goal-steps 2`, as the published one has them."""

from __future__ import annotations

from pathlib import Path

from policies.edm import EdmConfig
from policies.nets.observation import VisionConfig
from policies.policy_config import PolicyConfig
from policies.score import ScoreConfig
from policies.train_config import TrainConfig
from policies.training_state import OptimizerConfig


def tiny(dataset: Path, out: Path) -> TrainConfig:
    """The smallest training that goes through every part: for tests."""
    policy = PolicyConfig(chunk_steps=8, vision=VisionConfig((4, 8), (2, 2), features=8, crop_margin_px=4))
    method = ScoreConfig(width=32, layers=2, heads=2, attention_dropout=0.0)
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=5)
    sizes = {"steps": 20, "batch_size": 8, "validation_fraction": 0.25}
    return TrainConfig(dataset, out, policy, method, optimizer, preset="score_tiny", **sizes)


def small(dataset: Path, out: Path) -> TrainConfig:
    """Training on a CPU within the hour."""
    policy = PolicyConfig(obs_steps=2)
    method = ScoreConfig(width=128, layers=4, heads=4, attention_dropout=0.1)
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=200)
    return TrainConfig(dataset, out, policy, method, optimizer, preset="score_small", steps=8000, batch_size=128)


def paper(dataset: Path, out: Path) -> TrainConfig:
    """The published size, sampler and schedule (Reuss et al. 2023, Franka kitchen); without goals unless given."""
    policy = PolicyConfig(obs_steps=2)
    edm = EdmConfig(sampler="euler_ancestral", schedule="linear")
    method = ScoreConfig(causal=True, guidance=1.5, edm=edm)
    optimizer = OptimizerConfig(learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=0.01, warmup_steps=0)
    return TrainConfig(dataset, out, policy, method, optimizer, preset="score_paper", steps=40_000, batch_size=1024)
