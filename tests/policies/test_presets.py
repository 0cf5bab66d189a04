"""Presets are known by their own names, and the recipes for Push-T fit its robot."""

from __future__ import annotations

from pathlib import Path

import pytest

from armature.spec import AGENT_POSITION, JOINT_POSITION
from policies.policy_config import RelativePart, relative_part
from policies.presets.catalog import PRESETS
from policies.registry import METHODS, family_of
from sim.tasks import SimConfig, robot_spec


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_its_own_name(name):
    config = PRESETS[name](Path("dataset"), Path("out"))
    assert (config.preset, config.dataset, config.out) == (name, Path("dataset"), Path("out"))


@pytest.mark.parametrize("family", METHODS)
def test_every_family_has_a_recipe_for_push_t(family):
    config = PRESETS[f"pusht_{family}"](Path("dataset"), Path("out"))
    assert family_of(config.method) == family
    spec = config.policy.seen(robot_spec(SimConfig("pusht")))
    assert [array.shape for array in spec.observation] == [(2,), (18,)]
    assert relative_part(config.policy, spec) == RelativePart(AGENT_POSITION, slice(0, 2))
    assert (config.policy.obs_steps, config.policy.chunk_steps, config.validation_fraction) == (2, 16, 0.1)


@pytest.mark.parametrize("family", METHODS)
@pytest.mark.parametrize(("seen", "world"), [("state", SimConfig(cameras=False)), ("pixels", SimConfig())])
def test_every_family_has_a_recipe_for_the_arms(family, seen, world):
    config = PRESETS[f"arm_{seen}_{family}"](Path("dataset"), Path("out"))
    assert family_of(config.method) == family
    spec = config.policy.seen(robot_spec(world))
    assert bool(spec.observation.images) == (seen == "pixels")
    assert relative_part(config.policy, spec) == RelativePart(JOINT_POSITION, slice(0, 7))


@pytest.mark.parametrize("family", ["diffusion", "score", "mode", "hrdt"])
def test_from_pixels_as_many_chunks_are_denoised_of_fewer_images(family):
    state, pixels = (PRESETS[f"arm_{seen}_{family}"](Path("dataset"), Path("out")) for seen in ("state", "pixels"))
    assert (state.batch_size, state.method.noise_draws) == (128, 1)
    assert (pixels.batch_size, pixels.method.noise_draws) == (32, 4)


@pytest.mark.parametrize("family", METHODS)
def test_from_pixels_all_families_see_as_many_images(family):
    assert PRESETS[f"arm_pixels_{family}"](Path("dataset"), Path("out")).batch_size == 32
