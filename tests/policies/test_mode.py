from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from armature.errors import ConfigError
from policies.context import Context, ContextSpec
from policies.edm import EdmConfig, sigmas
from policies.mode import Mode, ModeConfig
from policies.nets.moe import FusedMixture, Mixture, Router, Routing, balance_loss, gumbel_noise
from policies.presets.catalog import PRESETS

TINY = ModeConfig(width=32, layers=3, heads=2, attention_dropout=0.0, expert_dropout=0.0)
FULL = ContextSpec(2, 3, image_tokens=2, image_dim=8, language_tokens=4, language_dim=6, goal_steps=2)
PAPER = ContextSpec(1, 0, image_tokens=2, image_dim=2048, language_tokens=1, language_dim=512)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mode_of(context=FULL, seed=0, **changes):
    """Make a method whose routers differ clearly between levels and layers."""
    torch.manual_seed(seed)
    mode = Mode(replace(TINY, **changes), 3, 4, context).eval()
    with torch.no_grad():
        for block in mode.blocks:
            for layer in (block.router.network[0], block.router.network[2]):
                layer.weight.mul_(20)
                layer.bias.normal_(std=0.5)
    return mode


def context_of(count, spec=FULL, seed=0):
    def draw(*shape):
        return torch.randn(count, *shape, generator=generator(seed))

    language = draw(spec.language_tokens, spec.language_dim) if spec.language_tokens else None
    mask = torch.arange(spec.language_tokens)[None] < torch.arange(1, count + 1)[:, None]
    state, images = draw(spec.obs_steps, spec.state_dim), draw(spec.obs_steps, spec.image_tokens, spec.image_dim)
    goal = draw(spec.goal_steps, spec.state_dim) if spec.goal_steps else None
    return Context(state, images, language, mask if spec.language_tokens else None, goal)


def routing_of(experts, weights=None):
    experts = torch.tensor(experts)
    weights = torch.tensor(weights) if weights else torch.full(experts.shape, 1 / experts.shape[1])
    return Routing(experts, weights, torch.zeros(len(experts), 4))


def chunks_of(mode, context, noise):
    """Sample without and with the cache."""
    found = []
    for cached in (False, True):
        mode.config = replace(mode.config, cache_experts=cached)
        with torch.no_grad():
            found.append(mode.sample(context, noise).actions)
    return found


# Routing


def test_the_router_takes_the_most_probable_experts_and_renormalises():
    router = Router(2, 4, 2)
    with torch.no_grad():
        router.network[2].weight.zero_()
        router.network[2].bias.copy_(torch.tensor([0.1, 0.4, 0.2, 0.3]).log())
    routing = router(torch.randn(5, 2))
    torch.testing.assert_close(routing.probabilities[0], torch.tensor([0.1, 0.4, 0.2, 0.3]))
    assert routing.experts.tolist() == [[1, 3]] * 5
    torch.testing.assert_close(routing.weights[0], torch.tensor([4 / 7, 3 / 7]))


def test_training_draws_experts_without_replacement_by_their_probabilities():
    router = Router(2, 4, 2)
    shares = torch.tensor([0.1, 0.4, 0.2, 0.3])
    with torch.no_grad():
        router.network[2].weight.zero_()
        router.network[2].bias.copy_(shares.log())
    count = 40_000
    noise = gumbel_noise(torch.rand(count, 4, generator=generator()))
    drawn = router(torch.randn(count, 2), noise).experts
    assert (drawn[:, 0] != drawn[:, 1]).all()
    first, second = (torch.bincount(drawn[:, k], minlength=4) / count for k in range(2))
    torch.testing.assert_close(first, shares, rtol=0, atol=0.01)
    after = torch.tensor([sum(shares[i] * shares[j] / (1 - shares[i]) for i in range(4) if i != j) for j in range(4)])
    torch.testing.assert_close(second, after, rtol=0, atol=0.01)


def test_gumbel_noise_is_finite_at_the_edges_of_the_uniform_draw():
    assert torch.isfinite(gumbel_noise(torch.tensor([0.0, 1 - 2**-24]))).all()


def test_the_balance_loss_is_one_when_balanced_and_grows_to_the_number_of_experts():
    even = Routing(torch.tensor([[0, 1], [2, 3]]), torch.full((2, 2), 0.5), torch.full((2, 4), 0.25))
    assert balance_loss(even).item() == pytest.approx(1.0)
    collapsed = Routing(torch.tensor([[0, 1]] * 2), torch.full((2, 2), 0.5), torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 2))
    assert balance_loss(collapsed).item() == pytest.approx(2.0)
    single = Routing(torch.tensor([[2]] * 2), torch.ones(2, 1), torch.tensor([[0.0, 0.0, 1.0, 0.0]] * 2))
    assert balance_loss(single).item() == pytest.approx(4.0)


def test_a_mixture_is_the_weighted_sum_of_each_samples_experts():
    torch.manual_seed(0)
    mixture, x = Mixture(8, 4, 16).eval(), torch.randn(3, 5, 8)
    routing = routing_of([[0, 2], [2, 3], [1, 0]], [[0.7, 0.3], [0.5, 0.5], [0.1, 0.9]])
    expected = [
        sum(w * mixture.experts[e](x[i]) for e, w in zip(routing.experts[i], routing.weights[i], strict=True))
        for i in range(3)
    ]
    torch.testing.assert_close(mixture(x, routing), torch.stack(expected))
    shared = routing_of([[3, 1]], [[0.8, 0.2]])
    torch.testing.assert_close(mixture(x, shared), 0.8 * mixture.experts[3](x) + 0.2 * mixture.experts[1](x))


def test_only_chosen_experts_are_computed_in_evaluation_and_all_have_gradients_in_training():
    mixture, x = Mixture(8, 4, 16), torch.randn(3, 5, 8)
    seen = []
    for number, expert in enumerate(mixture.experts):
        expert.register_forward_hook(lambda _m, inputs, _o, number=number: seen.append((number, len(inputs[0]))))
    mixture.eval()(x, routing_of([[0, 2], [2, 3], [2, 0]]))
    assert seen == [(0, 2), (2, 3), (3, 1)]
    seen.clear()
    mixture(x, routing_of([[1, 3]]))
    assert seen == [(1, 3), (3, 3)]
    mixture.train()(x, routing_of([[0, 2], [2, 3], [2, 0]])).sum().backward()
    assert mixture.experts[1].out.weight.grad is not None
    assert not mixture.experts[1].out.weight.grad.any()


def test_in_training_every_expert_of_a_single_sample_has_a_gradient():
    mixture = Mixture(8, 4, 16)
    routing = Routing(torch.tensor([[0, 2]]), torch.ones(1, 2) / 2, torch.ones(1, 4) / 4)
    mixture(torch.randn(1, 5, 8), routing).sum().backward()
    assert [expert.out.weight.grad is not None for expert in mixture.experts] == [True] * 4
    assert mixture.experts[1].out.weight.grad.abs().max() == 0 < mixture.experts[0].out.weight.grad.abs().max()


def test_a_routing_of_one_row_holds_for_all_samples_in_training_too():
    torch.manual_seed(0)
    mixture, x = Mixture(8, 4, 16), torch.randn(3, 5, 8)
    routing = routing_of([[3, 1]], [[0.8, 0.2]])
    trained = mixture.train()(x, routing)
    torch.testing.assert_close(trained, mixture.eval()(x, routing))
    mixture.train()(x, routing).sum().backward()
    assert [expert.out.weight.grad is not None for expert in mixture.experts] == [True] * 4


def test_samples_in_training_mode_as_in_evaluation():
    mode, noise = mode_of(), torch.randn(3, 4, 3, generator=generator())
    plain = mode.sample(context_of(3), noise).actions
    torch.testing.assert_close(mode.train().sample(context_of(3), noise).actions, plain)


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_chunks_stay_in_the_range_of_the_data(sampler):
    mode = mode_of(sampling_steps=2, edm=replace(TINY.edm, sampler=sampler))
    assert mode.sample(context_of(8), torch.randn(8, 4, 3, generator=generator())).actions.abs().max() <= 1


def test_a_fused_mixture_equals_the_mixture_and_shares_weights_between_steps():
    torch.manual_seed(0)
    mixture, x = Mixture(8, 4, 16).eval(), torch.randn(3, 5, 8)
    routing = routing_of([[0, 2], [2, 0], [3, 1], [0, 2]], [[0.7, 0.3], [0.6, 0.4], [0.5, 0.5], [0.9, 0.1]])
    fused = FusedMixture(mixture, routing)
    for step in range(4):
        alone = Routing(*(part[step : step + 1] for part in routing))
        torch.testing.assert_close(fused(x, step), mixture(x, alone), rtol=0, atol=1e-6)
    assert fused.value_gate.shape == (2, 2 * 2 * 16, 8)


# The network


def test_the_experts_of_a_sample_depend_on_its_noise_level_alone():
    mode, chosen = mode_of(cache_experts=False), []
    for block in mode.blocks:
        block.router.register_forward_hook(lambda _m, _i, routing: chosen.append(routing.experts.tolist()))
    noise = torch.randn(2, 4, 3, generator=generator())
    for seed in (0, 1):
        mode.sample(context_of(2, seed=seed), noise + seed)
    half = len(chosen) // 2
    assert half == 10 * 3
    assert chosen[:half] == chosen[half:]
    assert len({str(each) for each in chosen}) > 1


def test_every_part_of_the_context_is_seen_and_padding_is_not():
    mode, context, noise = mode_of(), context_of(2), torch.randn(2, 4, 3, generator=generator())
    plain = mode.sample(context, noise).actions
    for name in ("state", "images", "language", "goal"):
        changed = context._replace(**{name: getattr(context, name) + 1})
        assert not torch.allclose(mode.sample(changed, noise).actions, plain, atol=1e-5)
    padded = context.language.clone()
    padded[~context.language_mask] = 99.0
    assert torch.equal(mode.sample(context._replace(language=padded), noise).actions, plain)


def test_tokens_are_level_prompt_goal_states_images_actions():
    mode, lengths = mode_of(), []
    mode.blocks[0].register_forward_hook(lambda _m, inputs, _o: lengths.append(inputs[0].shape[1]))
    mode.sample(context_of(1), torch.randn(1, 4, 3))
    assert set(lengths) == {1 + 1 + 1 + 2 + 2 * 2 + 4}
    assert mode.condition_in.position.shape == (8, 32)
    assert mode.action_position.shape == (4, 32)


@pytest.mark.parametrize("causal", [True, False])
def test_an_action_does_not_see_later_ones_where_attention_is_causal(causal):
    mode, noise = mode_of(causal=causal), torch.randn(1, 4, 3, generator=generator())
    later = noise.clone()
    later[:, 2:] += 0.1
    first, second = (mode.sample(context_of(1), n).actions for n in (noise, later))
    assert torch.equal(first[:, :2], second[:, :2]) == causal
    assert not torch.allclose(first[:, 2:], second[:, 2:])


def test_the_draws_of_the_loss_come_from_its_generator():
    mode, context, actions = mode_of(), context_of(4), torch.randn(4, 4, 3)

    def loss(seed, of_torch):
        torch.manual_seed(of_torch)
        return mode.train().loss(actions, context, generator(seed)).item()

    assert loss(0, 0) == loss(0, 1)
    assert loss(0, 0) != loss(1, 0)


def test_the_balance_loss_is_part_of_the_loss():
    actions, context = torch.randn(4, 4, 3), context_of(4)
    without, with_it = (mode_of(balance_weight=w).loss(actions, context, generator()).item() for w in (0.0, 0.5))
    assert 0.5 - 1e-4 <= with_it - without <= 0.5 * 4


# The cache


@pytest.mark.parametrize(
    "edm",
    [TINY.edm, EdmConfig(sampler="heun", schedule="karras"), EdmConfig(schedule="linear", sigma_max=5.0)],
    ids=["ddim", "heun", "linear"],
)
@pytest.mark.parametrize("count", [1, 3])
def test_cached_experts_give_the_same_network_at_every_step(edm, count):
    mode = mode_of(edm=edm)
    levels = sigmas(edm, 10)
    condition, inputs = mode.condition_in(context_of(count)), torch.randn(count, 4, 3, generator=generator())
    pairs = set()
    with torch.no_grad():
        fused = mode.fuse_experts()
        for step in range(10):
            routed = mode._network(inputs, condition, *mode._routed(levels, step))
            cached = mode._network(inputs, condition, *fused.step(step))
            assert (cached - routed).abs().max().item() <= 1e-5
            pairs.add(tuple(layer.set_of_step[step] for layer in fused.layers))
    assert len(pairs) > 1
    plain, cached = chunks_of(mode, context_of(count), torch.randn(count, 4, 3, generator=generator(1)))
    assert (cached - plain).abs().max().item() <= 1e-5


def test_steps_of_an_optimiser_of_other_weights_leave_the_cache():
    mode, other, noise = mode_of(), mode_of(seed=1), torch.randn(2, 4, 3, generator=generator())
    chunks_of(mode, context_of(2), noise)
    before = mode.fused
    adam_step(other)
    chunks_of(mode, context_of(2), noise)
    assert mode.fused is before
    adam_step(mode)
    plain, cached = chunks_of(mode, context_of(2), noise)
    assert mode.fused is not before
    assert (cached - plain).abs().max().item() <= 1e-5


def test_the_cache_is_made_once_and_of_no_checkpoint():
    mode, context, noise = mode_of(), context_of(1), torch.randn(1, 4, 3)
    before = list(mode.state_dict())
    with torch.no_grad():
        mode.sample(context, noise)
        first = mode.fused
        mode.sample(context, noise)
    assert first is not None
    assert mode.fused is first
    assert list(mode.state_dict()) == before
    assert not list(first.parameters())
    assert "fused.layers.0.value_gate" in dict(mode.named_buffers())


def adam_step(mode):
    optimizer = torch.optim.AdamW(mode.parameters(), 1e-2, fused=True)
    mode.loss(torch.ones(2, 4, 3), context_of(2), generator()).backward()
    optimizer.step()


def average_with(mode, other):
    with torch.no_grad():
        torch._foreach_lerp_(list(mode.parameters()), list(other.parameters()), 0.5)


def add_one(parameter):
    with torch.no_grad():
        parameter.add_(1.0)


WRITES = {
    "optimiser": adam_step,
    "load_state_dict": lambda mode: mode.load_state_dict(mode_of(seed=1).state_dict()),
    "average": lambda mode: average_with(mode, mode_of(seed=1)),
    "one expert": lambda mode: add_one(mode.blocks[2].mixture.experts[3].out.weight),
    "one router": lambda mode: add_one(mode.blocks[0].router.network[2].bias[:2]),
    "level embedding": lambda mode: add_one(mode.level_in[0].weight),
    "other levels": lambda mode: setattr(mode, "config", replace(mode.config, sampling_steps=4)),
    "double": lambda mode: mode.double().float(),
    "training": lambda mode: mode.train().eval(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_the_cache_follows_the_weights(write):
    mode, context, noise = mode_of(), context_of(2), torch.randn(2, 4, 3, generator=generator())
    chunks_of(mode, context, noise)
    before = mode.fused
    write(mode)
    plain, cached = chunks_of(mode, context, noise)
    assert (cached - plain).abs().max().item() <= 1e-5
    assert mode.fused is not before


def test_a_copy_has_a_cache_of_its_own():
    mode, context, noise = mode_of(), context_of(1), torch.randn(1, 4, 3, generator=generator())
    chunks_of(mode, context, noise)
    other = copy.deepcopy(mode)
    other.load_state_dict(mode_of(seed=1).state_dict())
    plain, cached = chunks_of(other, context, noise)
    assert (cached - plain).abs().max().item() <= 1e-5
    assert other.fused is not mode.fused


def test_gradients_reach_the_experts_through_sampling():
    mode = mode_of()
    mode.sample(context_of(1), torch.randn(1, 4, 3)).actions.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in mode.blocks[0].mixture.parameters())
    assert mode.fused is None


# The published size


def test_the_paper_preset_has_the_published_count_of_parameters():
    """685.9 M, of which 2.1 M are a projection of the wrist camera that the released code never calls."""
    config = PRESETS["mode_paper"](Path(), Path())
    assert (config.optimizer.ema_power, config.optimizer.ema_max) == (2 / 3, 0.9999)
    with torch.device("meta"):
        mode = Mode(config.method, 7, config.policy.chunk_steps, PAPER)
    count = sum(p.numel() for p in mode.parameters())
    assert count == pytest.approx(685.9e6, rel=0.005)
    assert count == pytest.approx(685.9e6 - 2048 * 1024, rel=0.0005)
    # 2 of 4 experts in 12 layers lie idle, each of 12 width^2 weights and 8 width biases.
    assert count - mode.active_parameters() == 12 * 2 * (12 * 1024**2 + 8 * 1024)
    block = mode.blocks[0]
    sizes = [sum(p.numel() for p in part.parameters()) for part in (block.attention, block.router, block.mixture)]
    assert [size / 1024**2 for size in sizes] == pytest.approx([4, 2, 48], rel=0.005)


BAD_CONFIGS = {
    "top_k 5: allowed 1..4": {"top_k": 5},
    "width 33: must be a multiple of the 2 heads": {"width": 33},
    "sampling_steps is 0": {"sampling_steps": 0},
    "expert_dropout is 1": {"expert_dropout": 1.0},
    "balance_weight is -1": {"balance_weight": -1.0},
    "balance_weight is nan": {"balance_weight": math.nan},
    "balance_weight is inf": {"balance_weight": math.inf},
}


@pytest.mark.parametrize(("message", "changes"), BAD_CONFIGS.items(), ids=BAD_CONFIGS.keys())
def test_wrong_configs_are_refused(message, changes):
    with pytest.raises(ConfigError, match=message):
        Mode(replace(TINY, **changes), 3, 4, FULL)
