"""When is learned how much, and from what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from armature.errors import ConfigError, InvalidValue
from policies.replay import Batch, Layout, Replay
from policies.residual_guard import GuardConfig, Verdict
from policies.residual_learner import LearnerConfig, ResidualLearner
from policies.residual_td3 import ResidualConfig, ResidualTd3

LAYOUT = Layout(3, 2)
TD3 = ResidualConfig(hidden=(16, 16), critics=2)
CONFIG = LearnerConfig(
    td3=TD3, guard=GuardConfig(), batch_size=8, warmup_steps=10, critic_warmup_updates=4, updates_per_step=0.5
)


def rows(count: int, reward: float = 0.0) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [
        LAYOUT.join(*(draw.normal(size=d) for d in (3, 2, 2)), reward, 0.9, draw.normal(size=3), draw.normal(size=2))
        for _ in range(count)
    ]


def learner_of(config: LearnerConfig = CONFIG, demonstrations: Replay | None = None) -> ResidualLearner:
    td3 = ResidualTd3(config.td3, 3, 2, bound=np.array([0.5, 0.25]))
    return ResidualLearner(config, td3, "diffusion-0123", Replay(LAYOUT, 100), demonstrations)


def test_without_demonstrations_the_critics_alone_learn_in_the_warm_up():
    learner = learner_of()
    learner.take(rows(9))
    assert not learner.is_due
    learner.take(rows(1))
    actor = {name: tensor.clone() for name, tensor in learner.td3.actor.state_dict().items()}
    count = 0
    while learner.is_due:
        learner.update()
        count += 1
    assert count == 4
    assert all(torch.equal(tensor, actor[name]) for name, tensor in learner.td3.actor.state_dict().items())
    # An optimiser that has counted steps without a gradient takes far too large ones at first.
    assert not learner.td3.actor_optimizer.state
    assert learner.is_warm


def demonstrations() -> Replay:
    kept = Replay(LAYOUT, 100)
    kept.add(rows(50))
    return kept


def test_before_the_actor_acts_only_demonstrations_teach_it():
    """Critics that value one direction above all have no say yet: the actor is the one of critics that value none."""

    def taught(slope: float) -> torch.Tensor:
        learner = learner_of(replace(CONFIG, td3=replace(TD3, critic_lr=1e-12)), demonstrations())
        with torch.no_grad():
            for tensor in (*learner.td3.critics.parameters(), *learner.td3.target_critics.parameters()):
                tensor.mul_(slope)
        learn(learner, 10)
        assert learner.is_warm
        return corrections(learner)

    assert taught(1.0).abs().max() > 0
    assert torch.equal(taught(1.0), taught(50.0))


def test_critics_are_believed_as_far_as_the_actor_may_act(monkeypatch: pytest.MonkeyPatch):
    learner, beliefs, rooms = learner_of(demonstrations=demonstrations()), [], []
    update, update_critics = learner.td3.update_actor, learner.td3.update_critics

    def noted(*inputs: Any, share: float, belief: float) -> dict[str, float]:
        beliefs.append((share, belief))
        return update(*inputs, share=share, belief=belief)

    def noted_critics(batch: Batch, share: float) -> dict[str, float]:
        rooms.append(share)
        return update_critics(batch, share)

    monkeypatch.setattr(learner.td3, "update_actor", noted)
    monkeypatch.setattr(learner.td3, "update_critics", noted_critics)
    learn(learner, 10 + 8)
    assert beliefs == [(0.2, 0.0)] * 2 + [(0.2, 0.2)] * 2
    # Their targets follow what the actor is about to do, in the warm-up as well.
    assert rooms == [0.2] * 8


def test_an_actor_that_was_taught_before_stays_as_it_is_until_it_acts():
    td3 = ResidualTd3(TD3, 3, 2)
    learner = ResidualLearner(CONFIG, td3, "diffusion-0123", Replay(LAYOUT, 100), demonstrations(), is_new=False)
    learn(learner, 10)
    assert learner.is_warm
    assert corrections(learner).abs().max() == 0
    learn(learner, 8)
    assert corrections(learner).abs().max() > 0


def test_exploration_is_wide_in_the_warm_up_and_then_as_small_as_the_actors_room():
    learner = learner_of(replace(CONFIG, noise_std=0.4))
    assert learner.noise_std == learner.weights().noise_std == 0.4
    learn(learner, 10)
    assert learner.share == 0.2
    assert learner.noise_std == learner.weights().noise_std == pytest.approx(0.08)


def test_updates_keep_their_ratio_to_transitions():
    learner = learner_of()
    learner.take(rows(10 + 20))
    while learner.is_due:
        learner.update()
    assert learner.updates == 4 + 10


def test_the_residual_has_no_share_until_the_critics_know_the_base():
    learner = learner_of()
    assert learner.share == learner.weights().share == 0.0
    learner.take(rows(10))
    while learner.is_due:
        learner.update()
    assert learner.share == learner.weights().share == CONFIG.guard.share_first


def corrections(learner: ResidualLearner) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return learner.td3.acting(torch.randn(20, 3, generator=draw), torch.randn(20, 2, generator=draw))


def learn(learner: ResidualLearner, count: int) -> None:
    learner.take(rows(count))
    while learner.is_due:
        learner.update()


def test_an_actor_that_the_guard_gave_more_room_is_gone_back_to_when_a_later_one_fails():
    learner = learner_of()
    learn(learner, 20)
    for _ in range(10):
        learner.guard.record_base(success=True)
    for _ in range(10):
        learner.judge(0.2, success=True)
    good = corrections(learner)
    assert good.abs().max() > 0
    learn(learner, 40)
    assert not torch.equal(corrections(learner), good)
    for _ in range(5):
        learner.judge(learner.share, success=False)
    assert learner.guard.cuts == 1
    assert torch.equal(corrections(learner), good)
    learn(learner, 4)
    assert not torch.equal(corrections(learner), good)


def test_an_actor_that_did_better_is_gone_back_to_at_the_same_share_and_only_the_new_one_counts():
    learner = learner_of()
    learn(learner, 20)
    for k in range(10):
        learner.guard.record_base(success=k < 2)
    for _ in range(10):
        learner.judge(0.2, success=True, version=learner.updates)
    good, share = corrections(learner), learner.share
    learn(learner, 40)
    given_up = learner.updates
    verdicts = [learner.judge(share, success=k == 0, version=given_up) for k in range(5)]
    assert (verdicts[-1], learner.share) == (Verdict.RETURNS, share)
    assert torch.equal(corrections(learner), good)
    # Episodes of the one that was given up, which end only now.
    for _ in range(20):
        assert learner.judge(share, success=False, version=given_up) is Verdict.STAYS
    assert learner.guard.returns == 1
    learn(learner, 4)
    verdicts = [learner.judge(share, success=False, version=learner.updates) for _ in range(5)]
    assert verdicts != [Verdict.STAYS] * 5


def test_what_acts_is_an_average_of_the_actors():
    config = replace(CONFIG, td3=replace(TD3, actor_average=0.5, actor_lr=1e-2))
    learner = learner_of(config)
    learn(learner, 10)
    before = [p.clone() for p in learner.td3.acting.parameters()]
    learn(learner, 4)
    for average, newest, old in zip(
        learner.td3.acting.parameters(), learner.td3.actor.parameters(), before, strict=True
    ):
        assert torch.allclose(average, (newest + old) / 2.0, atol=1e-7)
    newest = learner_of(replace(config, td3=replace(TD3, actor_average=0.0, actor_lr=1e-2)))
    learn(newest, 30)
    assert newest.td3.actor.layers[-2].weight.any()
    assert all(map(torch.equal, newest.td3.acting.parameters(), newest.td3.actor.parameters()))


def test_an_actor_that_fails_before_any_did_well_begins_anew_at_the_base():
    learner = learner_of()
    learn(learner, 40)
    for _ in range(10):
        learner.guard.record_base(success=True)
    assert corrections(learner).any()
    for _ in range(5):
        learner.judge(0.2, success=False)
    assert not corrections(learner).any()


def test_what_a_person_did_is_drawn_with_the_demonstrations_row_for_row():
    shown, human = Replay(LAYOUT, 10), Replay(LAYOUT, 10)
    shown.add(rows(6, reward=1.0))
    td3 = ResidualTd3(CONFIG.td3, 3, 2, bound=np.array([0.5, 0.25]))
    learner = ResidualLearner(CONFIG, td3, "diffusion-0123", Replay(LAYOUT, 100), shown, human)
    learner.take(rows(10, reward=0.0))
    batch, count = learner._batch()
    assert (batch.reward.tolist(), count) == ([1.0] * 4 + [0.0] * 4, 4)
    learner.take(rows(2, reward=2.0), is_human=True)
    assert (len(human), learner.steps) == (2, 12)
    batch, _ = learner._batch()
    assert batch.reward[:4].tolist() == [1.0] * 3 + [2.0]


def test_half_of_every_batch_is_demonstrations():
    shown = Replay(LAYOUT, 10)
    shown.add(rows(10, reward=1.0))
    learner = learner_of(demonstrations=shown)
    learner.take(rows(10, reward=0.0))
    batch, count = learner._batch()
    assert (batch.reward.tolist(), count) == ([1.0] * 4 + [0.0] * 4, 4)


def test_what_is_given_out_answers_as_the_network_does():
    learner = learner_of()
    learner.take(rows(30))
    while learner.is_due:
        learner.update()
    weights, draw = learner.weights(), np.random.default_rng(1)
    seen, base = draw.normal(size=3).astype(np.float32), draw.normal(size=2).astype(np.float32)
    with torch.no_grad():
        wanted = learner.td3.acting(torch.from_numpy(seen)[None], torch.from_numpy(base)[None])[0].numpy()
    np.testing.assert_allclose(weights.residual(seen, base), wanted.clip(-0.2, 0.2), atol=1e-6)
    # It does not change with what is learned next.
    before = weights.residual(seen, base)
    learner.take(rows(20))
    while learner.is_due:
        learner.update()
    np.testing.assert_array_equal(weights.residual(seen, base), before)


def test_a_number_that_is_not_finite_ends_the_learning_and_says_where():
    learner = learner_of()
    learner.take(rows(10))
    with torch.no_grad():
        learner.td3.critics.last.bias.fill_(float("nan"))
    with pytest.raises(InvalidValue, match=r"critic_loss is nan at update 1: what is learned has diverged"):
        learner.update()


def test_no_demonstrations_at_all_are_refused_where_some_were_promised():
    with pytest.raises(ConfigError, match="demonstrations hold no transition"):
        learner_of(demonstrations=Replay(LAYOUT, 10))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"demonstration_share": 1.0}, "demonstration_share is 1.0"),
        ({"updates_per_step": 0.0}, "updates_per_step is 0.0"),
        ({"updates_per_step": float("inf")}, "updates_per_step is inf"),
        ({"critic_warmup_updates": 0}, "critic_warmup_updates is 0"),
        ({"noise_memory_steps": -1.0}, "noise_memory_steps is -1.0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        LearnerConfig(**changes)
