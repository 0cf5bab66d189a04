"""Recipes for Lift that `armature demo --from-scratch` trains with."""

from __future__ import annotations

from pathlib import Path

from armature.spec import CAMERA_SCENE, CAMERA_WRIST, GRIPPER_OPENING, JOINT_POSITION, OBJECT_POSE, TCP_POSE
from policies.diffusion import DiffusionConfig
from policies.nets.denoisers import UnetConfig
from policies.nets.observation import VisionConfig
from policies.policy_config import PolicyConfig
from policies.train_config import TrainConfig
from policies.training_state import OptimizerConfig

_OPTIMIZER = OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4, warmup_steps=200)
_UNET = UnetConfig(dims=(64, 128), kernel=5, step_dim=64)


def lift_pixels(dataset: Path, out: Path) -> TrainConfig:
    """Lift from two 128x128 cameras, joint positions and gripper opening."""
    policy = PolicyConfig(
        observations=(CAMERA_SCENE, CAMERA_WRIST, JOINT_POSITION, GRIPPER_OPENING),
        relative_actions=True,
        vision=VisionConfig(channels=(16, 32, 64), strides=(2, 2, 1), features=64, crop_margin_px=12),
    )
    method = DiffusionConfig(unet=_UNET)
    return TrainConfig(dataset, out, policy, method, _OPTIMIZER, preset="lift_pixels", steps=3000)


def lift_state(dataset: Path, out: Path) -> TrainConfig:
    """Lift from simulator state: joint positions, gripper opening, poses of TCP and cube."""
    observations = (JOINT_POSITION, GRIPPER_OPENING, TCP_POSE, OBJECT_POSE)
    policy = PolicyConfig(observations=observations, relative_actions=True)
    method = DiffusionConfig(unet=_UNET, noise_draws=1)
    return TrainConfig(dataset, out, policy, method, _OPTIMIZER, preset="lift_state", steps=3000, batch_size=128)
