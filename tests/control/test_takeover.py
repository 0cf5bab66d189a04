"""A person takes over and gives back: weights and actions in literal numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.control.takeover import Driven, Takeover
from armature.errors import ConfigError
from armature.types import Tick

PERIOD_NS = 100_000_000
PLAN, HAND = np.array([0.0, 1.0]), np.array([1.0, 0.0])


def tick(k: int) -> Tick:
    return Tick(1_000_000_000 + k * PERIOD_NS, k * PERIOD_NS)


def said(k: int, engaged: bool = True, action: np.ndarray = HAND) -> Driven:
    return Driven(tick(k).stamp_ns, tick(k).steady_ns, engaged, action)


def new(handover_s: float = 0.4, age_max_s: float = 0.15) -> Takeover:
    return Takeover(PERIOD_NS, handover_s, age_max_s)


def test_without_a_person_the_plan_passes_untouched():
    mixed = new().mix(tick(0), PLAN, 7)
    assert mixed.action is PLAN
    assert (mixed.weight, mixed.stamp_ns) == (0.0, 7)


def test_the_person_fades_in_and_out_over_the_handover():
    takeover, seen = new(), []
    for k in range(10):
        takeover.take(said(k, engaged=k < 5))
        seen.append(takeover.mix(tick(k), PLAN, 0))
    assert [mixed.weight for mixed in seen] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    np.testing.assert_allclose(seen[0].action, [0.25, 0.75])
    np.testing.assert_allclose(seen[3].action, HAND)
    np.testing.assert_allclose(seen[6].action, [0.5, 0.5])
    assert seen[9].action is PLAN


def test_a_device_that_falls_silent_drives_nothing():
    takeover = new(handover_s=0.0)
    takeover.take(said(0))
    assert takeover.mix(tick(0), PLAN, 0).weight == 1.0
    assert takeover.mix(tick(1), PLAN, 0).weight == 1.0
    assert takeover.mix(tick(2), PLAN, 0).weight == 0.0


def test_with_no_plan_a_person_drives_at_once_and_holds_when_they_let_go():
    takeover = new()
    takeover.take(said(0))
    mixed = takeover.mix(tick(0), None, None)
    np.testing.assert_array_equal(mixed.action, HAND)
    assert mixed.stamp_ns == tick(0).stamp_ns
    takeover.take(said(1, engaged=False))
    assert takeover.mix(tick(1), None, None).action is None


def test_the_age_that_counts_is_that_of_who_drives():
    takeover = new(handover_s=0.0)
    takeover.take(said(3))
    assert takeover.mix(tick(3), PLAN, 5).stamp_ns == tick(3).stamp_ns
    takeover.take(said(4, engaged=False))
    assert takeover.mix(tick(4), PLAN, 5).stamp_ns == 5


def test_what_is_not_newer_is_not_taken():
    takeover = new(handover_s=0.0)
    assert takeover.take(said(3))
    assert not takeover.take(said(3, engaged=False))
    assert not takeover.take(said(2, engaged=False))
    assert takeover.mix(tick(3), PLAN, 0).weight == 1.0


def test_a_new_episode_begins_with_the_policy():
    takeover = new()
    takeover.take(said(0))
    takeover.mix(tick(0), PLAN, 0)
    assert takeover.is_engaged
    takeover.reset()
    assert not takeover.is_engaged
    assert takeover.mix(tick(1), PLAN, 0).action is PLAN


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.floats(0.0, 2.0))
def test_from_tick_to_tick_the_action_never_jumps_more_than_the_handover_allows(engaged, handover_s):
    takeover, before = new(handover_s), PLAN
    step = 1.0 if handover_s == 0 else min(1.0, 0.1 / handover_s)
    for k, engages in enumerate(engaged):
        takeover.take(said(k, engages))
        action = takeover.mix(tick(k), PLAN, 0).action
        assert np.abs(action - before).max() <= step + 1e-12
        before = action


@pytest.mark.parametrize(("handover_s", "age_max_s"), [(-0.1, 0.2), (0.3, 0.0), (float("nan"), 0.2)])
def test_times_that_cannot_be_are_refused(handover_s, age_max_s):
    with pytest.raises(ConfigError, match="takeover: handover_s"):
        Takeover(PERIOD_NS, handover_s, age_max_s)
