from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from armature.errors import ConfigError, InvalidValue
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from armature.testing import check_policy
from policies.context import Context, ContextSpec
from policies.edm import EdmConfig, sigmas
from policies.presets.catalog import PRESETS
from policies.score import Score, ScoreConfig

VECTORS = (JOINT_POSITION, GRIPPER_OPENING)
TINY = ScoreConfig(width=32, layers=2, heads=2, attention_dropout=0.0, edm=EdmConfig(sigma_max=80.0))
GOALS = ContextSpec(obs_steps=1, state_dim=2, goal_steps=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def score_of(context=GOALS, seed=0, **changes):
    torch.manual_seed(seed)
    return Score(replace(TINY, **changes), 3, 4, context).eval()


def context_of(count, spec=GOALS, seed=0):
    state = torch.rand(count, spec.obs_steps, spec.state_dim, generator=generator(seed)) * 2 - 1
    goal = torch.rand(count, spec.goal_steps, spec.state_dim, generator=generator(seed + 1)) * 2 - 1
    return Context(state, torch.zeros(count, spec.obs_steps, 0, 0), goal=goal if spec.goal_steps else None)


@pytest.mark.parametrize("changes", [{"sampler": "euler_ancestral", "schedule": "linear"}, {"sampler": "heun"}])
def test_every_sampler_keeps_the_policy_protocol(new_policy, changes):
    check_policy(new_policy("score", observations=VECTORS, method={"edm": EdmConfig(**changes)}))


def test_an_action_does_not_see_later_ones_where_attention_is_causal():
    noise = torch.randn(1, 4, 3, generator=generator())
    later = noise.clone()
    later[:, 2:] += 1
    for causal in (True, False):
        score = score_of(causal=causal, guidance=1.0)
        first, second = (score.sample(context_of(1), n).actions for n in (noise, later))
        assert torch.equal(first[:, :2], second[:, :2]) == causal
        assert not torch.allclose(first[:, 2:], second[:, 2:])


def test_the_goal_changes_the_actions():
    score, noise = score_of(), torch.randn(1, 4, 3, generator=generator())
    context = context_of(1)
    moved = context._replace(goal=-context.goal)
    assert not torch.allclose(score.sample(context, noise).actions, score.sample(moved, noise).actions, atol=1e-4)


def test_guidance_extrapolates_from_the_action_without_a_goal():
    """With one step the sample is D at the highest level, which guidance mixes linearly."""
    noise, context = torch.randn(2, 4, 3, generator=generator()) / 1e4, context_of(2)
    found = {g: score_of(sampling_steps=1, guidance=g).sample(context, noise).actions for g in (0.0, 1.0, 2.5)}
    without = context._replace(goal=torch.zeros_like(context.goal))
    plain = score_of(sampling_steps=1, guidance=1.0).sample(without, noise).actions
    torch.testing.assert_close(found[0.0], plain, rtol=0, atol=1e-5)
    assert found[2.5].abs().max() < 1
    torch.testing.assert_close(found[2.5], plain + 2.5 * (found[1.0] - plain), rtol=0, atol=1e-5)
    assert not torch.allclose(found[1.0], plain, atol=1e-3)


@pytest.mark.parametrize(("guidance", "calls"), [(1.0, (3, 3)), (1.5, (3, 6))])
def test_three_network_calls_make_a_chunk_and_guidance_doubles_their_rows(guidance, calls):
    score, rows = score_of(guidance=guidance), []
    score.network.register_forward_hook(lambda _module, inputs, _output: rows.append(len(inputs[0])))
    score.sample(context_of(1), torch.randn(1, 4, 3))
    assert (len(rows), sum(rows)) == calls


def test_goals_are_left_out_for_whole_samples():
    score = score_of(goal_dropout=0.25)
    context = context_of(4000)
    kept = score._some_goals(context, generator()).goal
    gone = (kept == 0).flatten(1)
    assert torch.equal(gone.all(dim=1), gone.any(dim=1))
    assert gone.all(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(kept[~gone.all(dim=1)], context.goal[~gone.all(dim=1)])


def test_without_goals_neither_dropout_nor_guidance_has_a_part():
    spec = replace(GOALS, goal_steps=0)
    actions, noise = torch.zeros(2, 4, 3), torch.randn(2, 4, 3, generator=generator())
    plain, other = score_of(spec), score_of(spec, goal_dropout=0.5, guidance=2.0)
    context = context_of(2, spec)
    assert torch.equal(plain.sample(context, noise).actions, other.sample(context, noise).actions)
    assert plain.loss(actions, context, generator()) == other.loss(actions, context, generator())


def test_it_learns_to_reach_the_goal():
    """The actions are to repeat the goal's last step: by the goal alone can they be known."""
    score = score_of(goal_dropout=0.1, guidance=1.0, attention_dropout=0.0)
    optimizer = torch.optim.Adam(score.parameters(), 3e-3)
    for step in range(300):
        context = context_of(64, seed=2 * step)
        wanted = context.goal[:, -1:, [0, 1, 0]].expand(-1, 4, -1)
        loss = score.train().loss(wanted, context, generator(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    context = context_of(64, seed=9999)
    wanted = context.goal[:, -1:, [0, 1, 0]].expand(-1, 4, -1)
    with torch.no_grad():
        found = score.eval().sample(context, torch.randn(wanted.shape, generator=generator(1))).actions
    assert (found - wanted).abs().mean().item() < 0.15  # goals spread over [-1, 1]: 0.5 without them


def test_the_paper_preset_has_the_published_sizes():
    config = PRESETS["score_paper"](Path(), Path())
    method = config.method
    assert (method.width, method.layers, method.heads, method.attention_dropout) == (360, 6, 6, 0.3)
    assert (config.steps, config.batch_size, method.sampling_steps) == (40_000, 1024, 3)
    assert method.causal
    assert sigmas(method.edm, 3) == pytest.approx([1.0, 0.5025, 0.005, 0.0])
    with torch.device("meta"):
        blocks = Score(method, 9, 4, ContextSpec(obs_steps=1, state_dim=30, goal_steps=2)).network.blocks
    # 6 layers of 12 width^2 weights, about 9.3 M.
    assert sum(p.numel() for p in blocks.parameters()) == pytest.approx(6 * 12 * 360**2, rel=0.01)


BAD_CONFIGS = {
    "width 30: must be a multiple of the 4 heads": {"width": 30, "heads": 4},
    "sampling_steps is 0": {"sampling_steps": 0},
    "goal_dropout is 1": {"goal_dropout": 1.0},
    "guidance is 2.0, which needs goal_dropout": {"guidance": 2.0, "goal_dropout": 0.0},
}


@pytest.mark.parametrize(("message", "changes"), BAD_CONFIGS.items(), ids=BAD_CONFIGS.keys())
def test_wrong_configs_are_refused(message, changes):
    with pytest.raises(ConfigError, match=message):
        score_of(**changes)


def test_language_is_refused():
    with pytest.raises(ConfigError, match="no language"):
        score_of(ContextSpec(obs_steps=1, state_dim=2, language_tokens=4, language_dim=8))


def test_the_ancestral_sampler_without_a_generator_is_refused():
    with pytest.raises(InvalidValue, match="needs a generator"):
        score_of(edm=EdmConfig(sampler="euler_ancestral")).sample(context_of(1), torch.zeros(1, 4, 3))
