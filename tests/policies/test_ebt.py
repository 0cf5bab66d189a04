from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from armature.errors import ConfigError, InvalidValue
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from policies.context import Context, ContextSpec
from policies.device import compiler
from policies.ebt import Ebt, EbtConfig, begin, refine, slope_of
from policies.energy_landscape import energy_between
from policies.nets.energy_transformer import EnergyTransformer, ObservationTokens
from policies.training_state import OptimizerConfig, TrainingState

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)
TINY = EbtConfig(width=8, layers=1, observation_layers=1, heads=2, dropout=0.0, step_size=20.0)


def method(**changes) -> Ebt:
    torch.manual_seed(0)
    return Ebt(replace(TINY, **changes), 2, 4, ContextSpec(2, 3)).eval()


def context(count: int) -> Context:
    generator = torch.Generator().manual_seed(1)
    return Context(torch.randn(count, 2, 3, generator=generator), torch.zeros(count, 2, 0, 0))


def noise(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 2, generator=torch.Generator().manual_seed(2))


def quadratic(a: torch.Tensor) -> torch.Tensor:
    return 0.5 * a.square().sum(dim=(1, 2))


def plain(**changes) -> EbtConfig:
    """Plain gradient descent: the clamp makes exp(E) 1 to within a thousandth."""
    return EbtConfig(**{"momentum": 0.0, "normalise": False, "energy_clamp": 1e-3, **changes})


def test_the_energy_can_be_differentiated_twice():
    torch.manual_seed(0)
    tokens, net = ObservationTokens(3, 2, 8, 1, 2).double(), EnergyTransformer(2, 3, 8, 1, 2, 0.0).double()
    memory = [(keys.detach(), values.detach()) for keys, values in net.memory(tokens(torch.randn(2, 2, 3).double()))]
    actions = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    energy = partial(net, memory=memory)
    assert torch.autograd.gradcheck(energy, (actions,))
    assert torch.autograd.gradgradcheck(energy, (actions,))


def test_the_loss_differentiates_through_the_steps():
    """Against finite differences of one weight of the energy network, all steps joined."""
    torch.manual_seed(0)
    net = Ebt(replace(TINY, detach=False, train_steps=3, noise_max=0.1), 2, 4, ContextSpec(2, 3)).double()
    weight = net.energy_net.outputs[0].weight
    seen = Context(*(part.double() for part in context(2)[:2]))

    def loss() -> torch.Tensor:
        return net.loss(noise(2).double(), seen, torch.Generator().manual_seed(5))

    (gradient,) = torch.autograd.grad(loss(), weight)
    sides = []
    for shift in (1e-6, -1e-6):
        with torch.no_grad():
            weight[0, 0] += shift
        sides.append(loss().item())
        with torch.no_grad():
            weight[0, 0] -= shift
    assert gradient[0, 0].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("detach", [True, False])
def test_compiled_training_learns_what_training_learns(detach):
    plain_way, compiled = (method(detach=detach, train_steps=2, train_steps_extra=0).train() for _ in range(2))
    compiled.compile_training()
    losses = [net.loss(noise(3), context(3), torch.Generator().manual_seed(5)) for net in (plain_way, compiled)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-7)
    for loss in losses:
        loss.backward()
    for expected, found in zip(plain_way.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_two_steps_by_hand():
    """E = a^2/2 of one element: dE/da' = a'. alpha 0.5, T 2, mu 0.5, no normalisation.

    a = 1, v = 0: a' = 1, E = 0.5, v = -0.5 exp(0.5) / 2 = -0.41218, a = 0.58782.
    Then a' = 0.58782 - 0.20609 = 0.38173, E = 0.07286, v = -0.20609 - 0.25 exp(0.07286) 0.38173 = -0.30873.
    """
    config = plain(temperature=2.0, momentum=0.5, energy_clamp=5.0)
    first = refine(slope_of(quadratic), begin(torch.ones(1, 1, 1)), 0.5, config)
    second = refine(slope_of(quadratic), first, 0.5, config)
    found = [(s.actions.item(), s.velocity.item(), s.energy.item(), s.gradient_norm.item()) for s in (first, second)]
    assert found[0] == pytest.approx((0.58782, -0.41218, 0.5, 1.0), abs=1e-5)
    assert found[1] == pytest.approx((0.27909, -0.30873, 0.07286, 0.38173), abs=1e-5)


def test_normalisation_noise_and_clamp_by_hand():
    """(3, 4) has a root mean square of sqrt(12.5): it becomes (0.84853, 1.13137). With noise (0.1, 0) E = 1.08986.

    E is clamped to 1, so a step of 0.1 is 0.1 e times the gradient.
    """
    config = plain(normalise=True, energy_clamp=1.0)
    after = refine(slope_of(quadratic), begin(torch.tensor([[[3.0, 4.0]]])), 0.1, config, torch.tensor([[[0.1, 0.0]]]))
    assert after.energy.item() == pytest.approx(1.08986, abs=1e-4)
    kept = 1 - 0.1 * math.e
    torch.testing.assert_close(after.actions, torch.tensor([[[0.94853 * kept, 1.13137 * kept]]]), atol=1e-4, rtol=0)


def test_normalisation_is_that_of_each_sample():
    config, both = plain(normalise=True), torch.stack([torch.ones(4, 2), 100 * torch.ones(4, 2)])
    together = refine(slope_of(quadratic), begin(both), 0.1, config).actions
    torch.testing.assert_close(together[0], together[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(together[:1], refine(slope_of(quadratic), begin(both[:1]), 0.1, config).actions)


def test_a_quadratic_is_descended():
    state = begin(noise(6))
    energies = []
    for _ in range(60):
        state = refine(slope_of(quadratic), state, 0.05, plain(momentum=0.5))
        energies.append(state.energy)
    assert (energies[-1] < 1e-3 * energies[0]).all()


@pytest.mark.parametrize(("detach", "reaches"), [(True, False), (False, True)])
def test_detach_cuts_the_steps_before(detach, reaches):
    steepness = torch.ones((), requires_grad=True)
    config = plain(detach=detach, momentum=0.5)
    first = refine(slope_of(lambda a: steepness * quadratic(a), create_graph=True), begin(noise(2)), 0.1, config)
    second = refine(slope_of(quadratic, create_graph=True), first, 0.1, config)
    assert torch.autograd.grad(first.actions.sum(), steepness, retain_graph=True)[0].abs() > 0
    (found,) = torch.autograd.grad(second.actions.sum(), steepness, allow_unused=True)
    assert (found is not None) == reaches


def test_truncation_leaves_the_loss_of_the_last_step():
    def loss(**changes) -> float:
        torch.manual_seed(0)
        return (
            method(train_steps_extra=0, **changes).loss(noise(3), context(3), torch.Generator().manual_seed(4)).item()
        )

    # With the draws of the same seed, all steps before the last are the same.
    one, two = loss(train_steps=1, noise_max=0.0, noise_min=0.0), loss(train_steps=2, noise_max=0.0, noise_min=0.0)
    last = loss(train_steps=2, truncate=True, noise_max=0.0, noise_min=0.0)
    assert two == pytest.approx((one + last) / 2, rel=1e-6)
    assert one != pytest.approx(last)


def test_a_loss_without_gradients_is_the_same(new_policy, batch_of):
    policy = new_policy("ebt", observations=VECTORS)
    batch = batch_of(policy, 4)
    with_graph = policy.loss(batch, torch.Generator().manual_seed(0))
    with torch.no_grad():
        without = policy.loss(batch, torch.Generator().manual_seed(0))
    assert (with_graph.requires_grad, without.requires_grad) == (True, False)
    torch.testing.assert_close(with_graph.detach(), without)


def test_the_observation_is_encoded_once_whatever_the_steps():
    net, calls = method(steps_max=5), []
    net.tokens.register_forward_hook(lambda *_: calls.append("tokens"))
    for block in net.energy_net.blocks:
        block.observation_attention.key_value.register_forward_hook(lambda *_: calls.append("keys"))
    net.sample(context(2), noise(2))
    assert calls == ["tokens", "keys"]


def test_every_sample_stops_on_its_own():
    net = method(steps_max=12)
    norms = []
    for steps in range(1, 13):
        net.config = replace(net.config, steps_max=steps, min_gradient=0.0)
        norms.append(net.sample(context(6), noise(6)).diagnostics["gradient_norm"])
    norms = torch.stack(norms)
    threshold = norms[2:9].median().item()
    net.config = replace(net.config, steps_max=12, min_gradient=threshold)
    sampled = net.sample(context(6), noise(6))
    # One step more after the first that finds the landscape flat, twelve for a sample that never does.
    flat = norms <= threshold
    expected = torch.where(flat.any(dim=0), flat.int().argmax(dim=0) + 2, 12).clamp(max=12)
    assert sampled.diagnostics["steps"].tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 1
    for row in range(6):
        net.config = replace(net.config, steps_max=int(expected[row]), min_gradient=0.0)
        alone = net.sample(context(6), noise(6)).actions[row]
        torch.testing.assert_close(sampled.actions[row], alone, rtol=0, atol=1e-5)


def test_the_hard_cap_is_kept():
    sampled = method(steps_max=2).sample(context(3), noise(3))
    assert sampled.diagnostics["steps"].tolist() == [2.0] * 3
    assert all(figure.shape == (3,) and figure.dtype == torch.float32 for figure in sampled.diagnostics.values())


def test_the_best_of_several_candidates_goes_out():
    net, seen = method(candidates=4), context(3)
    sampled = net.sample(seen, noise(3), torch.Generator().manual_seed(7))
    further = torch.randn(3, 3, 4, 2, generator=torch.Generator().manual_seed(7))
    starts = torch.cat([noise(3)[:, None], further], dim=1).unbind(dim=1)
    net.config = replace(net.config, candidates=1)
    each = [net.sample(seen, start) for start in starts]
    energies = torch.stack([one.diagnostics["energy"] for one in each])
    best = energies.argmin(dim=0)
    torch.testing.assert_close(sampled.diagnostics["energy"], energies.amin(dim=0))
    expected = torch.stack([one.actions for one in each])[best, torch.arange(3)]
    torch.testing.assert_close(sampled.actions, expected, rtol=0, atol=1e-5)
    assert len(set(best.tolist())) > 1


def test_candidates_without_a_generator_are_refused():
    with pytest.raises(InvalidValue, match="4 candidates need a generator"):
        method(candidates=4).sample(context(1), noise(1))


def test_an_energy_that_is_not_finite_names_the_step_and_the_sample():
    net = method(steps_max=3)
    seen, start = context(3), noise(3)
    seen.state[1] = math.nan
    with pytest.raises(InvalidValue, match="energy is nan at refinement step 1 of 3, sample 1"):
        net.sample(seen, start)
    # The training stops at a loss that is not finite and keeps its batch.
    assert net.loss(start, seen, torch.Generator().manual_seed(0)).isnan()
    with pytest.raises(InvalidValue, match="energy is nan at refinement step 3 of 4, sample 0"):
        _descend_with_nan_at(3)


def _descend_with_nan_at(step: int) -> None:
    net, calls = method(steps_max=4), []

    def spoil(_module, _inputs, energy: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return energy * math.nan if len(calls) == step else energy

    net.energy_net.register_forward_hook(spoil)
    net.sample(context(2), noise(2))


def test_bf16_leaves_the_energy_in_float32():
    net, seen, start = method(), context(3), noise(3)
    plain_loss = net.loss(start, seen, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed_loss = net.loss(start, seen, torch.Generator().manual_seed(0))
    assert torch.equal(plain_loss, mixed_loss)


def test_the_nearest_of_several_starts_learns():
    net, actions = method(train_starts=6), noise(3) * 0.5
    memory = net.memory(context(3))
    chosen = net._starts(actions, memory, torch.Generator().manual_seed(3))
    starts = torch.randn(18, 4, 2, generator=torch.Generator().manual_seed(3)).unflatten(0, (3, 6))
    net.config = replace(net.config, steps_max=1)
    refined = torch.stack([net.sample(context(3), starts[:, i]).actions for i in range(6)], dim=1)
    nearest = (refined - actions[:, None]).square().mean(dim=(2, 3)).argmin(dim=1)
    assert torch.equal(chosen, starts[torch.arange(3), nearest])


def test_starts_lie_between_noise_and_data():
    net, actions = method(data_starts=1.0), torch.full((400, 4, 2), 3.0)
    starts = net._starts(actions, [], torch.Generator().manual_seed(3))
    # The mean of a start is its place times 3, with a deviation of at most 1 / sqrt(8) from noise.
    place = starts.mean(dim=(1, 2)) / 3
    assert 0.45 < place.mean().item() < 0.55
    assert place.min().item() < 0.1 < 0.9 < place.max().item()


@pytest.fixture(scope="module")
def trained() -> tuple[Ebt, torch.Tensor]:
    """A method that has learned one chunk for each of three observations."""
    torch.manual_seed(0)
    config = replace(TINY, width=16, train_steps=2, train_steps_extra=0, normalise=False, data_starts=0.5)
    net, actions = Ebt(config, 2, 4, ContextSpec(2, 3)), noise(3) * 0.6
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=300)
    for step in range(300):
        seen, recorded = context(3).repeated(4), actions.repeat_interleave(4, dim=0)
        loss = net.loss(recorded, seen, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        decay.step()
    return net.eval(), actions


def test_a_perturbed_optimum_flows_back(trained):
    net, actions = trained
    net.config = replace(net.config, steps_max=2)
    pushed = actions + 0.5 * noise(9)[6:]
    back = net.sample(context(3), pushed).actions

    def distance(a: torch.Tensor) -> torch.Tensor:
        return (a - actions).flatten(1).norm(dim=1)

    assert (distance(back) < 0.5 * distance(pushed)).all()
    memory = net.memory(context(3))
    assert (net.energy(actions, memory) < net.energy(pushed, memory)).all()


def test_the_landscape_falls_from_noise_to_the_recorded_chunk(trained):
    net, actions = trained
    energies = energy_between(net, context(3), noise(6)[3:], actions, points=11)
    assert energies.shape == (3, 11)
    memory = net.memory(context(3))
    torch.testing.assert_close(energies[:, -1], net.energy(actions, memory).detach())
    assert (energies[:, -1] < energies[:, 0]).all()
    assert (energies.argmin(dim=1) >= 8).all()


BAD_CONFIGS = {
    "width 18": {"width": 18, "heads": 4},
    "heads is 0": {"heads": 0},
    "layers is 0": {"layers": 0},
    "steps_max is 0": {"steps_max": 0},
    "train_steps is 0": {"train_steps": 0},
    "train_steps_extra is -1": {"train_steps_extra": -1},
    "momentum is 1": {"momentum": 1.0},
    "step_size is 0": {"step_size": 0.0},
    "temperature is -1": {"temperature": -1.0},
    "energy_clamp is 100": {"energy_clamp": 100.0},
    "step_size_spread is 0.5": {"step_size_spread": 0.5},
    "noise_min 0.3 lies above noise_max 0.2": {"noise_min": 0.3},
    "noise_max is nan": {"noise_max": float("nan")},
    "noise_max is inf": {"noise_max": float("inf")},
    "data_starts is 1.5": {"data_starts": 1.5},
    "candidates is 0": {"candidates": 0},
    "min_gradient is -1": {"min_gradient": -1.0},
    "min_gradient is inf": {"min_gradient": float("inf")},
}


@pytest.mark.parametrize(("message", "changes"), BAD_CONFIGS.items(), ids=BAD_CONFIGS.keys())
def test_wrong_configs_are_refused(new_policy, message, changes):
    with pytest.raises(ConfigError, match=message):
        new_policy("ebt", method=changes)


@pytest.mark.parametrize("extra", [{"language_tokens": 4}, {"goal_steps": 1}])
def test_a_prompt_or_goal_is_not_silently_ignored(extra):
    with pytest.raises(ConfigError, match="sees images and state only"):
        Ebt(TINY, 2, 4, ContextSpec(2, 3, **extra))


def test_training_is_stable_at_a_high_rate(new_policy, batch_of):
    policy = new_policy("ebt", observations=VECTORS)
    state = TrainingState(policy, OptimizerConfig(learning_rate=1e-2, warmup_steps=1))
    losses = [state.update(batch_of(policy, 4), seed=0, steps=60) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
