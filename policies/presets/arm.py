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


def adapted(name: str, policy: PolicyConfig, small: Recipe) -> Recipe:
    """Make the recipe `name` out of a family's preset `small`: its method, with these observations."""

    def recipe(dataset: Path, out: Path) -> TrainConfig:
        config = replace(small(dataset, out), policy=policy, preset=name, steps=4000, validation_fraction=0.05)
        return _sparing_images(config) if policy is PIXELS else config

    return recipe


def _sparing_images(config: TrainConfig) -> TrainConfig:
    """Look at 32 observations per step, and denoise four chunks of each: images cost more than chunks do.

    bc and ebt, which draw no noise to denoise, see as many observations as the others.
    """
    draws = {"noise_draws": 4} if hasattr(config.method, "noise_draws") else {}
    return replace(config, batch_size=32, method=replace(config.method, **draws))
