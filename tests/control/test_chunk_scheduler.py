from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.control.chunk_scheduler import ChunkScheduler, SchedulerConfig
from armature.errors import ConfigError
from armature.types import ActionChunk

MS = 1_000_000
RECEDING = SchedulerConfig("receding_horizon", execute_steps=8)
ENSEMBLE = SchedulerConfig("temporal_ensemble", execute_steps=1, ensemble_decay=0.5)


def chunk(stamp_ms: int, actions: list[float], start_ms: int | None = None, period_ms: int = 50) -> ActionChunk:
    start_ns = (stamp_ms if start_ms is None else start_ms) * MS
    return ActionChunk(stamp_ms * MS, start_ns, period_ms * MS, np.array(actions, dtype=np.float64)[:, np.newaxis])


def value_at(scheduler: ChunkScheduler, now_ms: float) -> float | None:
    scheduled = scheduler.action_at(round(now_ms * MS))
    return None if scheduled is None else scheduled.action.item()


def test_actions_are_exact_at_their_steps_linear_between_and_the_last_is_held_for_one_period():
    scheduler = ChunkScheduler(RECEDING)
    assert scheduler.push(chunk(100, [0.1, 0.3, 0.7]))
    assert [value_at(scheduler, t) for t in (100, 150, 200, 249.999999)] == [0.1, 0.3, 0.7, 0.7]
    assert value_at(scheduler, 125) == pytest.approx(0.2)
    assert value_at(scheduler, 190) == pytest.approx(0.3 + 0.8 * 0.4)


def test_before_the_start_and_from_the_end_on_nothing_is_due():
    scheduler = ChunkScheduler(RECEDING)
    assert value_at(scheduler, 0) is None
    scheduler.push(chunk(100, [1.0, 2.0]))
    assert value_at(scheduler, 99.999999) is None
    assert value_at(scheduler, 200) is None


def test_a_late_chunk_takes_over_and_its_elapsed_actions_are_dropped_by_time():
    scheduler = ChunkScheduler(RECEDING)
    scheduler.push(chunk(0, [float(i) for i in range(16)]))
    assert value_at(scheduler, 450) == 9.0
    scheduler.push(chunk(400, [100.0 + i for i in range(16)]))
    assert value_at(scheduler, 500) == 102.0
    assert scheduler.action_at(500 * MS).chunk_stamp_ns == 400 * MS


def test_a_chunk_that_starts_later_leaves_its_predecessor_in_force_until_then():
    scheduler = ChunkScheduler(RECEDING)
    scheduler.push(chunk(0, [1.0, 2.0, 3.0, 4.0]))
    scheduler.push(chunk(50, [9.0], start_ms=150))
    assert [value_at(scheduler, t) for t in (50, 100, 150)] == [2.0, 3.0, 9.0]


def test_when_the_newest_chunk_is_used_up_the_older_longer_one_does_not_come_back():
    scheduler = ChunkScheduler(RECEDING)
    scheduler.push(chunk(0, [1.0] * 16))
    scheduler.push(chunk(100, [2.0] * 2))
    assert value_at(scheduler, 150) == 2.0
    assert value_at(scheduler, 200) is None


def test_chunks_that_answer_older_or_the_same_observation_are_dropped_and_counted():
    scheduler = ChunkScheduler(RECEDING)
    assert scheduler.push(chunk(100, [1.0]))
    assert not scheduler.push(chunk(100, [2.0]))
    assert not scheduler.push(chunk(50, [3.0, 3.0, 3.0]))
    assert value_at(scheduler, 100) == 1.0
    assert scheduler.dropped == {"not newer": 2}


@pytest.mark.parametrize(
    "bad",
    [
        ActionChunk(1, 1, 50, np.zeros((0, 1))),
        ActionChunk(1, 1, 50, np.zeros(3)),
        ActionChunk(1, 1, 0, np.zeros((2, 1))),
        ActionChunk(1, 1, 50, np.zeros((2, 5))),
    ],
    ids=["empty", "one axis", "no period", "another dimension"],
)
def test_malformed_chunks_are_dropped_and_counted(bad):
    scheduler = ChunkScheduler(RECEDING)
    scheduler.push(chunk(0, [1.0]))
    assert not scheduler.push(bad)
    assert scheduler.dropped == {"malformed": 1}
    assert value_at(scheduler, 0) == 1.0


def test_a_step_that_is_not_finite_spoils_no_neighbour_at_exact_times():
    scheduler = ChunkScheduler(RECEDING)
    scheduler.push(chunk(0, [1.0, float("nan"), 3.0]))
    assert [value_at(scheduler, t) for t in (0, 100)] == [1.0, 3.0]
    assert np.isnan(value_at(scheduler, 25))


def test_a_chunk_is_needed_first_and_again_after_execute_steps():
    scheduler = ChunkScheduler(RECEDING)
    assert scheduler.needs_chunk(0)
    scheduler.push(chunk(0, [0.0] * 16))
    assert [scheduler.needs_chunk(t * MS) for t in (0, 350, 399, 400, 2000)] == [False, False, False, True, True]


def test_a_chunk_shorter_than_execute_steps_is_replaced_when_it_ends():
    scheduler = ChunkScheduler(RECEDING)
    scheduler.push(chunk(0, [0.0]))
    assert [scheduler.needs_chunk(t * MS) for t in (0, 49, 50)] == [False, False, True]


def test_reset_forgets_chunks_and_refuses_those_of_the_episode_before():
    scheduler = ChunkScheduler(RECEDING)
    scheduler.push(chunk(500, [1.0] * 16))
    scheduler.reset(600 * MS)
    assert scheduler.needs_chunk(600 * MS)
    assert value_at(scheduler, 600) is None
    assert not scheduler.push(chunk(599, [2.0] * 16))
    assert scheduler.push(chunk(600, [3.0] * 16))
    scheduler.reset()
    assert scheduler.push(chunk(0, [4.0]))


def test_temporal_ensembling_weighs_the_oldest_chunk_most():
    scheduler = ChunkScheduler(ENSEMBLE)
    scheduler.push(chunk(0, [0.0, 0.0, 3.0]))
    scheduler.push(chunk(50, [0.0, 6.0, 0.0]))
    scheduler.push(chunk(100, [9.0, 0.0, 0.0]))
    # exp(-0.5 i) = 1, 0.6065, 0.3679 for 3, 6, 9: 9.95010 / 1.97441 = 5.03953
    assert value_at(scheduler, 100) == pytest.approx(5.03953, abs=1e-5)
    assert scheduler.action_at(100 * MS).chunk_stamp_ns == 100 * MS


def test_temporal_ensembling_leaves_out_chunks_that_do_not_cover_the_time():
    scheduler = ChunkScheduler(ENSEMBLE)
    scheduler.push(chunk(0, [1.0, 1.0]))
    scheduler.push(chunk(50, [2.0, 2.0]))
    assert value_at(scheduler, 0) == 1.0
    assert value_at(scheduler, 100) == 2.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SchedulerConfig("receding", 8), "unknown scheduler mode 'receding'.*receding_horizon"),
        (lambda: SchedulerConfig("receding_horizon", 0), "execute_steps is 0"),
        (lambda: SchedulerConfig("temporal_ensemble", 1, float("nan")), "ensemble_decay is nan"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@given(stamps=st.lists(st.integers(0, 2000), min_size=1, max_size=20), now_ms=st.integers(0, 3000))
def test_in_whatever_order_chunks_arrive_the_newest_that_was_taken_decides(stamps, now_ms):
    scheduler = ChunkScheduler(RECEDING)
    taken = [stamp for stamp in stamps if scheduler.push(chunk(stamp, [float(stamp)] * 10))]
    assert taken == sorted(set(taken))
    assert taken[-1] == max(stamps)
    begun = [stamp for stamp in taken if stamp <= now_ms]
    expected = float(begun[-1]) if begun and now_ms < begun[-1] + 500 else None
    if now_ms >= taken[-1]:  # earlier times lie before an observation that was already answered
        assert value_at(scheduler, now_ms) == expected


@given(
    values=st.lists(st.floats(-3, 3), min_size=2, max_size=16),
    offset=st.integers(0, 799),
    mode=st.sampled_from(["receding_horizon", "temporal_ensemble"]),
)
def test_actions_stay_between_the_extremes_of_what_was_planned(values, offset, mode):
    scheduler = ChunkScheduler(SchedulerConfig(mode, 1))
    scheduler.push(chunk(0, values))
    scheduler.push(chunk(50, values))
    found = value_at(scheduler, 50 + offset % (50 * (len(values) - 1)))
    assert found is not None
    assert min(values) - 1e-12 <= found <= max(values) + 1e-12
