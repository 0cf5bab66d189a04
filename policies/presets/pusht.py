"""Recipes for Push-T from the human demonstrations, one for each family: what `benchmarks/pusht.py` trains with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from armature.spec import AGENT_POSITION, OBJECT_KEYPOINTS
from policies.policy_config import PolicyConfig
from policies.train_config import TrainConfig

Recipe = Callable[[Path, Path], TrainConfig]

# As published (Chi et al. 2023, appendix): two steps of keypoints and finger, chunks of 16 targets. Theirs are
# absolute, these relative to the finger.
_SEEN = PolicyConfig((AGENT_POSITION, OBJECT_KEYPOINTS), obs_steps=2, chunk_steps=16, relative_actions=True)


def adapted(family: str, small: Recipe) -> Recipe:
    """Make the recipe of a family out of its preset `small`."""

    def recipe(dataset: Path, out: Path) -> TrainConfig:
        config = small(dataset, out)
        return replace(config, policy=_SEEN, preset=f"pusht_{family}", validation_fraction=0.1)

    return recipe
