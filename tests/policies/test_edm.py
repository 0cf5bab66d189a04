from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from armature.errors import ConfigError, InvalidValue
from policies.edm import (
    SAMPLERS,
    EdmConfig,
    ancestral_split,
    draw_sigmas,
    noised,
    sample,
    scalings,
    sigmas,
)

KITCHEN = EdmConfig(sigma_min=0.005, sigma_max=1.0)
WIDE = EdmConfig(sigma_min=0.001, sigma_max=80.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (replace(KITCHEN, schedule="linear"), [1.0, 0.5025, 0.005, 0.0]),
        (KITCHEN, [1.0, 0.070711, 0.005, 0.0]),
        (EdmConfig(sigma_min=0.1, schedule="linear"), [1.0, 0.55, 0.1, 0.0]),
        (WIDE, [80.0, 0.282843, 0.001, 0.0]),
        (replace(WIDE, first_sigma=5.0, last_sigma=0.05), [5.0, 0.5, 0.05, 0.0]),
        (replace(KITCHEN, last_sigma=0.1), [1.0, 0.316228, 0.1, 0.0]),
        # ((80^(1/7) + 0.002^(1/7)) / 2)^7 with the values of Karras et al., equation 5.
        (EdmConfig(sigma_min=0.002, sigma_max=80.0, schedule="karras", rho=7.0), [80.0, 2.5152, 0.002, 0.0]),
    ],
)
def test_schedules_have_the_known_values(config, expected):
    assert sigmas(config, 3) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("schedule", ["exponential", "linear", "karras"])
def test_one_step_goes_from_the_highest_level_to_zero(schedule):
    assert sigmas(replace(KITCHEN, schedule=schedule), 1) == pytest.approx([1.0, 0.0])


def test_where_sampling_begins_and_ends_changes_no_training():
    few = replace(WIDE, first_sigma=5.0, last_sigma=0.05)
    assert torch.equal(draw_sigmas(100, few, generator(1)), draw_sigmas(100, WIDE, generator(1)))


def test_scalings_have_the_known_values():
    # At sigma 1 and sigma_data 0.5: 0.25 / 1.25, 0.5 / sqrt(1.25), 1 / sqrt(1.25).
    assert scalings(1.0, 0.5) == pytest.approx((0.2, 0.447214, 0.894427), abs=1e-6)
    assert scalings(1e-4, 0.5) == pytest.approx((1.0, 1e-4, 2.0), abs=1e-6)
    of_tensor = scalings(torch.tensor([1.0, 2.0]), 0.5)
    assert [value[0].item() for value in of_tensor] == pytest.approx(scalings(1.0, 0.5))


def test_network_inputs_and_targets_have_unit_variance_at_every_level():
    actions = 0.5 * torch.randn(20_000, 1, 2, generator=generator())
    for low in (0.002, 0.5, 40.0):
        batch = noised(actions, EdmConfig(sigma_min=low, sigma_max=low * 1.001), generator(1))
        assert batch.inputs.std().item() == pytest.approx(1.0, rel=0.02)
        assert batch.targets.std().item() == pytest.approx(1.0, rel=0.02)
        torch.testing.assert_close(batch.levels, torch.full((20_000,), math.log(low) / 4), rtol=0, atol=1e-3)


def test_an_exact_answer_of_the_network_gives_back_the_actions():
    actions = torch.rand(64, 3, 2, generator=generator()) * 2 - 1
    batch = noised(actions, WIDE, generator(1))
    sigma = (4 * batch.levels).exp()[:, None, None]
    skip, out, into = scalings(sigma, 0.5)
    torch.testing.assert_close(skip * batch.inputs / into + out * batch.targets, actions, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [KITCHEN, WIDE])
def test_levels_are_log_logistic_within_their_bounds(config):
    drawn = draw_sigmas(40_000, config, generator()).double().numpy()
    assert config.sigma_min <= drawn.min()
    assert drawn.max() <= config.sigma_max * (1 + 1e-6)

    def share_below(sigma):  # of log-logistic draws with median 0.5 and scale 0.5: 1 / (1 + (0.5 / sigma)^2)
        return 1 / (1 + (0.5 / sigma) ** 2)

    low, high = share_below(config.sigma_min), share_below(config.sigma_max)
    for sigma in (0.05, 0.2, 0.5, 0.9):
        expected = (share_below(sigma) - low) / (high - low)
        assert np.mean(drawn < sigma) == pytest.approx(expected, abs=0.01)


def test_levels_come_from_the_generator_alone():
    torch.manual_seed(0)
    first = draw_sigmas(5, WIDE, generator(3))
    torch.manual_seed(1)
    assert torch.equal(first, draw_sigmas(5, WIDE, generator(3)))
    assert not torch.equal(first, draw_sigmas(5, WIDE, generator(4)))


def test_ancestral_steps_split_the_level():
    # From 1 to 0.5: up^2 = 0.25 * 0.75, down^2 = 0.25 * 0.25.
    assert ancestral_split(1.0, 0.5) == pytest.approx((0.25, 0.433013), abs=1e-6)
    assert ancestral_split(0.5, 0.0) == (0.0, 0.0)


def gaussian_denoiser(mean, deviation, levels):
    """Return E[a | x] of actions that are normal with `mean` and `deviation`."""
    return lambda x, step: (deviation**2 * x + levels[step] ** 2 * mean) / (deviation**2 + levels[step] ** 2)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_single_possible_chunk_is_found_at_once(sampler, steps):
    chunk = torch.linspace(-1, 1, 6).reshape(1, 3, 2)
    noise = torch.randn(5, 3, 2, generator=generator())
    found = sample(lambda x, step: chunk.expand_as(x), noise, sigmas(WIDE, steps), sampler, generator())
    torch.testing.assert_close(found, chunk.expand_as(noise))


@pytest.mark.parametrize(("sampler", "steps", "tolerance"), [("ddim", 400, 0.01), ("heun", 60, 0.01)])
def test_deterministic_samplers_follow_the_exact_solution(sampler, steps, tolerance):
    """The probability flow of normal actions keeps (x - mean) / sqrt(deviation^2 + sigma^2)."""
    mean, deviation = 0.3, 0.2
    levels = sigmas(WIDE, steps)
    noise = torch.randn(500, 4, 2, generator=generator(), dtype=torch.float64)
    found = sample(gaussian_denoiser(mean, deviation, levels), noise, levels, sampler)
    exact = mean + (80.0 * noise - mean) * deviation / math.hypot(deviation, 80.0)
    torch.testing.assert_close(found, exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 2)])
def test_twice_the_steps_make_the_error_smaller_by_the_order_of_the_sampler(sampler, order):
    noise = torch.randn(200, 1, 1, generator=generator(), dtype=torch.float64)
    exact = 0.3 + (80.0 * noise - 0.3) * math.hypot(0.2, 0.001) / math.hypot(0.2, 80.0)
    errors = []
    for steps in (100, 199):
        levels = sigmas(WIDE, steps)[:-1]
        found = sample(gaussian_denoiser(0.3, 0.2, levels), noise, levels, sampler)
        errors.append((found - exact).abs().mean().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def test_the_stochastic_sampler_recovers_the_distribution():
    levels = sigmas(WIDE, 400)
    noise = torch.randn(4000, 1, 2, generator=generator())
    found = sample(gaussian_denoiser(0.3, 0.2, levels), noise, levels, "euler_ancestral", generator(1))
    assert found.mean().item() == pytest.approx(0.3, abs=0.01)
    assert found.std().item() == pytest.approx(0.2, rel=0.05)


def test_a_sampler_calls_the_network_as_often_as_it_says():
    for sampler, count in {"ddim": 3, "euler_ancestral": 3, "heun": 5}.items():
        calls = []
        levels = sigmas(KITCHEN, 3)

        def denoise(x, step, calls=calls):
            calls.append(step)
            return x * 0

        sample(denoise, torch.ones(1, 1, 1), levels, sampler, generator())
        assert len(calls) == count
        assert set(calls) == {0, 1, 2}


def test_only_the_ancestral_sampler_draws_and_from_its_generator_only():
    noise = torch.randn(3, 2, 2, generator=generator())
    levels = sigmas(KITCHEN, 3)
    denoise = gaussian_denoiser(0.0, 0.5, levels)

    def run(sampler, seed, of_torch):
        torch.manual_seed(of_torch)
        return sample(denoise, noise, levels, sampler, generator(seed))

    for sampler in SAMPLERS:
        assert torch.equal(run(sampler, 0, 0), run(sampler, 0, 1))
        assert torch.equal(run(sampler, 0, 0), run(sampler, 1, 0)) == (sampler != "euler_ancestral")
    with pytest.raises(InvalidValue, match="euler_ancestral draws noise: it needs a generator"):
        sample(denoise, noise, levels, "euler_ancestral")


@pytest.mark.parametrize(
    ("message", "changes"),
    {
        "sigma_min is 0": {"sigma_min": 0.0},
        "sigma_data is -1": {"sigma_data": -1.0},
        "sigma_max is 0.001, must be above sigma_min 0.005": {"sigma_max": 0.001},
        "sigma_max 1.0 >= first_sigma 1.1 > last_sigma 0.005 >= sigma_min 0.005": {"first_sigma": 1.1},
        "first_sigma 1.0 > last_sigma 0.001 >= sigma_min 0.005": {"last_sigma": 0.001},
        "first_sigma 0.1 > last_sigma 0.5": {"first_sigma": 0.1, "last_sigma": 0.5},
        "last_sigma nan": {"last_sigma": float("nan")},
        "unknown sampler 'eular'": {"sampler": "eular"},
        "unknown schedule 'cosine'": {"schedule": "cosine"},
    }.items(),
)
def test_wrong_configs_are_refused(message, changes):
    with pytest.raises(ConfigError, match=message):
        EdmConfig(**changes)
