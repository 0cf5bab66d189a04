"""H-RDT: sizes."""

from __future__ import annotations

from pathlib import Path

from policies.hrdt import HrdtConfig
from policies.language import TextConfig
from policies.nets.observation import VisionConfig
from policies.nets.pretrained_vision import PretrainedVision
from policies.policy_config import PolicyConfig
from policies.train_config import TrainConfig
from policies.training_state import OptimizerConfig


def tiny(dataset: Path, out: Path) -> TrainConfig:
    """The smallest training that goes through every part: for tests."""
    policy = PolicyConfig(chunk_steps=8, vision=VisionConfig((4, 8), (2, 2), features=8, crop_margin_px=4))
    method = HrdtConfig(width=32, layers=2, heads=4, kv_heads=2, hidden=64, sampling_steps=4)
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=5)
    sizes = {"steps": 20, "batch_size": 8, "validation_fraction": 0.25}
    return TrainConfig(dataset, out, policy, method, optimizer, preset="hrdt_tiny", **sizes)


def small(dataset: Path, out: Path) -> TrainConfig:
    """Training on a CPU within the hour."""
    policy = PolicyConfig(obs_steps=2)
    method = HrdtConfig(width=128, layers=4, heads=4, kv_heads=2, hidden=384)
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=200)
    return TrainConfig(dataset, out, policy, method, optimizer, preset="hrdt_small", steps=6_000, batch_size=128)


def paper(dataset: Path, out: Path) -> TrainConfig:
    """The published size, and the optimiser of the released pretraining; its rate stays constant and has no average.

    Here the rate falls to zero and the average is deployed, as for every family, and colours are not jittered. Frozen
    DINOv2 and SigLIP see letterboxed squares of 384 px, their second-to-last tokens side by side; frozen T5 embeds the
    prompt.
    """
    folders = ("dinov2-with-registers-large", "siglip-so400m-patch14-384")
    pretrained = PretrainedVision(folders, layer=-2, image_size_px=384)
    vision = VisionConfig(network="pretrained", pooling="tokens", crop_margin_px=0, pretrained=pretrained)
    text = TextConfig("t5-v1_1-xxl", max_tokens=1024)
    policy = PolicyConfig(obs_steps=1, chunk_steps=16, vision=vision, text=text)
    optimizer = OptimizerConfig(learning_rate=1e-4, weight_decay=1e-2, betas=(0.9, 0.999), warmup_steps=500)
    sizes = {"steps": 500_000, "batch_size": 256}
    return TrainConfig(dataset, out, policy, HrdtConfig(), optimizer, preset="hrdt_paper", **sizes)
