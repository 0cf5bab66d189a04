from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.alignment import Mode, StreamPolicy, align
from armature.control.observation_buffer import ObservationBuffer
from armature.control.stream_watch import Refusal
from armature.errors import InvalidValue, SpecMismatch
from armature.spec import CAMERA_WRIST, JOINT_POSITION, ArraySpec, ObservationSpec

MS = 1_000_000
SPEC = ObservationSpec(
    (ArraySpec(CAMERA_WRIST, (4, 5, 3), "uint8", "rgb8"), ArraySpec(JOINT_POSITION, (1,), "float32", "rad")),
    rate_hz=10.0,
)
JOINTS_ONLY = SPEC.select((JOINT_POSITION,))


def joints(value: float) -> np.ndarray:
    return np.array([value], dtype=np.float32)


def image(value: int) -> np.ndarray:
    return np.full((4, 5, 3), value, dtype=np.uint8)


def joint_buffer(stamps_ms: list[int], obs_steps: int = 2, max_age_ms: int = 100) -> ObservationBuffer:
    buffer = ObservationBuffer(JOINTS_ONLY, obs_steps, max_age_ms * MS)
    for stamp_ms in stamps_ms:
        buffer.push(JOINT_POSITION, stamp_ms * MS, 0, joints(stamp_ms))
    return buffer


def history(buffer: ObservationBuffer, now_ms: int) -> list[float] | None:
    observation = buffer.latest(now_ms * MS)
    return None if observation is None else observation.values[JOINT_POSITION][:, 0].tolist()


def test_streams_of_different_rates_are_aligned_at_the_ticks():
    buffer = ObservationBuffer(SPEC, 2, 60 * MS)
    for stamp_ms in range(0, 201, 10):
        buffer.push(JOINT_POSITION, stamp_ms * MS, 0, joints(stamp_ms))
    for stamp_ms in (30, 80, 130, 180):
        buffer.push(CAMERA_WRIST, stamp_ms * MS, 0, image(stamp_ms))
    observation = buffer.latest(195 * MS)
    assert observation is not None
    assert observation.stamp_ns == 195 * MS
    assert observation.values[JOINT_POSITION].tolist() == [[90.0], [190.0]]
    assert observation.values[CAMERA_WRIST].shape == (2, 4, 5, 3)
    assert observation.values[CAMERA_WRIST][:, 0, 0, 0].tolist() == [80, 180]
    SPEC.validate(observation.latest())


def test_history_before_the_first_sample_repeats_it():
    assert history(joint_buffer([100], obs_steps=3), 150) == [100.0, 100.0, 100.0]
    assert history(joint_buffer([100, 190], obs_steps=3), 200) == [100.0, 100.0, 190.0]


def test_with_age_zero_samples_have_to_lie_on_the_ticks():
    assert history(joint_buffer([100, 200], max_age_ms=0), 200) == [100.0, 200.0]
    assert history(joint_buffer([100, 200], max_age_ms=0), 201) is None
    assert history(joint_buffer([99, 200], max_age_ms=0), 200) is None


def test_missing_names_streams_and_why():
    buffer = ObservationBuffer(SPEC, 2, 100 * MS)
    assert buffer.latest(0) is None
    assert buffer.missing(0) == ["camera/wrist: no sample yet", "joint/position: no sample yet"]
    buffer.push(CAMERA_WRIST, 0, 0, image(1))
    buffer.push(JOINT_POSITION, 0, 0, joints(1))
    assert buffer.missing(100 * MS) == []
    assert buffer.missing(350 * MS)[0] == "camera/wrist: newest sample is 0.350 s old (limit 0.100 s)"
    buffer.push(CAMERA_WRIST, 350 * MS, 0, image(2))
    assert buffer.missing(350 * MS)[0] == "camera/wrist: gap in the last 0.100 s of history (limit 0.100 s)"
    assert buffer.latest(350 * MS) is None


def test_samples_after_now_are_not_used():
    buffer = joint_buffer([100, 200, 300])
    assert history(buffer, 250) == [100.0, 200.0]
    assert history(buffer, 99) is None


def test_stamps_that_do_not_grow_are_dropped_and_counted():
    buffer = joint_buffer([100])
    assert not buffer.push(JOINT_POSITION, 100 * MS, 0, joints(1))
    assert not buffer.push(JOINT_POSITION, 99 * MS, 0, joints(1))
    assert buffer.push(JOINT_POSITION, 101 * MS, 0, joints(1))
    assert buffer.refused == {(JOINT_POSITION, Refusal.REPEATED): 1, (JOINT_POSITION, Refusal.BACKWARDS): 1}


def test_reset_drops_what_came_before_and_refuses_it_from_then_on():
    buffer = joint_buffer([100, 200, 300])
    buffer.reset(250 * MS)
    assert history(buffer, 300) == [300.0, 300.0]
    buffer.reset(400 * MS)
    assert history(buffer, 400) is None
    assert not buffer.push(JOINT_POSITION, 399 * MS, 0, joints(1))
    assert buffer.push(JOINT_POSITION, 400 * MS, 0, joints(7))
    assert history(buffer, 400) == [7.0, 7.0]


def test_unknown_streams_and_invalid_values_are_errors():
    buffer = joint_buffer([])
    with pytest.raises(SpecMismatch, match=r"unknown observation 'joint/positon'\. Did you mean 'joint/position'"):
        buffer.push("joint/positon", 0, 0, joints(0))
    with pytest.raises(InvalidValue, match=r"joint/position: shape \(2,\), expected \(1,\)"):
        buffer.push(JOINT_POSITION, 0, 0, np.zeros(2, dtype=np.float32))
    with pytest.raises(InvalidValue, match="joint/position: not finite"):
        buffer.push(JOINT_POSITION, 0, 0, joints(float("nan")))


def test_the_newest_sample_keeps_its_receive_time():
    buffer = joint_buffer([])
    assert buffer.newest(JOINT_POSITION) is None
    buffer.push(JOINT_POSITION, 5, 12345, joints(0))
    newest = buffer.newest(JOINT_POSITION)
    assert newest is not None
    assert (newest.stamp_ns, newest.received_ns) == (5, 12345)


def test_an_observation_does_not_share_memory_with_later_ones():
    buffer = joint_buffer([100, 200])
    first = buffer.latest(200 * MS)
    assert first is not None
    first.values[JOINT_POSITION][:] = -1
    assert history(buffer, 200) == [100.0, 200.0]


def test_old_samples_are_forgotten_without_becoming_the_beginning_of_the_episode():
    buffer = joint_buffer(list(range(0, 20_000, 10)))
    assert len(buffer._streams[JOINT_POSITION].samples) < 200
    assert history(buffer, 19_990) == [19_890.0, 19_990.0]
    assert history(buffer, 5_000) is None


@given(
    gaps_ms=st.lists(st.integers(1, 150), min_size=1, max_size=30),
    obs_steps=st.integers(1, 4),
    max_age_ms=st.integers(0, 200),
    back_ms=st.integers(0, 100),
)
def test_every_step_is_the_newest_sample_not_after_its_tick(gaps_ms, obs_steps, max_age_ms, back_ms):
    stamps_ms = np.cumsum(gaps_ms).tolist()
    buffer = joint_buffer(stamps_ms, obs_steps, max_age_ms)
    now_ms = stamps_ms[-1] + 50 - back_ms
    found = history(buffer, now_ms)
    assert (found is None) == bool(buffer.missing(now_ms * MS))
    if found is None:
        return
    for value, tick_ms in zip(found, [now_ms - 100 * k for k in reversed(range(obs_steps))], strict=True):
        earlier = [stamp for stamp in stamps_ms if stamp <= tick_ms]
        assert value == (earlier[-1] if earlier else stamps_ms[0])
        assert not earlier or tick_ms - value <= max_age_ms


def test_a_held_stream_counts_however_old_its_newest_sample_is():
    policies = {CAMERA_WRIST: StreamPolicy("hold", 0)}
    buffer = ObservationBuffer(SPEC, 2, 100 * MS, policies)
    assert buffer.missing(0) == ["camera/wrist: no sample yet", "joint/position: no sample yet"]
    buffer.push(CAMERA_WRIST, 0, 0, image(1))
    buffer.push(CAMERA_WRIST, 7_000 * MS, 0, image(2))
    for stamp_ms in range(0, 7_100, 50):
        buffer.push(JOINT_POSITION, stamp_ms * MS, 0, joints(stamp_ms))
    observation = buffer.latest(7_050 * MS)
    assert observation is not None
    assert observation.values[CAMERA_WRIST][:, 0, 0, 0].tolist() == [1, 2]
    for stamp_ms in range(7_100, 10_000, 50):
        buffer.push(JOINT_POSITION, stamp_ms * MS, 0, joints(stamp_ms))
    assert buffer.missing(9_950 * MS) == []
    with pytest.raises(SpecMismatch, match="unknown observation 'camera/wirst'"):
        ObservationBuffer(SPEC, 2, 100 * MS, {"camera/wirst": StreamPolicy()})


@given(
    gaps_ms=st.lists(st.integers(1, 400), min_size=1, max_size=30),
    ticks_ms=st.lists(st.integers(0, 6_000), min_size=1, max_size=10, unique=True).map(sorted),
    mode=st.sampled_from(["drop", "hold"]),
    max_age_ms=st.integers(0, 300),
)
def test_the_robot_sees_at_a_tick_what_the_recording_gives_for_it(gaps_ms, ticks_ms, mode: Mode, max_age_ms):
    stamps_ms = np.cumsum(gaps_ms)
    policies = {JOINT_POSITION: StreamPolicy(mode, max_age_ms * MS)}
    offline = align({JOINT_POSITION: stamps_ms * MS}, np.array(ticks_ms) * MS, policies)
    expected = dict(zip(offline.ticks.tolist(), stamps_ms[offline.index[JOINT_POSITION]], strict=True))
    buffer, waiting = ObservationBuffer(JOINTS_ONLY, 1, 0, policies), stamps_ms.tolist()
    for k, tick_ms in enumerate(ticks_ms):
        while waiting and waiting[0] <= tick_ms:
            stamp_ms = waiting.pop(0)
            buffer.push(JOINT_POSITION, stamp_ms * MS, 0, joints(stamp_ms))
        assert history(buffer, tick_ms) == ([expected[k]] if k in expected else None)
