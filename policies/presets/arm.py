"""Recipes for the simulated arms, one for each family: from simulator state, and from pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from armature.spec import CAMERA_SCENE, CAMERA_WRIST, GRIPPER_OPENING, JOINT_POSITION, OBJECT_POSE, TCP_POSE
from policies.nets.observation import VisionConfig
from policies.policy_config import PolicyConfig
from policies.train_config import TrainConfig

Recipe = Callable[[Path, Path], TrainConfig]

STATE = PolicyConfig((JOINT_POSITION, GRIPPER_OPENING, TCP_POSE, OBJECT_POSE), relative_actions=True)
PIXELS = PolicyConfig(
    (CAMERA_SCENE, CAMERA_WRIST, JOINT_POSITION, GRIPPER_OPENING),
    relative_actions=True,
    vision=VisionConfig(channels=(16, 32, 64), strides=(2, 2, 1), features=64, crop_margin_px=12),
)


NOISE_DRAWS = 4


def adapted(name: str, policy: PolicyConfig, small: Recipe) -> Recipe:
    """Make the recipe `name` out of a family's preset `small`: its method, with these observations."""

    def recipe(dataset: Path, out: Path) -> TrainConfig:
        config = replace(small(dataset, out), policy=policy, preset=name, steps=4000, validation_fraction=0.05)
        return _sparing_images(config) if CAMERA_SCENE in policy.observations else config

    return recipe


def _sparing_images(config: TrainConfig) -> TrainConfig:
    """Denoise as many chunks per step as from state, but of a quarter of the images, which cost more than chunks do."""
    if not hasattr(config.method, "noise_draws"):
        return config
    method = replace(config.method, noise_draws=NOISE_DRAWS)
    return replace(config, method=method, batch_size=config.batch_size // NOISE_DRAWS)
