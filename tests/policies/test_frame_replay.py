"""Frames that are kept once and rows that say which are theirs: never one that was overwritten meanwhile."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from armature.errors import ConfigError, InvalidValue
from policies import frame_replay
from policies.frame_replay import FrameReplay, PixelBatch
from policies.replay import Layout, NStep, Step

LAYOUT, SHAPE = Layout(observation_dim=1, action_dim=1), (1, 2, 2, 3)
NOTHING = np.zeros(1, np.float32)


def picture(number: int) -> np.ndarray:
    """Return a frame that says its number."""
    frame = np.zeros(SHAPE, np.uint8)
    frame[..., 0], frame[..., 1] = number // 256, number % 256
    return frame


def numbers_of(images: torch.Tensor) -> list[int]:
    assert torch.equal(images, images[:, :, :1, :1].expand_as(images))
    return (images[:, 0, 0, 0, 0].int() * 256 + images[:, 0, 0, 0, 1].int()).tolist()


def show(replay: FrameReplay, number: int) -> np.ndarray:
    return replay.show(np.array([number], np.float32), picture(number))


def run_episode(replay: FrameReplay, numbers: range, steps: int, *, terminated: bool) -> int:
    """Add an episode that sees `numbers`, the last of them after its end; return how many rows it became."""
    nstep, seen, count = NStep(replay.layout, steps, 0.5), show(replay, numbers[0]), 0
    for number in numbers[1:]:
        after, is_last = show(replay, number), number == numbers[-1]
        step = Step(seen, NOTHING, NOTHING, float(terminated and is_last))
        rows = nstep.add(step, after, NOTHING, terminated=terminated and is_last, cut=is_last and not terminated)
        replay.add(rows)
        seen, count = after, count + len(rows)
    return count


def all_rows(replay: FrameReplay) -> set[tuple[int, ...]]:
    """Draw so many that all are there: (what was seen, its frame, what followed, its frame)."""
    batch = replay.sample(60 * len(replay), torch.Generator().manual_seed(0))
    columns = batch.observation[:, 0], batch.next_observation[:, 0]
    before, after = ([int(number) for number in column] for column in columns)
    return set(zip(before, numbers_of(batch.images), after, numbers_of(batch.next_images), strict=True))


def test_rows_of_two_steps_have_the_frames_of_their_first_and_of_what_follows():
    replay = FrameReplay(LAYOUT, 10, SHAPE)
    assert run_episode(replay, range(4), steps=2, terminated=False) == 3
    # The last row is of one step: the time limit cut it, and what the camera showed then is there to be valued.
    assert all_rows(replay) == {(0, 0, 2, 2), (1, 1, 3, 3), (2, 2, 3, 3)}
    batch = replay.sample(50, torch.Generator().manual_seed(1))
    assert set(batch.discount.tolist()) == {0.25, 0.5}


def test_what_follows_a_success_is_worth_nothing_and_no_row_reaches_into_the_next_episode():
    replay = FrameReplay(LAYOUT, 20, SHAPE)
    run_episode(replay, range(3), steps=3, terminated=True)
    run_episode(replay, range(100, 102), steps=3, terminated=False)
    assert all_rows(replay) == {(0, 0, 2, 2), (1, 1, 2, 2), (100, 100, 101, 101)}
    batch = replay.sample(50, torch.Generator().manual_seed(1))
    ended = batch.next_observation[:, 0] == 2
    assert not batch.discount[ended].any()
    assert batch.discount[~ended].tolist() == [0.5] * int((~ended).sum())


def test_a_batch_has_the_vectors_without_the_numbers_of_their_frames():
    replay = FrameReplay(Layout(2, 1), 4, SHAPE)
    before, after = (replay.show(np.array([k, -k], np.float32), picture(k)) for k in (5, 6))
    replay.add(NStep(replay.layout, 1, 1.0).add(Step(before, NOTHING, NOTHING, 0.0), after, NOTHING))
    batch = replay.sample(2, torch.Generator())
    assert isinstance(batch, PixelBatch)
    assert batch.observation.tolist() == [[5, -5]] * 2
    assert batch.next_observation.tolist() == [[6, -6]] * 2
    assert (batch.images.dtype, tuple(batch.images.shape)) == (torch.uint8, (2, *SHAPE))


def test_a_row_is_forgotten_with_its_first_frame():
    replay = FrameReplay(LAYOUT, 5, SHAPE)
    run_episode(replay, range(5), steps=1, terminated=False)
    assert all_rows(replay) == {(0, 0, 1, 1), (1, 1, 2, 2), (2, 2, 3, 3), (3, 3, 4, 4)}
    show(replay, 5)
    assert all_rows(replay) == {(1, 1, 2, 2), (2, 2, 3, 3), (3, 3, 4, 4)}
    show(replay, 6)
    show(replay, 7)
    assert all_rows(replay) == {(3, 3, 4, 4)}
    show(replay, 8)
    assert len(replay) == 0
    with pytest.raises(InvalidValue, match="the replay buffer is empty"):
        replay.sample(1, torch.Generator())
    assert replay.total == 4


def test_a_transition_that_comes_after_its_frame_was_overwritten_is_refused():
    replay = FrameReplay(LAYOUT, 3, SHAPE)
    seen, after = show(replay, 0), show(replay, 1)
    rows = NStep(replay.layout, 1, 1.0).add(Step(seen, NOTHING, NOTHING, 0.0), after, NOTHING)
    show(replay, 2)
    show(replay, 3)
    with pytest.raises(InvalidValue, match="a capacity of 3 is too small for so many robots at once"):
        replay.add(rows)
    assert len(replay) == 0


@pytest.mark.parametrize("capacity", [0, 2**23 + 1])
def test_a_capacity_that_cannot_be_counted_is_refused(capacity):
    with pytest.raises(ConfigError, match=f"capacity of a replay of frames is {capacity}, must be 1 to 8388608"):
        FrameReplay(LAYOUT, capacity, SHAPE)


def test_memory_is_one_frame_for_each_transition_and_its_row():
    replay = FrameReplay(Layout(23, 8), 50, (2, 64, 64, 3))
    assert replay._frames.nbytes == 50 * 24_576
    assert replay._rows.nbytes == 50 * 4 * (2 * (23 + 1) + 3 * 8 + 2)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), capacity=st.integers(12, 30), robots=st.integers(1, 3), steps=st.integers(1, 3))
@pytest.mark.parametrize("counted", [2**24, 64])
def test_no_row_that_can_be_drawn_ever_refers_to_an_overwritten_frame(counted, data, capacity, robots, steps):
    """Robots take turns as they like, episodes end as they like, and numbers of frames begin anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_replay, "COUNTED", counted)
        replay = FrameReplay(LAYOUT, capacity, SHAPE)
    seen: dict[int, np.ndarray] = {}
    nsteps: dict[int, NStep] = {}
    shown = 0
    for robot in data.draw(st.lists(st.integers(0, robots - 1), min_size=5, max_size=100)):
        if robot not in seen:
            seen[robot], nsteps[robot] = show(replay, shown), NStep(replay.layout, steps, 1.0)
            shown += 1
        before, seen[robot] = seen[robot], show(replay, shown)
        shown += 1
        end = data.draw(st.sampled_from(["", "", "", "terminated", "cut"]))
        step = Step(before, NOTHING, NOTHING, 0.0)
        rows = nsteps[robot].add(step, seen[robot], NOTHING, terminated=end == "terminated", cut=end == "cut")
        # Of a robot that waited for longer than the ring remembers, transitions are refused; see above.
        with suppress(InvalidValue):
            replay.add(rows)
        if end:
            del seen[robot]
        if len(replay):
            for before_number, frame, after_number, next_frame in all_rows(replay):
                assert (before_number, after_number) == (frame, next_frame)
                assert shown - before_number <= capacity
    assert len(replay) <= min(replay.total, capacity)
