"""Chunks go on from committed actions: the mask, the pull, and every family that can be guided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from armature.errors import ConfigError, InvalidValue
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from armature.testing import random_observation
from armature.types import CommittedActions
from policies.context import Context, ContextSpec
from policies.diffusion import Diffusion, DiffusionConfig, clean_of, prediction_of, prediction_target, schedulers
from policies.edm import EdmConfig
from policies.guidance import Guidance, align, guided, soft_mask
from policies.hrdt import Hrdt, HrdtConfig
from policies.registry import METHODS, method_class

MS = 1_000_000
VECTORS = (JOINT_POSITION, GRIPPER_OPENING)
GUIDED = ("diffusion", "score", "mode", "hrdt")
UNGUIDED = ("ebt", "bc")


def committed(actions, start_ms: int = 0, period_ms: int = 50, delay_ms: int = 0) -> CommittedActions:
    values = np.asarray(actions, dtype=np.float64)
    return CommittedActions(
        start_ms * MS, period_ms * MS, values if values.ndim == 2 else values[:, None], delay_ms * MS
    )


def aligned(given: CommittedActions, start_ms: int = 0, steps: int = 4, period_ms: int = 50):
    found = align(given, start_ms * MS, period_ms * MS, (steps, 1))
    return found.actions[:, 0].tolist(), found.weights.tolist()


def test_the_mask_is_one_before_the_delay_then_falls_exponentially_and_ends_with_the_overlap():
    # c = 4/5, 3/5, 2/5, 1/5 and c (e^c - 1) / (e - 1).
    expected = [1, 1, 0.570589, 0.287072, 0.114492, 0.025770, 0, 0]
    np.testing.assert_allclose(soft_mask(2, 6, 8), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("delay", "overlap", "expected"),
    [
        (3, 3, [1, 1, 1, 0]),
        (9, 3, [1, 1, 1, 0]),
        (9, 9, [1, 1, 1, 1]),
        (2, 0, [0, 0, 0, 0]),
        (0, 1, [0.5 * np.expm1(0.5) / np.expm1(1), 0, 0, 0]),
    ],
)
def test_a_delay_beyond_the_overlap_freezes_what_there_is(delay, overlap, expected):
    np.testing.assert_allclose(soft_mask(delay, overlap, 4), expected, atol=1e-12)


def test_committed_actions_are_read_at_the_times_of_the_chunk():
    assert aligned(committed([0, 1, 2, 3], delay_ms=200)) == ([0, 1, 2, 3], [1, 1, 1, 1])
    assert aligned(committed([0, 1, 2, 3], delay_ms=200), start_ms=100) == ([2, 3, 3, 3], [1, 1, 0, 0])
    assert aligned(committed([0, 1, 2, 3], delay_ms=200), start_ms=75)[0] == [1.5, 2.5, 3, 3]


def test_the_last_committed_action_is_held_for_its_period_and_no_longer():
    assert aligned(committed([0, 1], delay_ms=200), start_ms=25) == ([0.5, 1, 1, 1], [1, 1, 0, 0])
    assert aligned(committed([0, 1], delay_ms=200), start_ms=50) == ([1, 1, 1, 1], [1, 0, 0, 0])
    assert aligned(committed([0, 1], delay_ms=200), start_ms=100)[1] == [0, 0, 0, 0]


def test_another_period_is_interpolated():
    assert aligned(committed([0, 10, 20, 30], period_ms=20, delay_ms=200))[0] == [0, 25, 30, 30]
    assert aligned(committed([0, 10, 20, 30], period_ms=20, delay_ms=200))[1] == [1, 1, 0, 0]


def test_steps_before_anything_is_committed_are_free():
    assert aligned(committed([5, 6, 7], start_ms=50, delay_ms=200)) == ([5, 5, 6, 7], [0, 1, 1, 1])


@pytest.mark.parametrize(("delay_ms", "frozen"), [(0, 0), (1, 1), (50, 1), (51, 2), (100, 2), (149, 3)])
def test_every_step_that_begins_before_the_chunk_arrives_is_frozen(delay_ms, frozen):
    assert aligned(committed([0, 1, 2, 3], delay_ms=delay_ms))[1].count(1.0) == frozen


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (committed([0, float("nan")]), "must be finite"),
        (CommittedActions(0, 50, np.zeros(3), 0), r"\(3,\): must be finite, \(n, 1\)"),
        (committed(np.zeros((0, 1))), r"\(0, 1\)"),
        (committed(np.zeros((3, 2))), r"\(3, 2\): must be finite, \(n, 1\)"),
        (CommittedActions(0, 0, np.zeros((2, 1)), 0), "period 0 ns"),
        (CommittedActions(0, 50, np.zeros((2, 1)), -1), "delay -1 ns"),
    ],
)
def test_malformed_committed_actions_are_refused(wrong, message):
    with pytest.raises(InvalidValue, match=message):
        align(wrong, 0, 50, (4, 1))


def pull(signal: float, noise: float, weight: float, denoise=lambda x: 0.5 * x) -> torch.Tensor:
    noisy, target = torch.full((1, 2, 1), 2.0), torch.full((1, 2, 1), 3.0)
    return guided(denoise, noisy, signal, noise, Guidance(target, torch.full((1, 2, 1), weight))).flatten()


@pytest.mark.parametrize(
    ("signal", "noise", "weight"),
    [
        (0.6, 0.8, 1 / 0.48),  # the squares add to 1
        (0.1, 0.9, 5.0),  # 0.82 / 0.09 = 9.1 is limited
        (0.0, 1.0, 5.0),
        (0.9, 0.1, 0.82 / 0.09),  # the same, but signal prevails
        (1.0, 2.0, 2.5),
    ],
)
def test_the_estimate_moves_along_the_gradient_by_the_weight_of_the_noise_level(signal, noise, weight):
    # The estimate is 1, its error 2, the mask 0.25, the derivative 0.5.
    expected = 1 + noise * weight * 0.5 * 0.25 * 2
    np.testing.assert_allclose(pull(signal, noise, 0.25), [expected, expected], rtol=1e-6)


def test_an_error_moves_the_other_steps_that_hang_on_it_too():
    def denoise(x):
        return x.flip(1) * 0.5

    target, mask = torch.tensor([[[3.0], [9.0]]]), torch.tensor([[[0.5], [0.0]]])
    found = guided(denoise, torch.full((1, 2, 1), 2.0), 0.6, 0.8, Guidance(target, mask))
    # Only the first step's error of 2 counts, and it hangs on the second step of the noisy chunk.
    np.testing.assert_allclose(found.flatten(), [1.0, 1 + 0.8 / 0.48 * 0.5 * 0.5 * 2], rtol=1e-6)


def test_frozen_steps_are_what_was_committed():
    assert pull(0.6, 0.8, 1.0).tolist() == [3.0, 3.0]


def test_no_graph_is_left_behind():
    assert not pull(0.6, 0.8, 0.5).requires_grad


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_clean_chunk_is_found_in_each_kind_of_prediction(prediction):
    noising, _ = schedulers(DiffusionConfig(prediction=prediction))
    actions, noise, step = torch.rand(2, 4, 3), torch.randn(2, 4, 3), torch.tensor([40, 40])
    noisy, target = noising.add_noise(actions, noise, step), prediction_target(noising, actions, noise, step)
    kept = noising.alphas_cumprod[40].item()
    level = kept**0.5, (1 - kept) ** 0.5
    torch.testing.assert_close(clean_of(prediction, target, noisy, *level), actions, rtol=0, atol=1e-5)
    torch.testing.assert_close(prediction_of(prediction, actions, noisy, *level), target, rtol=0, atol=1e-5)


VARIANTS = {
    "diffusion, ddim": ("diffusion", {"sampler": "ddim"}),
    "diffusion, ddpm": ("diffusion", {"sampler": "ddpm"}),
    "diffusion, dpm++": ("diffusion", {"sampler": "dpm++"}),
    "diffusion, trailing": ("diffusion", {"spacing": "trailing"}),
    "diffusion, sample": ("diffusion", {"prediction": "sample"}),
    "diffusion, v": ("diffusion", {"prediction": "v_prediction"}),
    "score": ("score", {}),
    "score, heun": ("score", {"edm": EdmConfig(sampler="heun")}),
    "mode": ("mode", {}),
    "mode, ancestral": ("mode", {"edm": EdmConfig(sampler="euler_ancestral")}),
    "hrdt": ("hrdt", {}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def answer(policy, observation, given: CommittedActions | None, seed: int = 3) -> np.ndarray:
    policy.reset(seed)
    return policy.infer(observation, given).actions


def plan_for(policy, observation, delay_steps: int, steps: int) -> CommittedActions:
    """Commit to what the policy itself would do from another noise, so that it is within its reach."""
    actions = answer(policy, observation, None, seed=8)[:steps]
    return CommittedActions(observation.stamp_ns, policy.spec.action.period_ns, actions, delay_steps * 50 * MS)


@every_variant
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_guided_chunk_begins_with_the_committed_actions_in_physical_units(new_policy, variant, relative):
    family, method = variant
    policy = new_policy(family, method=method, observations=VECTORS, relative_actions=relative)
    observation = random_observation(policy.spec, 1, np.random.default_rng(1), 7 * MS)
    given = plan_for(policy, observation, delay_steps=3, steps=6)
    free, held = answer(policy, observation, None), answer(policy, observation, given)
    assert np.abs(free[:3] - given.actions[:3]).max() > 0.02
    np.testing.assert_allclose(held[:3], given.actions[:3], atol=1e-4)


@pytest.mark.parametrize(
    # A network that predicts the chunk itself hardly looks at the noise before it has learned: there is no gradient.
    "variant",
    [variant for name, variant in VARIANTS.items() if name != "diffusion, sample"],
    ids=[name for name in VARIANTS if name != "diffusion, sample"],
)
def test_guidance_brings_the_steps_that_are_still_free_nearer_to_the_committed_ones(new_policy, variant):
    family, method = variant
    policy = new_policy(family, method=method, observations=VECTORS)
    free, pulled = [], []
    for seed in range(6):
        observation = random_observation(policy.spec, 1, np.random.default_rng(seed), 0)
        given = plan_for(policy, observation, delay_steps=2, steps=6)
        free.append(answer(policy, observation, None)[2:6] - given.actions[2:])
        pulled.append(answer(policy, observation, given)[2:6] - given.actions[2:])
    assert np.abs(pulled).mean() < 0.75 * np.abs(free).mean()


def learned_two_ways(method) -> None:
    """Teach chunks (8, 1) that stay at +0.6 or at -0.6, with equal chance, whatever is observed."""
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(method.parameters(), 2e-3)
    for _ in range(400):
        side = torch.randint(2, (64, 1, 1), generator=draw) * 2.0 - 1.0
        actions = 0.6 * side + 0.03 * torch.randn(64, 8, 1, generator=draw)
        optimizer.zero_grad()
        method.loss(actions, nothing_seen(64), draw).backward()
        optimizer.step()
    method.requires_grad_(False).eval()


def nothing_seen(count: int) -> Context:
    return Context(torch.zeros(count, 1, 1), torch.zeros(count, 1, 0, 0))


TWO_WAYS = {
    "diffusion": lambda seen: Diffusion(DiffusionConfig(denoiser="mlp", sampling_steps=20), 1, 8, seen),
    "hrdt": lambda seen: Hrdt(HrdtConfig(width=16, layers=2, heads=4, kv_heads=2, hidden=32), 1, 8, seen),
}


@pytest.mark.parametrize(
    "make", [pytest.param(TWO_WAYS["diffusion"], marks=pytest.mark.slow), TWO_WAYS["hrdt"]], ids=["diffusion", "hrdt"]
)
def test_where_there_are_two_ways_a_guided_chunk_keeps_to_the_one_that_was_begun(make):
    torch.manual_seed(0)
    method = make(ContextSpec(obs_steps=1, state_dim=1))
    learned_two_ways(method)
    noise = torch.randn(200, 8, 1, generator=torch.Generator().manual_seed(1))
    weights = torch.from_numpy(soft_mask(2, 4, 8)).float()[:, None]
    free = method.sample(nothing_seen(200), noise).actions
    held = method.sample(nothing_seen(200), noise, None, Guidance(torch.full((200, 8, 1), 0.6), weights)).actions
    assert 0.3 < (free[:, 4:] > 0.3).all(dim=1).float().mean() < 0.7
    # Of the last four steps nothing was committed.
    assert (held[:, 4:] > 0.3).all(dim=1).float().mean() > 0.75


@pytest.mark.parametrize("family", METHODS)
def test_with_nothing_committed_the_answer_is_the_same_to_the_last_bit(new_policy, family):
    policy = new_policy(family)
    observation = random_observation(policy.spec, 1, np.random.default_rng(0), 0)
    policy.reset(3)
    expected = policy.infer(observation).actions
    assert np.array_equal(answer(policy, observation, None), expected)


@pytest.mark.parametrize("family", GUIDED)
def test_committed_actions_that_are_over_change_nothing(new_policy, family):
    policy = new_policy(family)
    observation = random_observation(policy.spec, 1, np.random.default_rng(0), 1000 * MS)
    past = committed(np.zeros((4, 3)), start_ms=800, delay_ms=100)
    assert np.array_equal(answer(policy, observation, past), answer(policy, observation, None))
    last = committed(np.zeros((5, 3)), start_ms=800, delay_ms=100)
    assert not np.array_equal(answer(policy, observation, last), answer(policy, observation, None))


@pytest.mark.parametrize("family", UNGUIDED)
def test_families_that_cannot_be_guided_say_so_and_name_those_that_can(new_policy, family):
    policy = new_policy(family, observations=VECTORS)
    observation = random_observation(policy.spec, 1, np.random.default_rng(0), 0)
    with pytest.raises(ConfigError, match=rf"family {family} cannot go on .*Valid: diffusion, score, mode, hrdt"):
        policy.infer(observation, committed(np.zeros((4, 3))))


def test_every_family_is_known_to_be_guided_or_not():
    assert {name for name in METHODS if getattr(method_class(name), "takes_committed", False)} == set(GUIDED)
    assert set(GUIDED) | set(UNGUIDED) == set(METHODS)


@pytest.mark.parametrize("family", GUIDED)
def test_episodes_answered_together_each_go_on_from_their_own_actions_or_from_none(new_policy, family):
    policy = new_policy(family, observations=VECTORS)
    rng = np.random.default_rng(0)
    observations = [random_observation(policy.spec, 1, rng, 0) for _ in range(3)]
    given = [plan_for(policy, observations[0], 2, 6), None, plan_for(policy, observations[2], 1, 4)]
    together = policy.infer_batch(observations, [policy.begin(seed) for seed in (1, 2, 3)], given)
    for seed, observation, told, chunk in zip((1, 2, 3), observations, given, together, strict=True):
        np.testing.assert_allclose(chunk.actions, answer(policy, observation, told, seed), atol=1e-4)


def test_a_goal_guided_policy_goes_on_too(new_policy):
    policy = new_policy("score", observations=VECTORS, goal_steps=1, method={"guidance": 1.5})
    rng = np.random.default_rng(0)
    policy.set_goal(random_observation(policy.spec, 1, rng, 0).values)
    observation = random_observation(policy.spec, 1, rng, 0)
    given = plan_for(policy, observation, delay_steps=3, steps=6)
    np.testing.assert_allclose(answer(policy, observation, given)[:3], given.actions[:3], atol=1e-4)


def test_fused_experts_guide_as_the_experts_themselves(new_policy):
    policy = new_policy("mode", observations=VECTORS)
    observation = random_observation(policy.spec, 1, np.random.default_rng(0), 0)
    given = plan_for(policy, observation, delay_steps=2, steps=6)
    cached = answer(policy, observation, given)
    assert policy.method.fused is not None
    policy.method.config = replace(policy.method.config, cache_experts=False)
    np.testing.assert_allclose(cached, answer(policy, observation, given), atol=1e-4)


def test_an_engine_answers_only_where_nothing_is_committed(new_policy):
    policy = new_policy(observations=VECTORS)
    observation = random_observation(policy.spec, 1, np.random.default_rng(0), 0)
    given = plan_for(policy, observation, delay_steps=2, steps=6)
    free, held = answer(policy, observation, None), answer(policy, observation, given)
    calls = []

    def engine(values, noise, generator):
        calls.append(tuple(noise.shape))
        return policy.sample(values, noise, generator)

    policy.engine = engine
    assert np.array_equal(answer(policy, observation, given), held)
    assert calls == []
    assert np.array_equal(answer(policy, observation, None), free)
    assert calls == [(1, 8, 3)]
