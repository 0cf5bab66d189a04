"""The guard of the base's success: when the residual gets more room, and when it loses it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from armature.errors import ConfigError
from policies.residual_guard import Guard, GuardConfig, Verdict, probability_below


def guard_with_base(successes: int, episodes: int, config: GuardConfig | None = None) -> Guard:
    guard = Guard(config or GuardConfig())
    for k in range(episodes):
        guard.record_base(success=k < successes)
    return guard


def test_the_probability_of_being_worse_in_literal_numbers():
    # Nothing is known of both; then one of one against none of one: the integral of 2x (1 - x)^2 is 1/6.
    assert probability_below((0, 0), (0, 0)) == pytest.approx(0.5, abs=1e-3)
    assert probability_below((1, 1), (0, 1)) == pytest.approx(1 / 6, abs=1e-3)
    assert probability_below((0, 1), (1, 1)) == pytest.approx(5 / 6, abs=1e-3)
    assert probability_below((5, 10), (5, 10)) == pytest.approx(0.5, abs=1e-3)
    assert probability_below((0, 30), (30, 30)) > 0.999999


def test_a_draw_of_many_rates_agrees_with_the_probability():
    draw = np.random.default_rng(0)
    one, other = draw.beta(4, 8, 200_000), draw.beta(11, 6, 200_000)
    assert probability_below((3, 10), (10, 15)) == pytest.approx((one < other).mean(), abs=0.005)


def test_ten_episodes_as_good_as_the_base_give_more_room():
    guard = guard_with_base(6, 10)
    for _ in range(9):
        assert guard.record(0.2, success=True) is Verdict.STAYS
        assert guard.share == 0.2
    assert guard.record(0.2, success=True) is Verdict.GROWS
    assert guard.share == pytest.approx(0.3)


def test_five_failures_in_a_row_take_room_away_at_once():
    guard = guard_with_base(8, 10)
    verdicts = [guard.record(0.2, success=False) for _ in range(5)]
    assert verdicts == [Verdict.STAYS] * 4 + [Verdict.FALLS]
    assert guard.share == pytest.approx(0.1)
    assert guard.cuts == 1


def test_worse_is_cut_long_before_better_could_grow_it():
    """A residual that succeeds in 10 % where the base does in 70 %: few episodes are spent on it."""
    draw, spent = np.random.default_rng(1), []
    for _ in range(50):
        guard = guard_with_base(14, 20)
        for episode in range(1, 40):
            guard.record(0.2, success=draw.random() < 0.1)
            if guard.share < 0.2:
                spent.append(episode)
                break
    assert len(spent) == 50
    assert np.mean(spent) < 7


def guard_that_keeps(successes: int, episodes: int) -> Guard:
    """Return one whose actor of a share of 0.3 did `successes` of `episodes`, of which the base does 2 of 10."""
    guard = guard_with_base(2, 10, GuardConfig(share_first=0.3, growth=1.2, episodes_min=episodes))
    verdicts = [guard.record(0.3, success=k < successes) for k in range(episodes)]
    assert (verdicts[-1], guard.share) == (Verdict.GROWS, pytest.approx(0.36))
    return guard


def test_what_was_gained_is_gone_back_to_at_the_same_share():
    """Four failures in a row after 9 of 10: likely worse than that, not likely worse than a base of 2 of 10."""
    guard = guard_that_keeps(9, 10)
    verdicts = [guard.record(guard.share, success=k == 0) for k in range(5)]
    assert verdicts == [Verdict.STAYS] * 4 + [Verdict.RETURNS]
    assert (guard.share, guard.cuts, guard.returns) == (pytest.approx(0.36), 0, 1)
    # From now on 9 of 10 count as 4.5 of 5: three failures of five do not yet suffice.
    verdicts = [guard.record(guard.share, success=success) for success in (True, True, False, False, False)]
    assert verdicts == [Verdict.STAYS] * 5


def test_with_all_the_share_only_what_is_as_good_is_kept():
    guard = guard_with_base(2, 10, GuardConfig(share_first=1.0))
    assert [guard.record(1.0, success=k > 0) for k in range(10)].count(Verdict.GROWS) == 1
    assert guard.kept == [9.0, 10.0]
    # 7 of the next 10: much better than the base, no better than 9 of 10.
    assert [guard.record(1.0, success=k % 4 > 0) for k in range(10)] == [Verdict.STAYS] * 10
    assert guard.worse_probability < 0.01
    verdicts = [guard.record(1.0, success=True) for _ in range(30)]
    assert verdicts.count(Verdict.GROWS) >= 1
    assert guard.kept[0] / guard.kept[1] >= 0.85


def test_what_was_kept_of_few_successes_is_compared_with_until_too_few_episodes_are_left_of_it():
    """An actor of 1 in 20 over a base of 1 in 50, as a hard task begins: the learner is not sent back for ever."""
    for seed in range(5):
        draw, guard = np.random.default_rng(seed), guard_with_base(2, 100)
        returns: list[int] = []
        for _ in range(2400):
            guard.record(guard.share, success=draw.random() < 0.05)
            returns.append(guard.returns)
        assert guard.share > 0.2
        assert returns[-1] - returns[1200] <= 8


def test_a_learner_that_cannot_keep_an_actor_is_only_sent_back_to_the_base():
    guard = Guard(GuardConfig(share_first=1.0), keeps=False)
    for k in range(10):
        guard.record_base(success=k < 2)
    for _ in range(10):
        guard.record(1.0, success=True)
    verdicts = [guard.record(1.0, success=k % 2 == 0) for k in range(40)]
    assert Verdict.RETURNS not in verdicts
    assert Verdict.FALLS not in verdicts
    assert Verdict.FALLS in [guard.record(1.0, success=False) for _ in range(40)]


def test_an_episode_that_began_at_another_share_says_nothing_of_this_one():
    guard = guard_with_base(9, 10)
    for _ in range(20):
        guard.record(0.45, success=False)
    assert guard.share == 0.2


def test_the_share_stays_between_its_bounds_and_full_room_is_watched_on():
    guard = guard_with_base(5, 10)
    for _ in range(200):
        guard.record(guard.share, success=True)
    assert guard.share == 1.0
    # What does well there is told from time to time, too.
    assert [guard.record(1.0, success=True) for _ in range(10)].count(Verdict.GROWS) == 1
    # Forty of the newest: three good years do not outweigh what happens now.
    for _ in range(40):
        guard.record(guard.share, success=False)
        if guard.share < 1.0:
            break
    assert guard.share == 0.5
    for _ in range(100):
        guard.record(guard.share, success=False)
    assert guard.share == 0.05


def test_a_guard_that_is_started_again_goes_on():
    guard = guard_with_base(5, 10)
    for k in range(7):
        guard.record(0.2, success=k % 2 == 0)
    other = Guard(GuardConfig())
    other.restore(json.loads(json.dumps(guard.state())))
    assert other.state() == guard.state()
    for success in (True, True, True, False, True):
        guard.record(guard.share, success=success)
        other.record(other.share, success=success)
    assert other.share == guard.share
    assert other.worse_probability == guard.worse_probability


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"share_first": 1.5}, "share_first 1.5"),
        ({"share_min": 0.0}, "share_min 0.0"),
        ({"growth": 1.0}, "growth is 1.0"),
        ({"cut": 1.0}, "cut is 1.0"),
        ({"trust": 0.95}, "trust 0.95"),
        ({"lost": 0.5}, "trust 0.5 and lost 0.5"),
        ({"episodes_min": 50}, "episodes_min 50"),
        ({"doubt_episodes_min": 0}, "doubt_episodes_min 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        GuardConfig(**changes)
