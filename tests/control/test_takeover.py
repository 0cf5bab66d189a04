"""A person takes over and gives back: weights and actions in literal numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.control.takeover import Driven, Mixed, Takeover
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


def test_unless_told_otherwise_a_handover_takes_0_3_s_and_what_was_said_counts_for_0_2_s():
    takeover, seen = Takeover(50_000_000), []
    takeover.take(said(0))
    for steady_ns in range(0, 550_000_000, 50_000_000):
        seen.append(takeover.mix(Tick(steady_ns, steady_ns), PLAN, 0).weight * 6)
    assert seen == pytest.approx([1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 0], abs=1e-9)


@pytest.mark.parametrize("handover_s", [0.0, 0.05])
def test_a_handover_of_less_than_a_tick_is_over_at_once(handover_s):
    takeover = new(handover_s)
    for k, engaged in enumerate((True, True, False)):
        takeover.take(said(k, engaged))
        mixed = takeover.mix(tick(k), PLAN, 0)
        assert mixed.weight == float(engaged)
        np.testing.assert_array_equal(mixed.action, HAND if engaged else PLAN)


def test_the_arm_goes_back_from_where_the_person_let_go_not_from_where_their_device_is_now():
    takeover = new()
    for k in range(4):
        takeover.take(said(k))
        takeover.mix(tick(k), PLAN, 0)
    takeover.take(said(4, engaged=False, action=np.array([50.0, 50.0])))
    np.testing.assert_allclose(takeover.mix(tick(4), PLAN, 0).action, [0.75, 0.25])


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
    assert (mixed.weight, mixed.stamp_ns) == (1.0, tick(0).stamp_ns)
    takeover.take(said(1, engaged=False))
    assert takeover.mix(tick(1), None, None) == Mixed(None, 0.0, None)


def test_what_a_person_said_until_now_may_be_exactly_as_old_as_is_allowed():
    takeover = Takeover(PERIOD_NS, handover_s=0.0, age_max_s=10.0)
    takeover.take(said(0))
    assert takeover.mix(tick(100), PLAN, 0).weight == 1.0
    late = Tick(tick(100).stamp_ns + 1, tick(100).steady_ns + 1)
    assert takeover.mix(late, PLAN, 0).weight == 0.0


def test_a_plan_that_comes_while_a_person_drives_moves_nothing_and_without_one_nobody_is_faded_to():
    takeover = new()
    takeover.take(said(0))
    assert takeover.mix(tick(0), None, None).weight == 1.0
    takeover.take(said(1))
    assert takeover.mix(tick(1), PLAN, 0).action is HAND
    takeover.take(said(2, engaged=False))
    assert takeover.mix(tick(2), None, None).weight == 0.0
    assert takeover.mix(tick(3), PLAN, 0).action is PLAN


def test_what_else_is_asked_for_is_faded_alike():
    takeover = new()
    takeover.take(said(0))
    mixed = takeover.mix(tick(0), PLAN, 0)
    np.testing.assert_allclose(mixed.blend(PLAN + 1.0), [1.0, 1.5])
    assert mixed.blend(None) is None
    takeover.reset()
    assert takeover.mix(tick(1), PLAN, 0).blend(PLAN) is PLAN


def test_the_age_that_counts_is_that_of_who_drives():
    takeover = new(handover_s=0.0)
    takeover.take(said(3))
    assert takeover.mix(tick(3), PLAN, 5).stamp_ns == tick(3).stamp_ns
    takeover.take(said(4, engaged=False))
    assert takeover.mix(tick(4), PLAN, 5).stamp_ns == 5
    fading = new()
    fading.take(said(3))
    fading.mix(tick(3), PLAN, 5)
    fading.mix(tick(4), PLAN, 5)
    fading.take(said(5, engaged=False))
    assert (fading.mix(tick(5), PLAN, 6).weight, fading.mix(tick(6), PLAN, 7).weight) == (0.25, 0.0)


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
