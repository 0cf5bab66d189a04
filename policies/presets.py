"""Training runs that are known to work, as plain functions; variants are made with `dataclasses.replace`."""

from __future__ import annotations

from pathlib import Path

from armature.spec import CAMERA_SCENE, CAMERA_WRIST, GRIPPER_OPENING, JOINT_POSITION, OBJECT_POSE, TCP_POSE
from policies.diffusion import DiffusionConfig, TransformerConfig, UnetConfig
from policies.nets.observation import VisionConfig
from policies.train_config import TrainConfig
from policies.training_state import OptimizerConfig


def lift_pixels(dataset: Path, out: Path) -> TrainConfig:
    """Lift from two 128x128 cameras, joint positions and gripper opening."""
    policy = DiffusionConfig(
        observations=(CAMERA_SCENE, CAMERA_WRIST, JOINT_POSITION, GRIPPER_OPENING),
        relative_actions=True,
        unet=UnetConfig(dims=(64, 128), kernel=5, step_dim=64),
        vision=VisionConfig(channels=(16, 32, 64), strides=(2, 2, 1), features=64, crop_margin_px=12),
    )
    optimizer = OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4, warmup_steps=200)
    return TrainConfig(dataset, out, policy, optimizer, preset="lift_pixels", steps=3000)


def lift_state(dataset: Path, out: Path) -> TrainConfig:
    """Lift from simulator state: joint positions, gripper opening, poses of TCP and cube."""
    policy = DiffusionConfig(
        observations=(JOINT_POSITION, GRIPPER_OPENING, TCP_POSE, OBJECT_POSE),
        relative_actions=True,
        noise_draws=1,
        unet=UnetConfig(dims=(64, 128), kernel=5, step_dim=64),
    )
    optimizer = OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4, warmup_steps=200)
    return TrainConfig(dataset, out, policy, optimizer, preset="lift_state", steps=3000, batch_size=128)


def tiny(dataset: Path, out: Path) -> TrainConfig:
    """The smallest training that goes through every part: for tests."""
    policy = DiffusionConfig(
        chunk_steps=8,
        sampling_steps=4,
        unet=UnetConfig(dims=(16, 32), kernel=3, groups=4, step_dim=16),
        transformer=TransformerConfig(width=16, layers=1, heads=2),
        vision=VisionConfig(channels=(4, 8), strides=(2, 2), features=8, crop_margin_px=4),
    )
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=5)
    return TrainConfig(dataset, out, policy, optimizer, preset="tiny", steps=20, batch_size=8, validation_fraction=0.25)


PRESETS = {"lift_pixels": lift_pixels, "lift_state": lift_state, "tiny": tiny}
