from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.control.chunk_scheduler import ChunkScheduler, SchedulerConfig
from armature.errors import ConfigError
from armature.types import ActionChunk, CommittedActions

MS = 1_000_000
RECEDING = SchedulerConfig("receding_horizon", execute_steps=8)
ENSEMBLE = SchedulerConfig("temporal_ensemble", execute_steps=1, ensemble_decay=0.5)
BLEND = SchedulerConfig("blend", execute_steps=8, blend_s=0.2)
REAL_TIME = SchedulerConfig("real_time_chunking", execute_steps=8, blend_s=0.0, delay_window=3)


def chunk(stamp_ms: int, actions: list[float], start_ms: int | None = None, period_ms: int = 50) -> ActionChunk:
    start_ns = (stamp_ms if start_ms is None else start_ms) * MS
    return ActionChunk(stamp_ms * MS, start_ns, period_ms * MS, np.array(actions, dtype=np.float64)[:, np.newaxis])


def push(scheduler: ChunkScheduler, taken: ActionChunk, arrival_ms: int | None = None) -> bool:
    """Hand over a chunk, at once unless the test says when."""
    return scheduler.push(taken, taken.stamp_ns if arrival_ms is None else arrival_ms * MS)


def value_at(scheduler: ChunkScheduler, now_ms: float) -> float | None:
    scheduled = scheduler.action_at(round(now_ms * MS))
    return None if scheduled is None else scheduled.action.item()


def test_actions_are_exact_at_their_steps_linear_between_and_the_last_is_held_for_one_period():
    scheduler = ChunkScheduler(RECEDING)
    assert push(scheduler, chunk(100, [0.1, 0.3, 0.7]))
    assert [value_at(scheduler, t) for t in (100, 150, 200, 249.999999)] == [0.1, 0.3, 0.7, 0.7]
    assert value_at(scheduler, 125) == pytest.approx(0.2)
    assert value_at(scheduler, 190) == pytest.approx(0.3 + 0.8 * 0.4)


def test_steps_are_exact_even_where_nothing_can_be_put_between_them():
    scheduler = ChunkScheduler(RECEDING)
    push(scheduler, chunk(0, [1e308, -1e308]))
    assert [value_at(scheduler, t) for t in (0, 50)] == [1e308, -1e308]


def test_before_the_start_and_from_the_end_on_nothing_is_due():
    scheduler = ChunkScheduler(RECEDING)
    assert value_at(scheduler, 0) is None
    push(scheduler, chunk(100, [1.0, 2.0]))
    assert value_at(scheduler, 99.999999) is None
    assert value_at(scheduler, 200) is None


def test_a_late_chunk_takes_over_and_its_elapsed_actions_are_dropped_by_time():
    scheduler = ChunkScheduler(RECEDING)
    push(scheduler, chunk(0, [float(i) for i in range(16)]))
    assert value_at(scheduler, 450) == 9.0
    push(scheduler, chunk(400, [100.0 + i for i in range(16)]), arrival_ms=470)
    assert value_at(scheduler, 500) == 102.0
    assert scheduler.action_at(500 * MS).chunk_stamp_ns == 400 * MS


def test_a_chunk_that_starts_later_leaves_its_predecessor_in_force_until_then():
    scheduler = ChunkScheduler(RECEDING)
    push(scheduler, chunk(0, [1.0, 2.0, 3.0, 4.0]))
    push(scheduler, chunk(50, [9.0], start_ms=150))
    assert [value_at(scheduler, t) for t in (50, 100, 150)] == [2.0, 3.0, 9.0]


def test_when_the_newest_chunk_is_used_up_the_older_longer_one_does_not_come_back():
    scheduler = ChunkScheduler(RECEDING)
    push(scheduler, chunk(0, [1.0] * 16))
    push(scheduler, chunk(100, [2.0] * 2))
    assert value_at(scheduler, 150) == 2.0
    assert value_at(scheduler, 200) is None


def test_chunks_that_answer_older_or_the_same_observation_are_dropped_and_counted():
    scheduler = ChunkScheduler(RECEDING)
    assert push(scheduler, chunk(100, [1.0]))
    assert not push(scheduler, chunk(100, [2.0]))
    assert not push(scheduler, chunk(99, [3.0, 3.0, 3.0]), arrival_ms=100)
    assert not push(scheduler, chunk(0, [3.0, 3.0, 3.0]), arrival_ms=100)
    assert value_at(scheduler, 100) == 1.0
    assert scheduler.dropped == {"duplicate": 1, "out of order": 2}


def test_a_chunk_of_which_every_action_has_elapsed_is_late():
    scheduler = ChunkScheduler(RECEDING)
    assert scheduler.push(chunk(100, [1.0, 2.0]), 200 * MS) is False
    assert scheduler.dropped == {"late": 1}
    assert scheduler.push(chunk(100, [1.0, 2.0]), 200 * MS - 1)
    assert value_at(scheduler, 199.999999) == 2.0


def test_a_chunk_that_answers_an_observation_of_the_future_is_dropped():
    scheduler = ChunkScheduler(RECEDING)
    assert not scheduler.push(chunk(100, [1.0, 2.0]), 100 * MS - 1)
    assert scheduler.dropped == {"from the future": 1}
    assert scheduler.push(chunk(100, [1.0, 2.0]), 100 * MS)


@pytest.mark.parametrize(
    "bad",
    [
        ActionChunk(1, 1, 50, np.zeros((0, 1))),
        ActionChunk(1, 1, 50, np.zeros(3)),
        ActionChunk(1, 1, 0, np.zeros((2, 1))),
        ActionChunk(1, 1, -1, np.zeros((2, 1))),
        ActionChunk(1, 1, 50, np.zeros((2, 5))),
        ActionChunk(1, 1, 50, np.zeros((2, 0))),
        ActionChunk(1, 1, 50, np.zeros((2, 1, 1))),
        ActionChunk(1, 1, 50, np.array([["0"], ["1"]])),
        ActionChunk(1, 1, 50, np.array([[None], [None]])),
        ActionChunk(1, 1, 50, np.zeros((2, 1), dtype=complex)),
    ],
    ids=["empty", "1 axis", "no period", "backwards", "dim 5", "dim 0", "3 axes", "text", "objects", "complex"],
)
def test_malformed_chunks_are_dropped_and_counted(bad):
    scheduler = ChunkScheduler(RECEDING)
    push(scheduler, chunk(0, [1.0]))
    assert not scheduler.push(bad, 1)
    assert scheduler.dropped == {"malformed": 1}
    assert value_at(scheduler, 0) == 1.0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_chunk_with_one_value_that_is_not_finite_is_dropped_whole(wrong):
    scheduler = ChunkScheduler(RECEDING)
    push(scheduler, chunk(0, [1.0, 1.0, 1.0]))
    assert not push(scheduler, chunk(50, [2.0, wrong, 2.0]))
    assert scheduler.dropped == {"not finite": 1}
    assert value_at(scheduler, 50) == 1.0


def test_actions_in_whole_numbers_are_fine_and_come_out_as_floats():
    scheduler = ChunkScheduler(RECEDING)
    assert scheduler.push(ActionChunk(0, 0, 50 * MS, np.array([[1], [2]])), 0)
    assert scheduler.action_at(25 * MS).action.tolist() == [1.5]


def test_a_chunk_is_needed_first_and_again_after_execute_steps():
    scheduler = ChunkScheduler(RECEDING)
    assert scheduler.needs_chunk(0)
    push(scheduler, chunk(0, [0.0] * 16))
    assert [scheduler.needs_chunk(t * MS) for t in (0, 350, 399, 400, 2000)] == [False, False, False, True, True]


def test_a_chunk_shorter_than_execute_steps_is_replaced_when_it_ends():
    scheduler = ChunkScheduler(RECEDING)
    push(scheduler, chunk(0, [0.0]))
    assert [scheduler.needs_chunk(t * MS) for t in (0, 49, 50)] == [False, False, True]


def test_reset_forgets_chunks_and_refuses_those_of_the_episode_before():
    scheduler = ChunkScheduler(RECEDING)
    push(scheduler, chunk(500, [1.0] * 16))
    scheduler.reset(600 * MS)
    assert scheduler.needs_chunk(600 * MS)
    assert value_at(scheduler, 600) is None
    assert not push(scheduler, chunk(599, [2.0] * 16), arrival_ms=600)
    assert scheduler.dropped == {"before the reset": 1}
    assert push(scheduler, chunk(600, [3.0] * 16))
    scheduler.reset()
    assert push(scheduler, chunk(0, [4.0]))
    assert not push(ChunkScheduler(RECEDING), chunk(-1, [5.0]))


def test_temporal_ensembling_weighs_the_oldest_chunk_most():
    scheduler = ChunkScheduler(ENSEMBLE)
    push(scheduler, chunk(0, [0.0, 0.0, 3.0]))
    push(scheduler, chunk(50, [0.0, 6.0, 0.0]))
    push(scheduler, chunk(100, [9.0, 0.0, 0.0]))
    # exp(-0.5 i) = 1, 0.6065, 0.3679 for 3, 6, 9: 9.95010 / 1.97441 = 5.03953
    assert value_at(scheduler, 100) == pytest.approx(5.03953, abs=1e-5)
    assert scheduler.action_at(100 * MS).chunk_stamp_ns == 100 * MS


def test_temporal_ensembling_can_weigh_all_chunks_the_same():
    scheduler = ChunkScheduler(SchedulerConfig("temporal_ensemble", 1, ensemble_decay=0.0))
    push(scheduler, chunk(0, [0.0, 1.0]))
    push(scheduler, chunk(50, [4.0]))
    assert value_at(scheduler, 50) == 2.5


def test_temporal_ensembling_leaves_out_chunks_that_do_not_cover_the_time():
    scheduler = ChunkScheduler(ENSEMBLE)
    push(scheduler, chunk(0, [1.0, 1.0]))
    push(scheduler, chunk(50, [2.0, 2.0]))
    assert value_at(scheduler, 0) == 1.0
    assert value_at(scheduler, 100) == 2.0


def test_blending_takes_over_where_the_schedule_before_is_and_ends_at_the_new_chunk():
    scheduler = ChunkScheduler(BLEND)
    push(scheduler, chunk(0, [1.0] * 16))
    push(scheduler, chunk(400, [3.0] * 16), arrival_ms=470)
    assert value_at(scheduler, 470) == 1.0
    # The offset of -2 falls along u^3 (10 - 15 u + 6 u^2): 0.103516 at u = 1/4, 1/2 at u = 1/2.
    assert value_at(scheduler, 520) == pytest.approx(3.0 - 2.0 * 0.896484, abs=1e-6)
    assert value_at(scheduler, 570) == pytest.approx(2.0)
    assert value_at(scheduler, 620) == pytest.approx(3.0 - 2.0 * 0.103516, abs=1e-6)
    assert [value_at(scheduler, t) for t in (670, 671, 1000)] == [3.0, 3.0, 3.0]


def test_blending_follows_both_schedules_while_they_move():
    scheduler = ChunkScheduler(BLEND)
    push(scheduler, chunk(0, [0.1 * i for i in range(16)]))
    push(scheduler, chunk(400, [5.0 + 0.2 * i for i in range(16)]), arrival_ms=475)
    # At 475 ms the old schedule is at 0.95 and the new one at 5.3: the offset is -4.35, half of it is left at 575 ms.
    assert value_at(scheduler, 475) == pytest.approx(0.95)
    assert value_at(scheduler, 575) == pytest.approx(5.7 - 4.35 / 2)
    assert value_at(scheduler, 675) == pytest.approx(6.1)


def test_a_chunk_that_comes_during_a_blend_begins_where_the_blend_is():
    scheduler = ChunkScheduler(BLEND)
    push(scheduler, chunk(0, [1.0] * 16))
    push(scheduler, chunk(400, [3.0] * 16))
    push(scheduler, chunk(500, [7.0] * 16))
    assert value_at(scheduler, 500) == pytest.approx(2.0)
    assert value_at(scheduler, 600) == pytest.approx(4.5)
    assert value_at(scheduler, 700) == 7.0


def test_a_blended_chunk_that_starts_later_takes_over_at_its_start():
    scheduler = ChunkScheduler(BLEND)
    push(scheduler, chunk(0, [1.0] * 16))
    push(scheduler, chunk(100, [3.0] * 16, start_ms=300))
    assert [value_at(scheduler, t) for t in (100, 299, 300)] == [1.0, 1.0, 1.0]
    assert value_at(scheduler, 400) == pytest.approx(2.0)


def test_there_is_nothing_to_blend_the_first_chunk_with_nor_one_after_a_gap():
    scheduler = ChunkScheduler(BLEND)
    push(scheduler, chunk(0, [1.0, 1.0]))
    assert value_at(scheduler, 0) == 1.0
    push(scheduler, chunk(50, [5.0] * 4), arrival_ms=100)
    assert value_at(scheduler, 100) == 5.0


def test_a_chunk_is_blended_until_the_last_moment_of_the_one_before():
    scheduler = ChunkScheduler(BLEND)
    push(scheduler, chunk(0, [1.0, 1.0]))
    push(scheduler, chunk(50, [5.0] * 4), arrival_ms=99)
    assert value_at(scheduler, 99) == pytest.approx(1.0)


def test_real_time_chunking_blends_what_guidance_left_over_unless_told_not_to():
    values = {}
    for blend_s in (0.0, 0.2):
        scheduler = ChunkScheduler(SchedulerConfig("real_time_chunking", 8, blend_s=blend_s))
        push(scheduler, chunk(0, [1.0] * 16))
        push(scheduler, chunk(400, [3.0] * 16), arrival_ms=470)
        values[blend_s] = [value_at(scheduler, t) for t in (470, 570, 670)]
    assert values == {0.0: [3.0, 3.0, 3.0], 0.2: [1.0, pytest.approx(2.0), 3.0]}


def committed_at(scheduler: ChunkScheduler, now_ms: float) -> CommittedActions:
    committed = scheduler.committed(round(now_ms * MS))
    assert committed is not None
    return committed


def test_the_rest_of_the_chunk_in_force_is_committed_from_the_action_at_or_before_now():
    scheduler = ChunkScheduler(REAL_TIME)
    push(scheduler, chunk(0, [0.0, 1.0, 2.0, 3.0]))
    for now_ms in (50, 51, 99.999999):
        committed = committed_at(scheduler, now_ms)
        assert (committed.start_ns, committed.period_ns) == (50 * MS, 50 * MS)
        assert committed.actions.tolist() == [[1.0], [2.0], [3.0]]
    assert committed_at(scheduler, 100).actions.tolist() == [[2.0], [3.0]]
    assert committed_at(scheduler, 199.999999).actions.tolist() == [[3.0]]


def test_the_grid_of_what_is_committed_is_that_of_the_chunk():
    scheduler = ChunkScheduler(REAL_TIME)
    push(scheduler, chunk(17, [0.0, 1.0, 2.0]))
    assert [committed_at(scheduler, t).start_ns / MS for t in (17, 66, 67, 116, 117)] == [17, 17, 67, 67, 117]


def test_nothing_is_committed_before_the_first_chunk_nor_after_the_last_nor_in_another_mode():
    scheduler = ChunkScheduler(REAL_TIME)
    assert scheduler.committed(0) is None
    push(scheduler, chunk(100, [1.0, 2.0]))
    assert scheduler.committed(100 * MS - 1) is None
    assert scheduler.committed(200 * MS) is None
    other = ChunkScheduler(BLEND)
    push(other, chunk(0, [1.0, 2.0]))
    assert other.committed(0) is None


def test_what_is_committed_is_what_a_blend_executes():
    scheduler = ChunkScheduler(SchedulerConfig("real_time_chunking", 8, blend_s=0.2))
    push(scheduler, chunk(0, [1.0] * 16))
    push(scheduler, chunk(400, [3.0] * 6), arrival_ms=450)
    committed = committed_at(scheduler, 460)
    assert committed.actions[:, 0].tolist() == [value_at(scheduler, t) for t in (450, 500, 550, 600, 650)]
    assert committed.actions[[0, 2, 4], 0].tolist() == [1.0, pytest.approx(2.0), 3.0]


def test_what_is_committed_is_a_copy():
    scheduler = ChunkScheduler(REAL_TIME)
    push(scheduler, chunk(0, [1.0, 2.0]))
    committed_at(scheduler, 0).actions[:] = 9.0
    assert value_at(scheduler, 0) == 1.0


def test_the_delay_is_the_longest_of_the_last_few_and_the_first_answer_never_counts():
    scheduler = ChunkScheduler(REAL_TIME)
    delays_ms = []
    for stamp_ms, delay_ms in ((0, 900), (1000, 50), (2000, 70), (3000, 60), (4000, 40), (5000, 30)):
        assert push(scheduler, chunk(stamp_ms, [0.0] * 20), arrival_ms=stamp_ms + delay_ms)
        delays_ms.append(None if scheduler.delay_ns is None else scheduler.delay_ns / MS)
    assert delays_ms == [None, 50, 70, 70, 70, 60]
    assert committed_at(scheduler, 5030).delay_ns == 60 * MS


def test_until_a_delay_is_measured_the_whole_rest_counts_as_executed():
    scheduler = ChunkScheduler(REAL_TIME)
    push(scheduler, chunk(0, [0.0] * 16), arrival_ms=300)
    assert committed_at(scheduler, 410).delay_ns == 400 * MS


def test_a_reset_keeps_the_delay_and_ignores_the_next_answer():
    scheduler = ChunkScheduler(REAL_TIME)
    for stamp_ms in (0, 1000):
        push(scheduler, chunk(stamp_ms, [0.0] * 20), arrival_ms=stamp_ms + 80)
    scheduler.reset(2000 * MS)
    assert scheduler.delay_ns == 80 * MS
    push(scheduler, chunk(2000, [0.0] * 20), arrival_ms=2700)
    assert scheduler.delay_ns == 80 * MS
    push(scheduler, chunk(3000, [0.0] * 20), arrival_ms=3090)
    assert scheduler.delay_ns == 90 * MS


def test_chunks_that_are_dropped_do_not_count_into_the_delay():
    scheduler = ChunkScheduler(REAL_TIME)
    for stamp_ms in (0, 1000):
        push(scheduler, chunk(stamp_ms, [0.0] * 20), arrival_ms=stamp_ms + 80)
    assert not push(scheduler, chunk(1000, [0.0] * 20), arrival_ms=1500)
    assert not push(scheduler, chunk(1100, [0.0]), arrival_ms=1150)
    assert scheduler.delay_ns == 80 * MS


def test_ten_answers_are_remembered_by_default():
    scheduler = ChunkScheduler(SchedulerConfig("real_time_chunking", 8))
    for k in range(12):
        push(scheduler, chunk(1000 * k, [0.0] * 20), arrival_ms=1000 * k + 100 - k)
        assert scheduler.delay_ns == (None if k == 0 else (99 - max(0, k - 10)) * MS)


def test_defaults_are_a_slow_decay_and_a_blend_of_200_ms():
    config = SchedulerConfig("blend", 8)
    assert (config.ensemble_decay, config.blend_s, config.fade_ns) == (0.01, 0.2, 200 * MS)
    assert SchedulerConfig("blend", 8, blend_s=10.0).fade_ns == 10_000_000_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SchedulerConfig("receding", 8), "^unknown scheduler mode 'receding'.*receding_horizon"),
        (lambda: SchedulerConfig("receding_horizon", 0), "^execute_steps is 0, must be at least 1"),
        (lambda: SchedulerConfig("receding_horizon", 8, delay_window=0), "^delay_window is 0, must be at least 1"),
        (lambda: SchedulerConfig("temporal_ensemble", 1, float("nan")), "^ensemble_decay is nan, must be finite"),
        (lambda: SchedulerConfig("temporal_ensemble", 1, float("inf")), "^ensemble_decay is inf, must be finite"),
        (lambda: SchedulerConfig("temporal_ensemble", 1, -0.001), "^ensemble_decay is -0.001, .*not negative"),
        (lambda: SchedulerConfig("receding_horizon", 1, blend_s=-0.001), "^blend_s is -0.001, .*not negative"),
        (lambda: SchedulerConfig("receding_horizon", 1, blend_s=float("inf")), "^blend_s is inf, must be finite"),
        (lambda: SchedulerConfig("receding_horizon", 1, blend_s=float("nan")), "^blend_s is nan, must be finite"),
        (lambda: SchedulerConfig("blend", 1, blend_s=0.0), "^blend_s is 0.0, must be positive in mode blend"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("field", ["mode", "execute_steps", "fade_ns"])
def test_a_configuration_does_not_change(field):
    with pytest.raises(AttributeError):
        setattr(BLEND, field, 1)


def test_the_least_that_makes_sense_is_accepted():
    assert SchedulerConfig("blend", 1, ensemble_decay=0.0, blend_s=1e-9, delay_window=1).fade_ns == 1
    assert SchedulerConfig("real_time_chunking", 1, blend_s=0.0).fade_ns == 0
    assert SchedulerConfig("receding_horizon", 1, blend_s=0.2).fade_ns == 0
    scheduler = ChunkScheduler(SchedulerConfig("blend", 1, blend_s=1e-9))
    push(scheduler, chunk(0, [1.0] * 3))
    push(scheduler, chunk(50, [3.0] * 3))
    assert [value_at(scheduler, t) for t in (50, 50 + 1e-6)] == [1.0, 3.0]
    assert scheduler.push(ActionChunk(100 * MS, 100 * MS, 1, np.zeros((2, 1))), 100 * MS)


@given(stamps=st.lists(st.integers(0, 2000), min_size=1, max_size=20), now_ms=st.integers(0, 3000))
def test_in_whatever_order_chunks_arrive_the_newest_that_was_taken_decides(stamps, now_ms):
    scheduler = ChunkScheduler(RECEDING)
    taken = [stamp for stamp in stamps if push(scheduler, chunk(stamp, [float(stamp)] * 10))]
    assert taken == sorted(set(taken))
    assert taken[-1] == max(stamps)
    if now_ms >= taken[-1]:  # earlier times lie before an observation that was already answered
        assert value_at(scheduler, now_ms) == (float(taken[-1]) if now_ms < taken[-1] + 500 else None)


@given(
    values=st.lists(st.floats(-3, 3), min_size=2, max_size=16),
    offset=st.integers(0, 799),
    mode=st.sampled_from(["receding_horizon", "temporal_ensemble"]),
)
def test_actions_stay_between_the_extremes_of_what_was_planned(values, offset, mode):
    scheduler = ChunkScheduler(SchedulerConfig(mode, 1))
    push(scheduler, chunk(0, values))
    push(scheduler, chunk(50, values))
    found = value_at(scheduler, 50 + offset % (50 * (len(values) - 1)))
    assert found is not None
    assert min(values) - 1e-12 <= found <= max(values) + 1e-12


@given(
    old=st.lists(st.floats(-3, 3), min_size=16, max_size=16),
    new=st.lists(st.floats(-3, 3), min_size=16, max_size=16),
    arrival_ms=st.integers(400, 799),
    blend_ms=st.integers(1, 500),
)
def test_whatever_a_blended_chunk_says_and_when_it_comes_the_position_is_continuous(old, new, arrival_ms, blend_ms):
    scheduler = ChunkScheduler(SchedulerConfig("blend", 8, blend_s=blend_ms / 1e3))
    push(scheduler, chunk(0, old))
    before = value_at(scheduler, arrival_ms)
    push(scheduler, chunk(400, new), arrival_ms=arrival_ms)
    assert value_at(scheduler, arrival_ms) == pytest.approx(before, abs=1e-12)
    # 1 us later: at most 1.875 times the offset of 6 per blend time, and 6 per period of the new chunk.
    assert value_at(scheduler, arrival_ms + 1e-3) == pytest.approx(before, abs=1e-3 * (1.875 * 6 / blend_ms + 6 / 50))
    after = ChunkScheduler(RECEDING)
    push(after, chunk(400, new))
    assert value_at(scheduler, arrival_ms + blend_ms) == value_at(after, arrival_ms + blend_ms)


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_actions_of_any_kind_of_number_come_out_as_doubles(dtype: str):
    scheduler = ChunkScheduler(RECEDING)
    scheduler.push(ActionChunk(0, 0, 50 * MS, np.array([[1], [3]], dtype=dtype)), 0)
    for now_ms, expected in ((0, 1.0), (25, 2.0), (50, 3.0)):
        found = scheduler.action_at(now_ms * MS)
        assert found is not None
        assert found.action.dtype == np.float64
        assert found.action.tolist() == [expected]
