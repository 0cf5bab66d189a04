from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from armature.errors import ConfigError, InvalidValue
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from armature.testing import check_policy
from policies.context import Context, ContextSpec
from policies.diffusion import Diffusion, DiffusionConfig, begin, prediction_target, schedulers
from policies.nets.denoisers import DitConfig, MlpConfig, TransformerConfig, UnetConfig
from policies.training_state import OptimizerConfig, TrainingState

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)
SMALL = DiffusionConfig(unet=UnetConfig(dims=(8,), groups=4, step_dim=8))

every_prediction = pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
every_sampler = pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++"])
every_spacing = pytest.mark.parametrize("spacing", ["leading", "trailing"])


@pytest.mark.parametrize("denoiser", ["transformer", "dit", "mlp"])
@pytest.mark.parametrize("obs_steps", [1, 3])
def test_every_denoiser_keeps_the_policy_protocol(new_policy, denoiser, obs_steps):
    check_policy(new_policy(method={"denoiser": denoiser}, obs_steps=obs_steps))


@pytest.mark.parametrize("denoiser", ["transformer", "dit", "mlp"])
def test_every_weight_of_every_denoiser_gets_a_gradient(new_policy, batch_of, denoiser):
    policy = new_policy(method={"denoiser": denoiser}, observations=VECTORS).train()
    state = TrainingState(policy, OptimizerConfig(learning_rate=1e-3, warmup_steps=1))
    for _ in range(3):
        state.update(batch_of(policy, 4), seed=0, steps=10)
    assert [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_sampler
def test_actions_stay_within_the_statistics(new_policy, batch_of, sampler):
    policy = new_policy(observations=VECTORS, method={"sampler": sampler})
    generator = torch.Generator().manual_seed(0)
    actions = policy.sample(batch_of(policy, 16), torch.randn(16, 8, 3) * 10, generator).actions.numpy()
    assert (actions >= policy.spec.action.low - 1e-5).all()
    assert (actions <= policy.spec.action.high + 1e-5).all()


@every_sampler
def test_schedules_share_their_constants(sampler):
    noising, sampling = schedulers(replace(SMALL, sampler=sampler, prediction="sample"))
    assert torch.equal(noising.alphas_cumprod, sampling.alphas_cumprod)
    for schedule in (noising, sampling):
        assert (len(schedule.alphas_cumprod), schedule.config.num_train_timesteps) == (100, 100)
        assert schedule.config.prediction_type == "sample"
    # Nichol and Dhariwal 2021, equation 17: cos((t/T + 0.008) / 1.008 * pi/2)^2, here after 1, 50 and 100 steps.
    assert noising.alphas_cumprod[0].item() == pytest.approx(0.99937, abs=1e-4)
    assert noising.alphas_cumprod[49].item() == pytest.approx(0.49385, abs=1e-4)
    assert noising.alphas_cumprod[99].item() < 1e-6


def test_the_default_is_ddim_on_the_noise_that_ends_at_the_clean_action():
    noising, ddim = schedulers(DiffusionConfig())
    assert type(ddim).__name__ == "DDIMScheduler"
    for schedule in (noising, ddim):
        assert (schedule.config.prediction_type, schedule.config.clip_sample) == ("epsilon", True)
    assert ddim.final_alpha_cumprod.item() == 1.0


TIMESTEPS = {
    ("leading", 10): [90, 80, 70, 60, 50, 40, 30, 20, 10, 0],
    ("trailing", 10): [99, 89, 79, 69, 59, 49, 39, 29, 19, 9],
    ("leading", 3): [66, 33, 0],
    ("trailing", 3): [98, 65, 32],
    ("leading", 1): [0],
    ("trailing", 1): [99],
}


@every_sampler
@pytest.mark.parametrize(("spacing", "steps"), TIMESTEPS.keys())
def test_all_samplers_visit_the_same_steps(sampler, spacing, steps):
    config = replace(SMALL, sampler=sampler, spacing=spacing, sampling_steps=steps)
    _, sampling = schedulers(config)
    for _ in range(2):
        begin(sampling, config)
        assert sampling.timesteps.tolist() == TIMESTEPS[spacing, steps]


def test_targets_of_a_half_noised_action():
    # After 50 steps the action is scaled by sqrt(0.49385) = 0.70274 and the noise by sqrt(0.50615) = 0.71144.
    actions, noise, step = torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), -1.0), torch.tensor([49])
    noising, _ = schedulers(SMALL)
    assert noising.add_noise(actions, noise, step).item() == pytest.approx(-0.36007, abs=1e-4)
    for prediction, expected in {"epsilon": -1.0, "sample": 0.5, "v_prediction": -1.05846}.items():
        schedule, _ = schedulers(replace(SMALL, prediction=prediction))
        assert prediction_target(schedule, actions, noise, step).item() == pytest.approx(expected, abs=1e-4)


def test_the_loss_is_the_squared_error_of_the_prediction():
    # The network answers 0.25 to everything, and every action is 0.5.
    actions, context = torch.full((64, 8, 3), 0.5), _context(64)
    found = {}
    for prediction in ("epsilon", "sample", "v_prediction"):
        method = _method(replace(SMALL, prediction=prediction), lambda x, _alpha_bar: torch.full_like(x, 0.25))
        found[prediction] = method.loss(actions, context, torch.Generator().manual_seed(0)).item()
    assert found["sample"] == pytest.approx(0.0625)
    assert found["epsilon"] == pytest.approx(1.0625, abs=0.05)  # 1 of the noise, 0.25^2
    # (a e - s / 2 - 1 / 4)^2 has the mean E[a^2] + E[s^2] / 4 + E[s] / 4 + 1 / 16; a and s are cosine and sine.
    assert found["v_prediction"] == pytest.approx(0.5 + 0.125 + 0.159 + 0.0625, abs=0.05)


@every_sampler
@every_prediction
@every_spacing
@pytest.mark.parametrize("steps", [1, 3, 10, 50, 100])
def test_a_perfect_prediction_gives_the_action_back(sampler, prediction, spacing, steps):
    wanted = torch.tensor([0.75, -0.5, 0.25]).expand(2, 8, 3)

    def predict(noisy, alpha_bar):
        signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noise = (noisy - signal * wanted) / spread
        return {"epsilon": noise, "sample": wanted, "v_prediction": signal * noise - spread * wanted}[prediction]

    config = replace(SMALL, sampler=sampler, prediction=prediction, spacing=spacing, sampling_steps=steps)
    noise = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    sampled = _method(config, predict).sample(_context(2), noise, torch.Generator().manual_seed(1))
    # From the last of the 100 steps alone, rounding of the noise is magnified by 1 / sqrt(alpha_bar) = 2,000.
    tolerance = 2e-3 if (steps, spacing, prediction) == (1, "trailing", "epsilon") else 1e-5
    torch.testing.assert_close(sampled.actions, wanted, rtol=0, atol=tolerance)


DEVIATION = 0.3


def _best_noise(noisy, alpha_bar):
    """Return the mean of the noise given the noisy action, where actions are normal with DEVIATION around 0."""
    return (1 - alpha_bar).sqrt() * noisy / (alpha_bar * DEVIATION**2 + 1 - alpha_bar)


def _error(sampler, steps):
    """Return how far a sampler ends from the exact solution of the probability-flow equation."""
    noise = torch.linspace(-2.5, 2.5, 48).reshape(2, 8, 3)
    method = _method(replace(SMALL, sampler=sampler, sampling_steps=steps), _best_noise)
    # The flow scales: an action at quantile q of the noise ends at quantile q of the actions.
    return (method.sample(_context(2), noise).actions - DEVIATION * noise).abs().max().item()


def test_more_steps_come_closer_to_the_exact_solution():
    errors = [_error("ddim", steps) for steps in (2, 5, 10, 20, 50, 100)]
    assert all(more < less for less, more in pairwise(errors))
    assert errors[-1] < 0.02


def test_the_second_order_solver_is_closer_in_as_many_steps():
    assert _error("dpm++", 50) < 0.4 * _error("ddim", 50)
    assert _error("dpm++", 100) < 1e-3


def test_a_sampler_remembers_nothing_of_the_call_before():
    method = _method(replace(SMALL, sampler="dpm++", sampling_steps=5), _best_noise)
    noise = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    first = method.sample(_context(2), noise).actions
    method.sample(_context(4), torch.randn(4, 8, 3))
    assert torch.equal(method.sample(_context(2), noise).actions, first)


def test_the_random_sampler_draws_from_its_generator_only():
    method = _method(replace(SMALL, sampler="ddpm", sampling_steps=100), _best_noise)
    noise = torch.randn(500, 8, 3, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    first, again, other = (
        method.sample(_context(500), noise, torch.Generator().manual_seed(seed)).actions for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.1
    # Below DEVIATION, as each step has the smaller variance of Ho et al. 2020, section 3.2; their equation 7, followed
    # in floats for 100 steps, gives 0.2843.
    assert first.std().item() == pytest.approx(0.2843, abs=0.006)
    # The first noise is forgotten on the way: what was high there may end low.
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), first.flatten()]))[0, 1].item()) < 0.2


def test_the_random_sampler_without_a_generator_is_refused():
    method = _method(replace(SMALL, sampler="ddpm"), _best_noise)
    with pytest.raises(InvalidValue, match="ddpm draws noise at every step: give it a generator"):
        method.sample(_context(1), torch.zeros(1, 8, 3))


@every_sampler
@every_prediction
def test_rows_do_not_see_each_other(new_policy, batch_of, sampler, prediction):
    policy = new_policy(observations=VECTORS, method={"sampler": sampler, "prediction": prediction})
    batch, noise = batch_of(policy, 3), torch.randn(3, 8, 3)
    changed = {name: torch.cat([value[:2], value[:1]]) for name, value in batch.items()}
    first, second = (policy.sample(values, noise, torch.Generator().manual_seed(0)) for values in (batch, changed))
    torch.testing.assert_close(first.actions[:2], second.actions[:2], rtol=0, atol=1e-5)
    assert (first.actions[2] - second.actions[2]).abs().max() > 1e-5


BAD_CONFIGS = {
    "chunk_steps 6": ({"unet": UnetConfig(dims=(8, 8, 8))}, {"chunk_steps": 6}),
    "sampling_steps 101: allowed 1..100": ({"sampling_steps": 101}, {}),
    "sampling_steps 0: allowed 1..100": ({"sampling_steps": 0}, {}),
    "sampling_steps 60: would cover 60 of the 100 diffusion steps; 50 or 100": ({"sampling_steps": 60}, {}),
    "sampling_steps 40: would cover 80 of the 100 diffusion steps; 33 or 50": ({"sampling_steps": 40}, {}),
    "noise_draws is 0": ({"noise_draws": 0}, {}),
    "unknown denoiser 'vit'.* Valid: dit, mlp, transformer, unet": ({"denoiser": "vit"}, {}),
    "unknown prediction 'noise'": ({"prediction": "noise"}, {}),
    "unknown sampler 'dimm'. Did you mean 'ddim'": ({"sampler": "dimm"}, {}),
    "unknown spacing 'even'": ({"spacing": "even"}, {}),
}


@pytest.mark.parametrize(("message", "changes"), BAD_CONFIGS.items(), ids=BAD_CONFIGS.keys())
def test_wrong_configs_are_refused(new_policy, message, changes):
    method, policy = changes
    with pytest.raises(ConfigError, match=message):
        new_policy(method=method, **policy)


BAD_NETWORKS = {
    "unet.dims is empty": (UnetConfig, {"dims": ()}),
    "unet.dims 0: must be a multiple of unet.groups 8, above 0": (UnetConfig, {"dims": (8, 0)}),
    "unet.dims 12: must be a multiple of unet.groups 8": (UnetConfig, {"dims": (8, 12)}),
    "unet.groups is 0, must be at least 1": (UnetConfig, {"groups": 0}),
    "unet.kernel is -1, must be at least 1": (UnetConfig, {"kernel": -1}),
    "unet.kernel 4: must be odd": (UnetConfig, {"kernel": 4}),
    "unet.step_dim 2": (UnetConfig, {"step_dim": 2}),
    "transformer.layers is 0": (TransformerConfig, {"layers": 0}),
    "transformer.width 18": (TransformerConfig, {"width": 18, "heads": 4}),
    "transformer.dropout is 1.5": (TransformerConfig, {"dropout": 1.5}),
    "transformer.dropout is nan": (TransformerConfig, {"dropout": math.nan}),
    "dit.width is 0": (DitConfig, {"width": 0}),
    "dit.width 18: must be a multiple of the 4 heads": (DitConfig, {"width": 18, "heads": 4}),
    "dit.layers is 0": (DitConfig, {"layers": 0}),
    "dit.step_dim 7": (DitConfig, {"step_dim": 7}),
    "mlp.blocks is 0": (MlpConfig, {"blocks": 0}),
    "mlp.step_dim 3": (MlpConfig, {"step_dim": 3}),
}


@pytest.mark.parametrize(("message", "sizes"), BAD_NETWORKS.items(), ids=BAD_NETWORKS.keys())
def test_impossible_sizes_of_a_network_are_refused(message, sizes):
    network, changes = sizes
    with pytest.raises(ConfigError, match=message):
        network(**changes)


def _method(config: DiffusionConfig, predict) -> Diffusion:
    """Return a method whose network is `predict(noisy, alpha_bar)`."""
    method = Diffusion(config, 3, 8, ContextSpec(obs_steps=1, state_dim=2))
    method.denoiser = _Answering(method.noising.alphas_cumprod, predict)
    return method


class _Answering(nn.Module):
    def __init__(self, alphas_bar, predict) -> None:
        super().__init__()
        self.alphas_bar, self.predict = alphas_bar, predict

    def forward(self, noisy, step, condition):
        assert len(noisy) == len(step) == len(condition)
        return self.predict(noisy, self.alphas_bar[step.long()][:, None, None])


def _context(count: int) -> Context:
    return Context(torch.zeros(count, 1, 2), torch.zeros(count, 1, 0, 0))
