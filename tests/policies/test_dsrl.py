"""Steering by noise: the bound, targets and losses in literal numbers, the decoder, and a task that it solves."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from armature.errors import ConfigError, InvalidValue
from armature.spec import GRIPPER_OPENING, JOINT_POSITION
from policies.chunk_replay import ChunkBatch, ChunkLayout, Outlook, Seen
from policies.dsrl import Dsrl, DsrlConfig, NoiseActor
from policies.dsrl_learner import DsrlLearner, DsrlLearnerConfig
from policies.replay import Replay

SMALL = DsrlConfig(hidden=(32, 32), critics=3, draws=2)
LAYOUT = ChunkLayout(observation_dim=3, action_dim=2, noise_dim=4, draws=2)
STATE = (JOINT_POSITION, GRIPPER_OPENING)


def halve(observation, noise):
    """Stand in for a policy: the action is half of the first elements of the noise."""
    return noise[:, :2] / 2


def random_batch(count=16, seed=0):
    draw = torch.Generator().manual_seed(seed)
    seen, action, base = (torch.randn(count, dim, generator=draw) for dim in (3, 2, 2))
    noises = torch.randn(count, 2, 4, generator=draw)
    reward, discount = torch.zeros(count), torch.full((count,), 0.9)
    return ChunkBatch(seen, action, reward, discount, seen + 1, base, noises, noises[..., :2] / 2)


def constant(network, values):
    """Have every critic answer a number of its own, whatever it sees."""
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias[:, 0, 0] = torch.tensor(values)


def two_critics(**changes):
    return Dsrl(DsrlConfig(hidden=(8,), critics=2, draws=2, **changes), LAYOUT, halve)


@pytest.mark.parametrize("magnitude", [0.5, 1.5, 2.5])
def test_no_noise_is_beyond_the_magnitude_and_all_of_it_is_reached(magnitude):
    actor = NoiseActor(3, 4, (8,), magnitude)
    with torch.no_grad():
        actor.layers[-1].bias[:4] = torch.tensor([100.0, -100.0, 0.0, math.atanh(0.5)])
    seen, draw = torch.randn(200, 3), torch.Generator().manual_seed(0)
    assert actor.mode(seen)[0].tolist() == pytest.approx([magnitude, -magnitude, 0.0, 0.5 * magnitude])
    assert actor.draw(seen, draw)[0].abs().max() <= magnitude
    learner = Dsrl(replace(SMALL, magnitude=magnitude), LAYOUT, halve)
    assert learner.clip(torch.tensor([9.0, -9.0, 0.1])).tolist() == pytest.approx([magnitude, -magnitude, 0.1])


def test_before_any_update_noises_are_nearly_those_of_the_policy():
    learner = Dsrl(SMALL, LAYOUT, halve)
    seen = torch.randn(5000, 3)
    noise = learner.act(seen, explore=True)
    assert noise.mean(dim=0).tolist() == pytest.approx([0.0] * 4, abs=0.05)
    assert noise.std(dim=0).tolist() == pytest.approx([0.942] * 4, abs=0.03)
    assert torch.equal(learner.act(seen), torch.zeros(5000, 4))


def test_the_density_of_a_noise_is_that_of_its_distribution():
    """The mean of 1/density over draws is the size of the set they are in: 2 for one element in -1 to 1."""
    actor = NoiseActor(1, 1, (4,), 2.0)
    with torch.no_grad():
        actor.layers[-1].bias[:] = torch.tensor([0.3, -0.2])
        noise, log_density = actor.draw(torch.zeros(200_000, 1), torch.Generator().manual_seed(1))
    share = noise[:, 0] / 2.0
    within = (share.abs() < 0.9).float()
    assert float((within / log_density.exp()).mean()) == pytest.approx(1.8, abs=0.02)


def test_rewards_are_discounted_step_by_step_and_a_time_limit_is_no_end():
    assert Outlook.of([0.0, 0.0, 1.0], 0.9, terminated=True) == Outlook(pytest.approx(0.81), 0.0)
    assert Outlook.of([0.0, 0.5], 0.9, terminated=False) == Outlook(pytest.approx(0.45), pytest.approx(0.81))
    assert Outlook.of([0.0] * 4, 0.5, terminated=False) == Outlook(0.0, 0.0625)


def test_a_row_holds_a_transition_and_refuses_what_is_not_finite():
    seen = Seen(np.arange(3.0), np.array([3.0, 4.0]), np.arange(8.0).reshape(2, 4), np.arange(4.0).reshape(2, 2))
    then = Seen(np.arange(5.0, 8.0), np.array([8.0, 9.0]), seen.noises, seen.chunks)
    row = LAYOUT.row(seen, np.array([1.0, 2.0]), Outlook(0.5, 0.25), then)
    batch = LAYOUT.split(torch.from_numpy(row)[None])
    expected = {"observation": [[0, 1, 2]], "action": [[1, 2]], "reward": [0.5], "discount": [0.25],
                "next_observation": [[5, 6, 7]], "next_base": [[8, 9]],
                "noises": [[[0, 1, 2, 3], [4, 5, 6, 7]]], "chunks": [[[0, 1], [2, 3]]]}  # fmt: skip
    assert {name: getattr(batch, name).tolist() for name in expected} == expected
    with pytest.raises(InvalidValue, match="all of them finite"):
        LAYOUT.row(seen, np.array([1.0, np.nan]), Outlook(0.5, 0.25), then)


def test_targets_are_of_the_actor_in_its_share_of_the_chunks_and_of_the_policy_in_the_rest():
    learner = two_critics()
    constant(learner.target_critics, [0.5, 0.2])
    constant(learner.target_noise_critics, [0.8, 0.6])
    batch = random_batch(3)
    for share, after in ((0.0, 0.2), (1.0, 0.6), (0.25, 0.3)):
        assert learner.targets(batch, share).tolist() == pytest.approx([0.9 * after] * 3)
    ended = replace(batch, reward=torch.tensor([1.0, 0.5, 0.0]), discount=torch.zeros(3))
    assert learner.targets(ended).tolist() == [1.0, 0.5, 0.0]
    constant(learner.target_noise_critics, [7.0, 8.0])
    assert learner.targets(batch).tolist() == [1.0] * 3


def test_as_many_rows_are_denoised_as_configured_and_valued_as_actions():
    asked = []

    def decode(observation, noise):
        asked.append((len(observation), float(noise.abs().max())))
        return halve(observation, noise)

    learner = Dsrl(DsrlConfig(hidden=(8,), critics=2, draws=2, decode_rows=2), LAYOUT, decode)
    constant(learner.target_critics, [0.5, 0.2])
    constant(learner.target_noise_critics, [0.8, 0.6])
    assert learner.targets(random_batch(4)).tolist() == pytest.approx([0.18, 0.18, 0.54, 0.54])
    assert [count for count, _ in asked] == [2]
    assert asked[0][1] <= 1.5
    learner.targets(random_batch(4), share=0.0)
    assert len(asked) == 1


def test_each_noise_critic_learns_what_its_own_critic_says_of_the_chunk():
    learner = two_critics(critic_lr=1e-2)
    constant(learner.critics, [0.7, 0.1])
    figures = [learner.distil(random_batch(64, seed=k))["distil_loss"] for k in range(300)]
    assert figures[-1] < 1e-3 < figures[0]
    batch = random_batch(64)
    values = learner.noise_critics(torch.cat([batch.observation, batch.noises[:, 0]], dim=1)).mean(dim=1)
    assert values.tolist() == pytest.approx([0.7, 0.1], abs=0.05)


def test_every_update_changes_its_own_network_only():
    learner = Dsrl(SMALL, LAYOUT, halve)
    updates = {"critics": learner.update_critics, "noise_critics": learner.distil, "actor": learner.update_actor}
    for name, update in updates.items():
        before = {each: copy.deepcopy(getattr(learner, each).state_dict()) for each in updates}
        update(random_batch())
        for each, weights in before.items():
            same = all(torch.equal(value, weights[key]) for key, value in getattr(learner, each).state_dict().items())
            assert same == (each != name)


def test_targets_follow_slowly():
    learner = Dsrl(SMALL, LAYOUT, halve)
    before = copy.deepcopy(learner.target_noise_critics)
    learner.distil(random_batch())
    networks = before, learner.target_noise_critics, learner.noise_critics
    for old, target, network in zip(*(each.parameters() for each in networks), strict=True):
        torch.testing.assert_close(target, old + 0.005 * (network - old))


def test_the_temperature_falls_while_the_noise_is_more_random_than_asked_for():
    learner = Dsrl(replace(SMALL, temperature_lr=0.1), LAYOUT, halve)
    figures = [learner.update_actor(random_batch()) for _ in range(3)]
    # Nearly uniform in the beginning: its entropy is log 2 at most.
    assert 0.6 < figures[0]["entropy"] < math.log(2)
    assert figures[0]["temperature"] == pytest.approx(0.1)
    assert figures[2]["temperature"] < figures[1]["temperature"] < 0.1
    eager = Dsrl(replace(SMALL, entropy_target=0.69), LAYOUT, halve)
    eager.update_actor(random_batch())
    assert eager.update_actor(random_batch())["temperature"] > 0.1


def test_a_seed_determines_everything():
    def weights(seed):
        learner = Dsrl(SMALL, LAYOUT, halve, seed)
        for step in range(3):
            for update in (learner.update_critics, learner.distil, learner.update_actor):
                update(random_batch(seed=step))
        return torch.cat([p.detach().flatten() for p in learner.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"magnitude": 0.0}, "dsrl.magnitude is 0.0"),
        ({"magnitude": math.inf}, "dsrl.magnitude is inf"),
        ({"draws": 0}, "dsrl.draws is 0"),
        ({"critics_of_target": 6}, "critics_of_target is 6, must be 1 to 5"),
        ({"discount": 1.5}, "dsrl.discount is 1.5"),
        ({"decode_rows": -1}, "decode_rows is -1"),
        ({"entropy_target": 0.7}, "entropy_target is 0.7, must be below log 2"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        DsrlConfig(**changes)


def learner_of(config, shown=None):
    online = Replay(LAYOUT, 10)
    dsrl = Dsrl(config.dsrl, LAYOUT, halve)
    return DsrlLearner(config, dsrl, "base-1", online, shown)


def a_row(value=0.0):
    return np.full(sum(LAYOUT.sizes), value, np.float32)


def test_learning_is_paced_by_steps_and_begins_with_the_critics_alone():
    config = DsrlLearnerConfig(dsrl=SMALL, batch_size=4, warmup_steps=8, critic_warmup_updates=2, updates_per_step=0.25)
    learner = learner_of(config)
    learner.take(a_row(), 7)
    assert not learner.is_due
    learner.take(None, 1)
    figures = []
    while learner.is_due:
        assert learner.share == 0.0
        figures.append(learner.update())
    assert learner.updates == 2
    assert not any("actor_value" in each for each in figures)
    assert learner.is_warm
    assert learner.share == 0.2
    learner.take(a_row(), 8)
    while learner.is_due:
        figures.append(learner.update())
    assert learner.updates == 4
    assert "actor_value" in figures[2]


def test_an_actor_that_fails_is_given_up_for_the_last_that_did_well():
    learner = learner_of(DsrlLearnerConfig(dsrl=SMALL, batch_size=4, warmup_steps=8, critic_warmup_updates=1))
    seen = torch.randn(5, 3)
    begin = learner.dsrl.act(seen)
    learner.take(a_row(), 20)
    while learner.is_due:
        learner.update()
    good = learner.dsrl.act(seen)
    assert not torch.equal(good, begin)
    for _ in range(10):
        learner.guard.record_base(success=True)
    for _ in range(10):
        learner.judge(0.2, success=True)
    learner.take(a_row(), 20)
    while learner.is_due:
        learner.update()
    assert not torch.equal(learner.dsrl.act(seen), good)
    for _ in range(5):
        learner.judge(learner.share, success=False)
    assert torch.equal(learner.dsrl.act(seen), good)


def test_half_of_every_batch_is_demonstrations(monkeypatch):
    shown = Replay(LAYOUT, 10)
    shown.add([a_row(5.0)])
    learner = learner_of(DsrlLearnerConfig(dsrl=SMALL, batch_size=6), shown)
    learner.take(a_row(1.0), 8)
    batches = []
    monkeypatch.setattr(learner.dsrl, "distil", lambda batch: batches.append(batch) or {})
    learner.update()
    assert sorted(batches[0].reward.tolist()) == [1.0] * 3 + [5.0] * 3
    with pytest.raises(ConfigError, match="hold no transition"):
        learner_of(DsrlLearnerConfig(dsrl=SMALL), Replay(LAYOUT, 10))


def test_a_learner_that_diverged_says_so():
    learner = learner_of(DsrlLearnerConfig(dsrl=SMALL, batch_size=4))
    learner.take(a_row(), 8)
    with torch.no_grad():
        learner.dsrl.critics.last.bias.fill_(math.nan)
    with pytest.raises(InvalidValue, match="critic_loss is nan at update 1"):
        learner.update()


def test_a_policy_that_stops_short_is_steered_to_where_it_succeeds():
    """A point is to be brought to 0: the policy moves by half of its noise, and reaches it only by a rare noise."""
    config = DsrlConfig(hidden=(64, 64), critics=3, draws=4, critic_lr=3e-3, actor_lr=3e-3, polyak=0.02)
    layout = ChunkLayout(2, 2, 4, 4)
    learner, rng = Dsrl(config, layout, halve), np.random.default_rng(0)
    replay, draw = Replay(layout, 5000), torch.Generator().manual_seed(0)

    def look(place, noise):
        noises = learner.clip(torch.randn(4, 4, generator=draw))
        if noise is not None:
            noises[0] = noise
        base = halve(None, torch.randn(1, 4, generator=draw))[0]
        return Seen(place, base.numpy(), noises.numpy(), halve(None, noises).numpy())

    def run(explore, is_steered=True):
        place = rng.uniform(-0.6, 0.6, 2).astype(np.float32)
        noise = learner.act(torch.from_numpy(place)[None], explore=explore)[0] if is_steered else None
        seen = look(place, noise)
        action = seen.chunks[0]
        success = bool(np.abs(place + action).max() < 0.15)
        after = Outlook.of([float(success)], config.discount, terminated=True)
        replay.add([layout.row(seen, action, after, seen)])
        return success

    before = sum(run(explore=True, is_steered=False) for _ in range(200))
    assert before < 30
    for episode in range(400):
        run(explore=True)
        learner.update_critics(replay.sample(128, learner.generator))
        learner.distil(replay.sample(128, learner.generator))
        if episode > 100:
            learner.update_actor(replay.sample(128, learner.generator))
    after = sum(run(explore=False) for _ in range(100))
    assert after >= 90
