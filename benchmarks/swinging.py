"""A policy that keeps an arm in motion: it swings in circles in joint space, learned from swings of that kind.

Benchmarks of the control path need an arm that moves whenever they look, without a task that ends.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from armature.spec import GRIPPER_OPENING, JOINT_POSITION, RobotSpec
from armature_ros.config_files import config_folder
from data_collection.store import create_dataset
from policies.presets.catalog import PRESETS
from policies.train import train

START = np.array([0.0, -0.7854, 0.0, -2.3562, 0.0, 1.5708, 0.7854, 0.04])
# Each joint at another phase, so that the arm never rests and where it is tells where it goes; last the gripper [m].
SWING_RAD = np.array([0.25, 0.12, 0.12, 0.25, 0.12, 0.12, 0.12, 0.01])
PHASE_RAD = np.arange(8) * np.pi / 2
PERIOD_S = 6.0
EPISODES, TICKS = 6, 240
STEPS = 600


def fer_spec() -> RobotSpec:
    """Return the contract of the real Franka arm."""
    return RobotSpec.from_json(json.loads((config_folder() / "robots" / "fer.json").read_text()))


def swinging_policy(folder: Path) -> Path:
    """Return a checkpoint of the policy, trained on the first call: about a minute."""
    checkpoint = folder / "training" / "checkpoint"
    if checkpoint.exists():
        return checkpoint
    config = PRESETS["bc_tiny"](_dataset(folder / "swings"), folder / "training")
    seen = replace(config.policy, observations=(JOINT_POSITION, GRIPPER_OPENING), obs_steps=2, chunk_steps=16,
                   relative_actions=True, vector_noise=0.02)  # fmt: skip
    return train(replace(config, policy=seen, steps=STEPS, batch_size=64, threads=1, validate_every_steps=STEPS))


def _dataset(path: Path) -> Path:
    spec, rng = fer_spec(), np.random.default_rng(0)
    seen = RobotSpec(spec.name, spec.observation.select((JOINT_POSITION, GRIPPER_OPENING)), spec.action)
    with create_dataset(path, seen, "swing").writer() as writer:
        for _ in range(EPISODES):
            angle = 2 * np.pi * np.arange(TICKS + 1)[:, None] / spec.action.rate_hz / PERIOD_S + rng.uniform(
                0, 2 * np.pi
            )
            arm = START + SWING_RAD * rng.uniform(0.7, 1.3) * np.sin(angle + PHASE_RAD)
            stamps = np.arange(TICKS, dtype=np.int64) * spec.action.period_ns
            episode = writer.begin({})
            parts = spec.action.split(arm[:-1].astype(np.float32))
            for stream, data in {**parts, "action/executed": arm[1:], "action/requested": arm[1:]}.items():
                episode.append(stream, stamps, stamps, data)
            episode.end({"seed": 0, "success": True})
    return path
