"""The learner: its beginning, its targets and its losses in literal numbers, and a small task that it solves."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from armature.errors import ConfigError
from policies.device import compiler
from policies.nets.ensemble import WIDE, EnsembleMlp
from policies.replay import Batch, Layout, NStep, Replay, Step
from policies.residual_td3 import ResidualConfig, ResidualTd3

SMALL = ResidualConfig(hidden=(32, 32), critics=4, steps=1)


def random_batch(count: int = 16, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    seen, base, action = (torch.randn(count, dim, generator=draw) for dim in (3, 2, 2))
    return Batch(seen, base, action, torch.zeros(count), torch.full((count,), 0.9), seen + 1, base + 1)


def constant(network: EnsembleMlp, values: list[float]) -> None:
    """Have every critic answer a number of its own, whatever it sees."""
    last = network.last
    with torch.no_grad():
        last.weight.zero_()
        last.bias[:, 0, 0] = torch.tensor(values)


def test_learning_begins_exactly_at_the_base():
    learner = ResidualTd3(SMALL, 3, 2)
    batch = random_batch()
    assert torch.equal(learner.actor(batch.observation, batch.base), torch.zeros(16, 2))


@pytest.mark.parametrize("count", [7, WIDE // 8])
def test_each_member_of_an_ensemble_is_a_network_of_its_own(count):
    torch.manual_seed(0)
    network = EnsembleMlp(3, 5, (8, 8))
    x = torch.randn(count, 5)
    for member in range(3):
        y = x
        for linear, norm in zip(network.hidden, network.norms, strict=True):
            y = y @ linear.weight[member] + linear.bias[member]
            y = torch.nn.functional.layer_norm(y, y.shape[-1:]) * norm.scale[member] + norm.offset[member]
            y = y.relu()
        y = y @ network.last.weight[member] + network.last.bias[member]
        torch.testing.assert_close(network(x)[member], y[:, 0])
        torch.testing.assert_close(network(x, torch.tensor([member]))[0], y[:, 0])


def test_members_asked_one_by_one_learn_what_they_learn_together(monkeypatch):
    network, x = EnsembleMlp(3, 5, (8, 8)), torch.randn(7, 5)
    learned = []
    for wide in (10**6, 1):
        monkeypatch.setattr("policies.nets.ensemble.WIDE", wide)
        learned.append(torch.autograd.grad(network(x).square().sum(), list(network.parameters())))
    for together, one_by_one in zip(*learned, strict=True):
        torch.testing.assert_close(one_by_one, together)


def test_where_nothing_may_be_corrected_nothing_is_and_figures_are_finite():
    td3, batch = ResidualTd3(SMALL, 3, 2, bound=np.array([1.0, 0.0])), random_batch()
    batch.action[:, 1] = batch.base[:, 1]
    assert all(np.isfinite(figure) for figure in td3.update_critics(batch).values())
    assert torch.isfinite(td3.value(batch.observation, batch.base, batch.action)).all()
    assert td3.reach[0] > 0
    assert td3.reach[1] < 1e-30


def test_the_target_is_the_reward_and_the_lower_of_two_critics_discounted():
    learner = ResidualTd3(ResidualConfig(hidden=(8,), critics=2, critics_of_target=2), 3, 2)
    constant(learner.target_critics, [0.5, 0.3])
    batch = random_batch(4)
    assert learner.targets(batch).tolist() == pytest.approx([0.27] * 4)
    ended = Batch(*(batch.observation, batch.base, batch.action), torch.ones(4), torch.zeros(4),
                  batch.next_observation, batch.next_base)  # fmt: skip
    assert learner.targets(ended).tolist() == [1.0] * 4


def test_another_pair_of_critics_bounds_every_target():
    learner = ResidualTd3(ResidualConfig(hidden=(8,), critics=3, critics_of_target=2), 3, 2)
    constant(learner.target_critics, [0.1, 0.2, 0.4])
    found = {round(float(learner.targets(random_batch(1))[0]), 6) for _ in range(60)}
    # Of the pairs (0.1, 0.2), (0.1, 0.4) and (0.2, 0.4) the lower ones.
    assert sorted(found) == pytest.approx([0.09, 0.18])


def test_targets_stay_where_a_single_reward_allows_values_to_be():
    learner = ResidualTd3(ResidualConfig(hidden=(8,), critics=2), 3, 2)
    constant(learner.target_critics, [7.0, 8.0])
    assert learner.targets(random_batch(2)).tolist() == [1.0, 1.0]
    constant(learner.target_critics, [-7.0, 8.0])
    assert learner.targets(random_batch(2)).tolist() == [0.0, 0.0]


def test_every_critic_is_pulled_to_the_target_by_itself():
    """Of two critics that err by the same to both sides, the mean is right, and each of them is not."""
    learner = ResidualTd3(ResidualConfig(hidden=(8,), critics=2, critic_lr=1e-2, discount=1.0), 3, 2)
    batch = random_batch(64)
    batch = Batch(batch.observation, batch.base, batch.action, torch.full((64,), 0.5), torch.zeros(64),
                  batch.next_observation, batch.next_base)  # fmt: skip
    constant(learner.critics, [0.9, 0.1])
    figures = learner.update_critics(batch)
    assert figures["critic_loss"] == pytest.approx(0.16)
    for _ in range(200):
        figures = learner.update_critics(batch)
    assert figures["critic_loss"] < 1e-3


def test_the_actor_changes_nothing_but_itself():
    learner = ResidualTd3(SMALL, 3, 2)
    before = copy.deepcopy(learner.critics.state_dict())
    learner.update_actor(random_batch())
    assert all(torch.equal(value, before[name]) for name, value in learner.critics.state_dict().items())
    assert not torch.equal(learner.actor(random_batch().observation, random_batch().base), torch.zeros(16, 2))


def test_an_actor_is_pulled_to_what_is_demonstrated_as_far_as_its_share_reaches():
    config = ResidualConfig(hidden=(32, 32), critics=2, scale=0.5, actor_lr=1e-2, demonstration_weight=10.0)
    learner, batch = ResidualTd3(config, 3, 2), random_batch(8)
    action = batch.base + torch.tensor([0.1, -3.0])
    batch = replace(batch, action=action)
    for critic in (learner.critics, learner.target_critics):
        constant(critic, [0.3, 0.3])
    for _ in range(300):
        learner.update_actor(batch, share=0.6, shown=4)
    found = learner.actor(batch.observation, batch.base)[:4].detach()
    # A reach of 0.5: 0.1 is a fifth of it, and 3 more than the share.
    torch.testing.assert_close(found, torch.tensor([0.2, -0.6]).expand(4, 2), atol=0.03, rtol=0.0)


def test_what_was_not_demonstrated_pulls_nobody():
    config = ResidualConfig(hidden=(8,), critics=2, demonstration_weight=10.0)
    learner = ResidualTd3(config, 3, 2)
    constant(learner.critics, [0.3, 0.3])
    batch = random_batch(8)
    learner.update_actor(batch, shown=0)
    assert learner.actor(batch.observation, batch.base).abs().max() < 1e-3


def test_targets_follow_slowly():
    learner = ResidualTd3(SMALL, 3, 2)
    before = copy.deepcopy(learner.target_critics)
    learner.update_critics(random_batch())
    pairs = zip(before.parameters(), learner.target_critics.parameters(), learner.critics.parameters(), strict=True)
    for old, target, network in pairs:
        torch.testing.assert_close(target, old + 0.005 * (network - old))


def test_a_seed_determines_everything():
    def weights(seed):
        learner = ResidualTd3(SMALL, 3, 2, seed)
        for step in range(5):
            learner.update_critics(random_batch(seed=step))
            learner.update_actor(random_batch(seed=step))
        return torch.cat([p.flatten() for p in learner.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"critics_of_target": 11}, "critics_of_target is 11, must be 1 to 10"),
        ({"scale": 0.0}, r"scale is 0.0, must be in \(0, 1\]"),
        ({"scale": 1.5}, "scale is 1.5"),
        ({"polyak": 1.5}, "polyak is 1.5"),
        ({"actor_lr": float("inf")}, "actor_lr is inf"),
        ({"demonstration_weight": -1.0}, "demonstration_weight is -1.0, must not be negative"),
        ({"smoothing_std": float("nan")}, "smoothing_std is nan"),
        ({"value_min": 2.0}, "value_min 2.0 must be below value_max 1.0"),
        ({"hidden": ()}, r"hidden is \(\), must name at least one layer"),
        ({"discount": 1.5}, "discount 1.5"),
        ({"steps": 0}, "steps 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        ResidualConfig(**changes)


def test_a_base_that_always_misses_by_the_same_is_corrected():
    """A point is to be moved to 0 in five steps; the base stops short by 0.2 in x, success needs 0.1."""
    config = ResidualConfig(hidden=(64, 64), critics=4, scale=0.4, steps=1, critic_lr=1e-3, actor_lr=1e-3, polyak=0.02)
    learner, rng = ResidualTd3(config, 2, 2), np.random.default_rng(0)
    replay = Replay(Layout(2, 2), 20_000)

    def base(place):
        return (np.array([0.2, 0.0]) - place).astype(np.float32)

    def run(noise):
        place, nstep = rng.uniform(-1, 1, 2).astype(np.float32), NStep(replay.layout, config.steps, config.discount)
        for k in range(5):
            seen, asked = torch.from_numpy(place), torch.from_numpy(base(place))
            with torch.no_grad():
                residual = learner.actor(seen[None], asked[None])[0].numpy()
            residual = np.clip(residual + noise * rng.normal(size=2), -1, 1)
            action = (base(place) + config.scale * residual).astype(np.float32)
            after = np.clip(place + action, -2, 2)
            success = bool(np.abs(after).max() < 0.1)
            step = Step(place, base(place), action, float(success))
            replay.add(nstep.add(step, after, base(after), terminated=success, cut=k == 4))
            place = after
            if success:
                return True
        return False

    assert not any(run(0.0) for _ in range(20))
    for episode in range(150):
        run(0.5)
        for _ in range(8 if episode > 20 else 0):
            learner.update_critics(replay.sample(128, learner.generator))
            learner.update_actor(replay.sample(128, learner.generator))
    assert sum(run(0.0) for _ in range(50)) == 50


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_critics_learn_what_critics_learn():
    plain, compiled = (ResidualTd3(replace(SMALL, compiled=each), 3, 2) for each in (False, True))
    for step in range(4):
        batch = random_batch(seed=step)
        expected, found = plain.update_critics(batch), compiled.update_critics(batch)
        assert found == pytest.approx(expected, rel=1e-4)
        assert compiled.update_actor(batch) == pytest.approx(plain.update_actor(batch), rel=1e-3, abs=1e-5)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)


def test_without_a_compiler_nothing_is_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"compiled: the C\+\+ compiler g\+\+ is not there"):
        ResidualTd3(replace(SMALL, compiled=True), 3, 2)
