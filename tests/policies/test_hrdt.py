from __future__ import annotations

from pathlib import Path

import pytest
import torch

from armature.errors import ConfigError
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from policies.context import Context, ContextSpec
from policies.hrdt import Hrdt, HrdtConfig, euler_times
from policies.nets.hrdt_block import sinusoids
from policies.presets.catalog import PRESETS

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)
TINY = HrdtConfig(width=16, layers=2, heads=4, kv_heads=2, hidden=32)
SEEN = ContextSpec(obs_steps=2, state_dim=3, image_tokens=4, image_dim=5, language_tokens=6, language_dim=7)


def context_of(count: int, spec: ContextSpec = SEEN, seed: int = 0) -> Context:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=draw)

    mask = torch.arange(spec.language_tokens).expand(count, -1) < 3
    return Context(
        normal(spec.obs_steps, spec.state_dim),
        normal(spec.obs_steps, spec.image_tokens, spec.image_dim),
        normal(spec.language_tokens, spec.language_dim) if spec.language_tokens else None,
        mask if spec.language_tokens else None,
    )


def opened(config: HrdtConfig = TINY, spec: ContextSpec = SEEN) -> Hrdt:
    """Make a method whose every layer matters: what begins at zero is drawn at random."""
    torch.manual_seed(0)
    method = Hrdt(config, 3, 4, spec)
    for parameter in method.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    return method.eval()


def test_the_published_size_has_two_billion_weights():
    with torch.device("meta"):
        seen = ContextSpec(1, 48, image_tokens=3 * 729, image_dim=2176, language_tokens=1024, language_dim=4096)
        method = Hrdt(PRESETS["hrdt_paper"](Path(), Path()).method, 48, 16, seen)
    trunk = sum(p.numel() for p in method.blocks.parameters())
    assert trunk == pytest.approx(1.979e9, rel=0.001)
    assert sum(p.numel() for p in method.parameters()) == pytest.approx(2.06e9, rel=0.01)


def test_the_path_is_straight_and_the_target_its_velocity(monkeypatch):
    method, actions, context = opened(), torch.rand(5, 4, 3), context_of(5)
    seen = []

    def velocity(noisy, time, memory):
        seen.append((noisy, time))
        return torch.zeros_like(noisy)

    monkeypatch.setattr(method, "velocity", velocity)
    loss = method.loss(actions, context, torch.Generator().manual_seed(3))
    (noisy, time), draw = seen[0], torch.Generator().manual_seed(3)
    noise = torch.randn(5, 4, 3, generator=draw)
    t = time[:, None, None]
    torch.testing.assert_close(noisy, t * actions + (1 - t) * noise)
    torch.testing.assert_close(loss, ((actions - noise) ** 2).mean())


@pytest.mark.parametrize(("distribution", "spread"), [("uniform", 0.999 / 12**0.5), ("logit_normal", 0.2083)])
def test_times_lie_in_their_range(distribution, spread):
    method = Hrdt(HrdtConfig(**{**vars(TINY), "time_distribution": distribution}), 3, 4, SEEN)
    times = method._draw_times(50_000, torch.Generator().manual_seed(0))
    assert 0 <= times.min() < times.max() < 0.999
    assert times.mean().item() == pytest.approx(0.4995, abs=0.005)
    assert times.std().item() == pytest.approx(spread, abs=0.003)


@pytest.mark.parametrize("steps", [1, 5])
def test_euler_steps_follow_a_constant_velocity_to_its_end(monkeypatch, steps):
    method = opened(HrdtConfig(**{**vars(TINY), "sampling_steps": steps}))
    times = []

    def velocity(noisy, time, memory):
        times.append(time[0].item())
        return torch.full_like(noisy, 2.0)

    monkeypatch.setattr(method, "velocity", velocity)
    noise = torch.randn(2, 4, 3)
    torch.testing.assert_close(method.sample(context_of(2), noise).actions, noise + 2.0)
    assert times == pytest.approx([k / steps for k in range(steps)])


def test_steps_end_at_one_and_the_last_can_begin_late():
    assert euler_times(1, None) == euler_times(1, 0.9) == [0.0, 1.0]
    assert euler_times(4, None) == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert euler_times(2, 0.9) == pytest.approx([0.0, 0.9, 1.0])
    assert euler_times(4, 0.9) == pytest.approx([0.0, 0.3, 0.6, 0.9, 1.0])


def test_uneven_steps_follow_the_path_to_its_end(monkeypatch):
    method = opened(HrdtConfig(**{**vars(TINY), "sampling_steps": 2, "last_time": 0.9}))
    monkeypatch.setattr(method, "velocity", lambda noisy, time, memory: (1 + 10 * time)[:, None, None].expand_as(noisy))
    noise = torch.randn(2, 4, 3)
    torch.testing.assert_close(method.sample(context_of(2), noise).actions, noise + 0.9 * 1 + 0.1 * 10)


def test_the_velocity_is_zero_before_training():
    method = Hrdt(TINY, 3, 4, SEEN)
    noise = torch.randn(2, 4, 3)
    assert torch.equal(method.sample(context_of(2), noise).actions, noise)


def test_padding_of_a_prompt_changes_nothing_and_its_words_do():
    method, context, noise = opened(), context_of(2), torch.randn(2, 4, 3)

    def sampled(word: int) -> torch.Tensor:
        language = context.language.clone()
        language[:, word] += 1.0
        return method.sample(context._replace(language=language), noise).actions

    before = method.sample(context, noise).actions
    assert torch.equal(before, sampled(3))
    assert (before - sampled(2)).abs().max() > 1e-4


@pytest.mark.parametrize("part", ["state", "images", "language"])
def test_every_modality_is_seen_at_every_step(part):
    method, context, noise = opened(), context_of(2), torch.randn(2, 4, 3)
    before = method.sample(context, noise).actions
    for step in range(SEEN.obs_steps if part != "language" else 1):
        changed = getattr(context, part).clone()
        changed[:, step] += 1.0
        assert (before - method.sample(context._replace(**{part: changed}), noise).actions).abs().max() > 1e-4


def test_places_of_image_tokens_are_told_apart():
    method, context, noise = opened(), context_of(2), torch.randn(2, 4, 3)
    swapped = context._replace(images=context.images.flip(2))
    assert (method.sample(context, noise).actions - method.sample(swapped, noise).actions).abs().max() > 1e-4


def test_language_is_neither_modulated_nor_gated():
    states = ContextSpec(1, 3, language_tokens=6, language_dim=7)
    torch.manual_seed(0)
    block = Hrdt(TINY, 3, 4, states).blocks[0]
    x, time, words = torch.randn(2, 5, 16), torch.randn(2, 16), torch.randn(2, 6, 16)
    context = block.context(None, words, None)
    # Gates are closed at first: only the attention to language changes the tokens, whatever the time.
    after = block(x, time, context)
    torch.testing.assert_close(after, x + block.language.attention.attend(block.language.norm(x), context.language))
    assert torch.equal(after, block(x, -time, context))


def test_adapters_and_keys_run_once_per_chunk():
    method, calls = opened(), []
    for name, module in method.named_modules():
        if name.endswith(("image_adapter", "language_adapter", "state_adapter", "images.context_norm")):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    method.sample(context_of(2), torch.randn(2, 4, 3))
    assert sorted(calls) == sorted(
        ["state_adapter", "image_adapter", "language_adapter", *(f"blocks.{i}.images.context_norm" for i in range(2))]
    )


def test_all_weights_learn_when_every_modality_is_there():
    method, draw = Hrdt(TINY, 3, 4, SEEN), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(method.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        method.loss(torch.rand(8, 4, 3), context_of(8), draw).backward()
        optimizer.step()
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_policy_without_cameras_has_no_attention_to_images(new_policy):
    names = [name for name, _ in new_policy("hrdt", observations=VECTORS).named_parameters()]
    assert not [name for name in names if "image" in name]


def test_more_draws_per_observation_are_a_larger_batch_of_noise(monkeypatch):
    method = opened(HrdtConfig(**{**vars(TINY), "noise_draws": 3}))
    shapes = []
    velocity = method.velocity
    monkeypatch.setattr(method, "velocity", lambda *a: shapes.append(a[0].shape) or velocity(*a))
    method.loss(torch.rand(2, 4, 3), context_of(2), torch.Generator())
    assert shapes == [(6, 4, 3)]


def test_sinusoids_begin_with_one_radian_per_place():
    table = sinusoids(3, 4)
    torch.testing.assert_close(
        table[2], torch.tensor([2.0, 0.02, 0, 0]).sin() + torch.tensor([0, 0, -0.41614684, 0.99980001])
    )
    assert table[0].tolist() == [0.0, 0.0, 1.0, 1.0]


BAD_CONFIGS = {
    "layers is 0": {"layers": 0},
    "sampling_steps is 0": {"sampling_steps": 0},
    "noise_draws is 0": {"noise_draws": 0},
    "width 30": {"width": 30},
    "last_time is 0.999, must be between 0 and 0.999": {"last_time": 0.999},
    "last_time is 0.0": {"last_time": 0.0},
    "kv_heads 3": {"kv_heads": 3},
    "unknown time_distribution 'normal'.* Valid: logit_normal, uniform": {"time_distribution": "normal"},
}


@pytest.mark.parametrize(("message", "changes"), BAD_CONFIGS.items(), ids=BAD_CONFIGS.keys())
def test_wrong_configs_are_refused(new_policy, message, changes):
    with pytest.raises(ConfigError, match=message):
        new_policy("hrdt", method=changes)


def test_a_goal_is_refused():
    with pytest.raises(ConfigError, match="hrdt takes no goal"):
        Hrdt(TINY, 3, 4, ContextSpec(1, 3, goal_steps=1))
