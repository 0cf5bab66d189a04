"""What the observation buffer refuses while time passes by itself, and how it says so. Times in ms from noon."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from armature.alignment import StreamPolicy
from armature.control.observation_buffer import ObservationBuffer
from armature.control.stream_watch import Lack, LiveChecks, Refusal
from armature.errors import ConfigError, InvalidValue, SpecMismatch
from armature.spec import CAMERA_SCENE, CAMERA_WRIST, JOINT_POSITION, ArraySpec, ObservationSpec

MS = 1_000_000
NOON_NS = 1_785_000_000 * 1_000_000_000
HOUR_MS = 3_600_000
SPEC = ObservationSpec(
    (ArraySpec(CAMERA_WRIST, (32, 40, 3), "uint8", "rgb8"), ArraySpec(JOINT_POSITION, (1,), "float32", "rad")),
    rate_hz=10.0,
)
WITHOUT_HISTORY, WITH_HISTORY = 1, 2


class Robot:
    """A buffer with a clock that is set by hand; 20 ms into the future, 50 ms apart, frozen after 200 ms."""

    def __init__(self, obs_steps: int = WITHOUT_HISTORY, **policies: StreamPolicy) -> None:
        self.now_ms = 0
        self.checks = LiveChecks(lambda: NOON_NS + self.now_ms * MS, 20 * MS, 50 * MS, {CAMERA_WRIST: 200 * MS})
        named = {{"wrist": CAMERA_WRIST, "joints": JOINT_POSITION}[name]: policy for name, policy in policies.items()}
        self.buffer = ObservationBuffer(SPEC, obs_steps, 100 * MS, named, self.checks)

    def joints(self, stamp_ms: int, value: float = 0.0) -> bool:
        return self.buffer.push(JOINT_POSITION, NOON_NS + stamp_ms * MS, 0, np.array([value], np.float32))

    def image(self, stamp_ms: int, level: int | None = None) -> bool:
        pixels = np.full((32, 40, 3), stamp_ms % 251 if level is None else level, np.uint8)
        return self.buffer.push(CAMERA_WRIST, NOON_NS + stamp_ms * MS, 0, pixels)

    def sees(self, now_ms: int | None = None) -> bool:
        return self.buffer.latest(NOON_NS + (self.now_ms if now_ms is None else now_ms) * MS) is not None

    def lacks(self, now_ms: int | None = None) -> list[str]:
        return self.buffer.missing(NOON_NS + (self.now_ms if now_ms is None else now_ms) * MS)

    def run(self, begin_ms: int, end_ms: int, level: int | None = None) -> None:
        """Publish both streams every 10 ms."""
        for self.now_ms in range(begin_ms, end_ms + 1, 10):
            self.joints(self.now_ms)
            self.image(self.now_ms, level)


@pytest.mark.fault(row=12)
@example(offset_ms=20, now_ms=0)
@example(offset_ms=21, now_ms=0)
@example(offset_ms=-100, now_ms=0)
@example(offset_ms=-101, now_ms=0)
@given(offset_ms=st.integers(-HOUR_MS, HOUR_MS), now_ms=st.integers(-HOUR_MS, HOUR_MS))
def test_a_first_stamp_is_taken_exactly_if_it_is_at_most_20_ms_ahead_and_used_if_it_is_young(offset_ms, now_ms):
    robot = Robot()
    robot.now_ms = now_ms
    taken = robot.joints(now_ms + offset_ms), robot.image(now_ms + offset_ms)
    assert taken == (offset_ms <= 20,) * 2
    # A node asks for the observation of the newest stamp that it has seen, however old that is.
    assert robot.sees(now_ms + offset_ms) == (-100 <= offset_ms <= 20)
    ahead = {(name, Refusal.FUTURE_STAMP): 1 for name in SPEC.names}
    assert robot.buffer.refused == ({} if offset_ms <= 20 else ahead)


@pytest.mark.fault(row=12)
@given(st.lists(st.integers(-HOUR_MS, HOUR_MS), max_size=40))
def test_every_stamp_is_either_kept_in_ascending_order_or_counted_once_by_its_reason(stamps_ms):
    robot = Robot()
    kept: list[int] = []
    counts = {Refusal.FUTURE_STAMP: 0, Refusal.REPEATED: 0, Refusal.BACKWARDS: 0}
    for stamp_ms in stamps_ms:
        if robot.joints(stamp_ms):
            kept.append(stamp_ms)
        elif stamp_ms > 20:
            counts[Refusal.FUTURE_STAMP] += 1
        else:
            counts[Refusal.REPEATED if stamp_ms == kept[-1] else Refusal.BACKWARDS] += 1
    assert all(a < b <= 20 for a, b in itertools.pairwise(kept))
    assert robot.buffer.refused == {(JOINT_POSITION, reason): count for reason, count in counts.items() if count}
    assert len(kept) + robot.buffer.refused.total() == len(stamps_ms)


@pytest.mark.fault(row=12)
def test_zero_and_negative_stamps_are_refused_live_and_taken_in_simulated_time():
    robot, value = Robot(), np.zeros(1, np.float32)
    assert not robot.buffer.push(JOINT_POSITION, 0, 0, value)
    assert not robot.buffer.push(JOINT_POSITION, -5, 0, value)
    assert robot.buffer.refused == {(JOINT_POSITION, Refusal.ZERO_STAMP): 2}
    simulated = ObservationBuffer(SPEC.select((JOINT_POSITION,)), 1, max_age_ns=0)
    assert simulated.push(JOINT_POSITION, 0, 0, value)
    assert simulated.latest(0) is not None
    assert simulated.latest(1) is None
    assert not simulated.refused
    assert not simulated.withheld


@pytest.mark.fault(row=21)
def test_joint_states_that_stop_are_named_and_there_is_no_observation():
    robot = Robot()
    robot.run(0, 300)
    assert robot.sees()
    for robot.now_ms in range(310, 401, 10):
        robot.image(robot.now_ms)
    # 100 ms old, and within reach; but the camera has gone on for more than 50 ms.
    assert robot.lacks() == ["joint/position: 0.100 s older than camera/wrist (limit 0.050 s)"]
    robot.now_ms = 401
    assert robot.lacks() == ["joint/position: newest sample is 0.101 s old (limit 0.100 s)"]
    assert not robot.sees()
    assert robot.buffer.withheld == {(JOINT_POSITION, Lack.STALE): 1}


@pytest.mark.fault(row=22)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_position_that_is_not_finite_never_becomes_an_observation(value):
    robot = Robot()
    robot.image(0)
    with pytest.raises(InvalidValue, match=r"joint/position: not finite at elements \[0\]"):
        robot.joints(0, value)
    assert robot.lacks() == ["joint/position: no sample yet"]


@pytest.mark.fault(row=26)
def test_a_stale_camera_is_named_even_if_all_streams_are_equally_late():
    robot = Robot()
    robot.run(0, 100)
    robot.now_ms = 250
    assert robot.lacks(100) == [
        "camera/wrist: newest sample is 0.150 s old (limit 0.100 s)",
        "joint/position: newest sample is 0.150 s old (limit 0.100 s)",
    ]
    assert not robot.sees(100)


def test_a_tick_ahead_of_the_clock_counts_for_the_age():
    robot = Robot()
    robot.joints(-85)
    robot.image(-85)
    assert robot.sees(15)
    assert robot.lacks(20)[0] == "camera/wrist: newest sample is 0.105 s old (limit 0.100 s)"


@pytest.mark.fault(row=26)
def test_a_frozen_camera_is_named_until_its_picture_changes():
    robot = Robot()
    robot.run(0, 100)
    robot.run(110, 310, level=7)
    assert robot.sees()
    robot.run(320, 320, level=7)
    assert robot.lacks() == ["camera/wrist: unchanged for 0.210 s while its stamps advanced (limit 0.200 s)"]
    assert not robot.sees()
    assert robot.buffer.withheld == {(CAMERA_WRIST, Lack.FROZEN): 1}
    robot.run(330, 330, level=8)
    assert robot.sees()


@pytest.mark.fault(row=26)
def test_an_image_that_changes_on_the_grid_of_compared_pixels_is_not_frozen():
    robot, picture = Robot(), np.zeros((32, 40, 3), np.uint8)
    for robot.now_ms in range(0, 1000, 50):
        robot.joints(robot.now_ms)
        noisy = picture.copy()
        noisy[8, 16, 1] = robot.now_ms // 50
        robot.buffer.push(CAMERA_WRIST, NOON_NS + robot.now_ms * MS, 0, noisy)
        assert robot.sees()


@pytest.mark.fault(row=23)
def test_joints_that_may_not_stand_still_are_compared_to_the_last_bit():
    checks = LiveChecks(lambda: NOON_NS, 10**12, 0, {JOINT_POSITION: 200 * MS})
    buffer = ObservationBuffer(SPEC.select((JOINT_POSITION,)), 1, 100 * MS, live=checks)

    def push(stamp_ms: int, value: np.float32) -> list[str]:
        buffer.push(JOINT_POSITION, NOON_NS + stamp_ms * MS, 0, np.array([value], np.float32))
        return buffer.missing(NOON_NS + stamp_ms * MS)

    one, next_to_one = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    assert [push(k * 100, one) for k in range(3)] == [[], [], []]
    assert push(300, one) == ["joint/position: unchanged for 0.300 s while its stamps advanced (limit 0.200 s)"]
    assert push(400, next_to_one) == []


@pytest.mark.fault(row=27)
def test_a_camera_50_ms_behind_the_joints_is_taken_and_one_51_ms_behind_is_rejected_and_counted():
    robot = Robot()
    robot.image(0)
    for stamp_ms in (0, 50, 51):
        robot.now_ms = stamp_ms
        robot.joints(stamp_ms)
        assert robot.sees() == (stamp_ms <= 50)
    assert robot.lacks() == ["camera/wrist: 0.051 s older than joint/position (limit 0.050 s)"]
    assert robot.buffer.withheld == {(CAMERA_WRIST, Lack.SKEW): 1}


@pytest.mark.fault(row=27)
def test_skew_is_looked_for_in_every_step_of_the_history():
    robot = Robot(WITH_HISTORY)
    for stamp_ms in (0, 90, 100, 190, 200):
        robot.now_ms = stamp_ms
        robot.joints(stamp_ms)
    for stamp_ms in (0, 45, 195):
        robot.image(stamp_ms)
    assert robot.lacks() == ["camera/wrist: 0.055 s older than joint/position (limit 0.050 s)"]


@pytest.mark.fault(row=27)
def test_a_step_before_the_first_samples_repeats_them_however_far_apart_those_are():
    robot = Robot(WITH_HISTORY)
    robot.now_ms = 95
    robot.joints(0)
    robot.joints(80)
    robot.image(90)
    assert robot.sees()


@pytest.mark.fault(row=27)
def test_a_step_at_the_limit_of_skew_does_not_hide_a_later_one_beyond_it():
    robot = Robot(WITH_HISTORY)
    for stamp_ms in (0, 50, 100, 200):
        robot.now_ms = stamp_ms
        robot.joints(stamp_ms)
    robot.image(0)
    robot.image(50)
    robot.image(149)
    assert robot.lacks() == ["camera/wrist: 0.051 s older than joint/position (limit 0.050 s)"]


@pytest.mark.fault(row=27)
@given(camera_ms=st.integers(0, 100), joints_ms=st.integers(0, 100))
def test_no_observation_holds_streams_further_apart_than_allowed(camera_ms, joints_ms):
    robot = Robot()
    robot.now_ms = 100
    robot.image(camera_ms)
    robot.joints(joints_ms)
    assert robot.sees() == (abs(camera_ms - joints_ms) <= 50)


def test_a_held_stream_may_lie_any_time_apart():
    robot = Robot(wrist=StreamPolicy("hold", 0))
    robot.image(0)
    robot.now_ms = 5000
    robot.joints(5000)
    assert robot.sees()


def test_the_two_worst_of_three_streams_are_named():
    scene = ArraySpec(CAMERA_SCENE, (32, 40, 3), "uint8", "rgb8")
    spec = ObservationSpec((scene, *SPEC.arrays), 10.0)
    buffer = ObservationBuffer(spec, 1, 500 * MS, live=LiveChecks(lambda: NOON_NS, 0, 50 * MS, {}))
    for name, age_ms in {CAMERA_SCENE: 80, CAMERA_WRIST: 30, JOINT_POSITION: 10}.items():
        buffer.push(name, NOON_NS - age_ms * MS, 0, np.zeros(spec[name].shape, spec[name].dtype))
    assert buffer.missing(NOON_NS) == ["camera/scene: 0.070 s older than joint/position (limit 0.050 s)"]


@pytest.mark.fault(row=54)
def test_a_clock_set_back_flushes_the_buffer_and_every_stream_has_to_begin_again():
    robot = Robot()
    robot.run(0, 300)
    robot.now_ms = -HOUR_MS
    assert robot.joints(-HOUR_MS)
    assert robot.buffer.clock_resets == 1
    assert robot.lacks() == ["camera/wrist: no sample yet"]
    robot.image(300)
    assert robot.buffer.refused == {(CAMERA_WRIST, Refusal.FUTURE_STAMP): 1}
    assert not robot.sees()
    robot.image(-HOUR_MS)
    assert robot.sees()


@pytest.mark.fault(row=54)
def test_history_after_a_clock_set_back_repeats_the_first_new_sample_and_holds_none_from_before():
    robot = Robot(WITH_HISTORY)
    for robot.now_ms in (0, 100, 200):
        robot.joints(robot.now_ms, value=1.0)
        robot.image(robot.now_ms)
    robot.buffer.reset(NOON_NS + 100 * MS)  # an episode that began later than it now is
    robot.now_ms = -5000
    robot.joints(-5000, value=2.0)
    robot.image(-5000)
    observation = robot.buffer.latest(NOON_NS - 5000 * MS)
    assert observation is not None
    assert observation.values[JOINT_POSITION].tolist() == [[2.0], [2.0]]


@pytest.mark.fault(row=54)
def test_a_camera_that_stays_frozen_over_a_step_of_the_clock_is_found_out_again():
    robot = Robot()
    robot.run(0, 210, level=7)
    assert not robot.sees()
    robot.run(-HOUR_MS, -HOUR_MS + 200, level=7)
    assert robot.sees()
    robot.run(-HOUR_MS + 210, -HOUR_MS + 210, level=7)
    assert robot.lacks() == ["camera/wrist: unchanged for 0.210 s while its stamps advanced (limit 0.200 s)"]


@pytest.mark.fault(row=54)
def test_a_clock_set_ahead_leaves_nothing_old_in_an_observation():
    robot = Robot()
    robot.run(0, 300)
    robot.now_ms = HOUR_MS
    assert not robot.sees(300)
    robot.joints(HOUR_MS)
    assert robot.lacks() == ["camera/wrist: newest sample is 3599.700 s old (limit 0.100 s)"]
    robot.image(HOUR_MS)
    assert robot.sees()
    assert robot.buffer.clock_resets == 0


@pytest.mark.fault(row=54)
@given(steps_ms=st.lists(st.integers(-HOUR_MS, HOUR_MS), min_size=1, max_size=5))
def test_no_observation_mixes_the_times_before_and_after_a_step_of_the_clock(steps_ms):
    robot, offset_ms = Robot(WITH_HISTORY), 0
    for step_ms in steps_ms:
        offset_ms += step_ms
        for tick_ms in range(0, 240, 20):
            offset_ms += 20
            robot.now_ms = offset_ms
            robot.joints(offset_ms, value=step_ms)
            robot.image(offset_ms)
            observation = robot.buffer.latest(NOON_NS + offset_ms * MS)
            # A step of less than the history is a pause; there the values before it are those of a moment ago.
            if observation is not None and abs(step_ms) > 200 and tick_ms < 100:
                assert observation.values[JOINT_POSITION].tolist() == [[step_ms], [step_ms]]
        assert robot.sees()


@pytest.mark.fault(row=54)
def test_small_steps_back_are_counted_together():
    robot = Robot()
    robot.run(0, 100)
    robot.now_ms = 85
    robot.joints(85)
    assert (robot.buffer.clock_resets, robot.buffer.refused) == (0, {(JOINT_POSITION, Refusal.BACKWARDS): 1})
    robot.now_ms = 79
    robot.joints(79)
    assert robot.buffer.clock_resets == 1


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ((-1, 0, {}), "future_max_ns is -1, must be at least 0"),
        ((0, -1, {}), "skew_max_ns is -1, must be at least 0"),
        ((0, 0, {JOINT_POSITION: 0}), "frozen_after_ns of joint/position is 0, must be above 0"),
    ],
)
def test_times_that_make_no_sense_are_named(checks, words):
    with pytest.raises(ConfigError, match=words):
        LiveChecks(lambda: 0, *checks)


def test_no_check_has_a_default_and_a_stream_that_does_not_exist_is_named():
    with pytest.raises(TypeError, match=r"'future_max_ns', 'skew_max_ns', and 'frozen_after_ns'"):
        LiveChecks(lambda: 0)
    with pytest.raises(SpecMismatch, match=r"unknown observation 'camera/wirst'\. Did you mean 'camera/wrist'"):
        ObservationBuffer(SPEC, 1, 0, live=LiveChecks(lambda: 0, 0, 0, {"camera/wirst": 1}))
