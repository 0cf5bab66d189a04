"""The correction in force: the newest, while it is young enough, and nothing that is no correction."""

from __future__ import annotations

import numpy as np
import pytest

from armature.control.chunk_scheduler import ScheduledAction
from armature.control.residual import Corrected, Correction, NewestCorrection
from armature.errors import InvalidValue

ACTION = np.array([1.0, 2.0])
BASE = ScheduledAction(ACTION, chunk_stamp_ns=0)
MS = 1_000_000


def correction(stamp_ns: int, *value: float) -> Correction:
    return Correction(stamp_ns, np.array(value), "residual-v1")


def asked(age_max_ns: int = 75 * MS, until_ns: int = 100 * MS) -> NewestCorrection:
    """Return one that has told a base action every 10 ms, all of one plan."""
    residual = NewestCorrection(2, age_max_ns)
    for stamp_ns in range(0, until_ns + 1, 10 * MS):
        residual.ask(stamp_ns, BASE.chunk_stamp_ns)
    return residual


def test_without_a_correction_the_base_action_passes_as_it_is_and_is_counted():
    residual = asked()
    assert residual.correct(0, BASE, ACTION) is ACTION
    assert residual.counts == {"ticks without": 1}
    assert residual.last == Corrected(0, BASE, None)


def test_a_correction_acts_until_the_base_action_that_it_answers_is_too_old():
    residual = asked()
    residual.offer(correction(100 * MS, 0.1, -0.1))
    for now_ms, expected in ((99, [1, 2]), (100, [1.1, 1.9]), (175, [1.1, 1.9]), (176, [1, 2])):
        assert residual.correct(now_ms * MS, BASE, ACTION).tolist() == pytest.approx(expected)
    assert residual.counts == {"corrections used": 2, "ticks without": 2}


def test_what_became_of_the_newest_tick_is_told():
    residual = asked()
    assert residual.last is None
    newest = correction(100 * MS, 0.1, -0.1)
    residual.offer(newest)
    residual.correct(120 * MS, BASE, ACTION)
    assert residual.last == Corrected(120 * MS, BASE, newest)
    residual.reset()
    assert residual.last is None


def test_in_lockstep_a_correction_counts_for_its_own_tick_alone():
    residual = asked(age_max_ns=0)
    residual.offer(correction(50 * MS, 0.1, 0.1))
    assert residual.correct(100 * MS, BASE, ACTION) is ACTION
    assert residual.correct(50 * MS, BASE, ACTION).tolist() == [1.1, 2.1]


def test_the_newest_correction_wins_whatever_the_order_in_which_they_come():
    residual = asked()
    assert residual.offer(correction(20 * MS, 0.2, 0.0))
    assert not residual.offer(correction(10 * MS, 0.1, 0.0))
    assert not residual.offer(correction(20 * MS, 0.3, 0.0))
    assert residual.correct(20 * MS, BASE, ACTION).tolist() == [1.2, 2.0]
    assert residual.counts["corrections not newer"] == 2


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ((np.nan, 0.0), r"not finite at elements \[0\]"),
        ((0.0, np.inf), r"not finite at elements \[1\]"),
        ((0.0,), r"shape \(1,\), expected \(2,\)"),
        ((0.0, 0.0, 0.0), r"shape \(3,\), expected \(2,\)"),
    ],
)
def test_what_is_no_correction_is_refused_and_the_one_in_force_stays(value, named):
    residual = asked()
    residual.offer(correction(10 * MS, 0.5, 0.5))
    with pytest.raises(InvalidValue, match=named):
        residual.offer(correction(20 * MS, *value))
    assert residual.correct(20 * MS, BASE, ACTION).tolist() == [1.5, 2.5]


def test_a_correction_of_a_base_action_that_was_never_told_cannot_keep_out_the_true_ones():
    residual = asked(until_ns=50 * MS)
    with pytest.raises(InvalidValue, match="answers a base action of 51000000 ns, the newest is of 50000000 ns"):
        residual.offer(correction(51 * MS, 0.0, 0.0))
    assert not residual.is_answered(50 * MS)
    assert residual.offer(correction(50 * MS, 0.1, 0.1))
    assert residual.is_answered(50 * MS)
    assert not residual.is_answered(51 * MS)


def test_a_clock_begins_at_0_and_before_the_first_base_action_there_is_nothing_to_correct():
    residual = NewestCorrection(2, 75 * MS)
    with pytest.raises(InvalidValue, match=r"base action of 0 ns, there is none$"):
        residual.offer(correction(0, 0.1, 0.1))
    residual.ask(0, 0)
    with pytest.raises(InvalidValue, match=r"base action of 1 ns, the newest is of 0 ns$"):
        residual.offer(correction(1, 0.1, 0.1))
    assert residual.offer(correction(0, 0.1, 0.1))


def test_after_a_reset_nothing_is_in_force_and_old_answers_are_refused():
    residual = asked()
    residual.offer(correction(10 * MS, 0.5, 0.5))
    residual.reset()
    assert residual.correct(10 * MS, BASE, ACTION) is ACTION
    with pytest.raises(InvalidValue, match="there is none"):
        residual.offer(correction(0, 0.5, 0.5))


def test_a_correction_of_the_plan_before_does_not_lead_the_next_one_aside():
    """The next chunk begins where the correction has led: added to it, it would count twice."""
    residual = asked()
    residual.offer(correction(100 * MS, 0.1, -0.1))
    following = ScheduledAction(ACTION, chunk_stamp_ns=90 * MS)
    assert residual.correct(110 * MS, following, ACTION) is ACTION
    residual.ask(120 * MS, 90 * MS)
    residual.offer(correction(120 * MS, 0.2, 0.0))
    assert residual.correct(130 * MS, following, ACTION).tolist() == [1.2, 2.0]
    # The clock of the plan before goes on elsewhere: nothing of the new one is added to it.
    assert residual.correct(130 * MS, BASE, ACTION) is ACTION


def test_only_the_newest_sixteen_base_actions_can_be_answered():
    residual = asked(until_ns=200 * MS)
    with pytest.raises(InvalidValue, match="base action of 40000000 ns, the newest is of 200000000 ns"):
        residual.offer(correction(40 * MS, 0.1, 0.1))
    assert residual.offer(correction(50 * MS, 0.1, 0.1))
