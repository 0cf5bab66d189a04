from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.alignment import AlignmentConfig
from armature.control.observation_buffer import ObservationBuffer
from armature.errors import ConfigError, DatasetError, SpecMismatch
from armature.spec import ArraySpec, ObservationSpec, RobotSpec
from data_collection.store import Episode, create_dataset
from data_collection.streams import ACTION_EXECUTED
from data_collection.windows import (
    AlignedEpisodes,
    Windows,
    align_episode,
    aligned_episode,
    load_windows,
    split_by_episode,
)

MS = 1_000_000


def record(path: Path, robot: RobotSpec, stamps_ms: dict[str, list[int]]) -> Episode:
    """Record streams whose every element is the index of its sample."""
    dataset = create_dataset(path, robot, "lift")
    with dataset.writer() as writer:
        episode = writer.begin()
        for name, stamps in stamps_ms.items():
            array, stamps_ns = dataset.streams[name], np.array(stamps) * MS
            index = np.arange(len(stamps)).reshape(-1, *[1] * len(array.shape))
            values = np.broadcast_to(index, (len(stamps), *array.shape)).astype(array.dtype)
            episode.append(name, stamps_ns, stamps_ns, values)
        episode.end({})
    return dataset.episodes[0]


def test_a_tick_takes_the_newest_sample_not_after_it(tmp_path: Path, robot: RobotSpec) -> None:
    ticks = [0, 50, 100, 150, 200]
    stamps_ms = {
        "camera/scene": [20, 60, 100, 160],
        "joint/position": list(range(0, 210, 10)),
        "gripper/opening": [0, 101],
        ACTION_EXECUTED: ticks,
    }
    aligned = aligned_episode(record(tmp_path / "set", robot, stamps_ms), robot)
    # The tick at 0 ms comes before the first image.
    assert aligned["camera/scene"][:, 0, 0, 0].tolist() == [0, 2, 2, 3]
    assert aligned["joint/position"][:, 0].tolist() == [5, 10, 15, 20]
    assert aligned["gripper/opening"][:, 0].tolist() == [0, 0, 1, 1]
    assert aligned["action"][:, 0].tolist() == [1, 2, 3, 4]
    assert aligned["action"].dtype == np.float32


def test_windows_are_what_the_observation_buffer_gives_on_the_robot(tmp_path: Path, robot: RobotSpec) -> None:
    period_ms, spec = 50, robot.select(("joint/position", "gripper/opening"))
    ticks = [k * period_ms for k in range(12)]
    gripper = [0, 180, 200, 399]
    stamps_ms = {"joint/position": list(range(0, 600, 7)), "gripper/opening": gripper, ACTION_EXECUTED: ticks}
    episode = record(tmp_path / "set", robot, stamps_ms)
    windows = load_windows([episode], spec, obs_steps=3, chunk_steps=1)
    buffer = ObservationBuffer(spec.observation, obs_steps=3, max_age_ns=1000 * MS)
    for name in spec.observation.names:
        for stamp_ns, received_ns, value in zip(*episode.read(name), strict=True):
            buffer.push(name, int(stamp_ns), int(received_ns), value)
    for k, tick in enumerate(ticks):
        observation = buffer.latest(tick * MS)
        assert observation is not None
        for name, value in observation.values.items():
            np.testing.assert_array_equal(windows.batch(np.array([k]))[name][0], value)


def test_a_silent_stream_is_named(tmp_path: Path, robot: RobotSpec) -> None:
    spec = robot.select(("joint/position",))
    stamps_ms = {"joint/position": [0, 50, 1300], ACTION_EXECUTED: list(range(0, 1400, 50))}
    episode = record(tmp_path / "set", robot, stamps_ms)
    with pytest.raises(DatasetError, match=r"episode 0: joint/position is silent for more than 1 s at 1\.10 s"):
        aligned_episode(episode, spec)
    assert len(aligned_episode(episode, spec, AlignmentConfig(max_age_s=2.0))["action"]) == 28


def test_an_episode_that_cannot_be_aligned_is_named(tmp_path: Path, robot: RobotSpec) -> None:
    episode = record(tmp_path / "a", robot, {"joint/position": [100], "camera/scene": [0], ACTION_EXECUTED: [0, 50]})
    with pytest.raises(DatasetError, match="episode 0 has no samples of gripper/opening"):
        aligned_episode(episode, robot)
    with pytest.raises(DatasetError, match="episode 0 ended before every observation had a sample"):
        aligned_episode(episode, robot.select(("joint/position",)))
    extra = ArraySpec("joint/velocity", (2,), "float32", "rad/s")
    more = RobotSpec("small", ObservationSpec((extra,), 20.0), robot.action)
    with pytest.raises(SpecMismatch, match="joint/velocity"):
        aligned_episode(episode, more)


def test_windows_repeat_the_ends_and_never_cross_them() -> None:
    episodes = [{"x": np.arange(a, b)[:, None], "action": np.arange(a, b)[:, None]} for a, b in ((0, 4), (10, 12))]
    windows = Windows(episodes, obs_steps=2, chunk_steps=3)
    batch = windows.batch(np.arange(len(windows)))
    assert batch["x"][..., 0].tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [10, 10], [10, 11]]
    assert batch["action"][..., 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 3], [3, 3, 3], [10, 11, 11], [11, 11, 11]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 6), st.integers(1, 12))
def test_every_tick_has_one_window_of_its_own_episode(lengths: list[int], obs_steps: int, chunk_steps: int) -> None:
    episodes = [{"tick": np.arange(n), "owner": np.full(n, e), "action": np.arange(n)} for e, n in enumerate(lengths)]
    windows = Windows(episodes, obs_steps, chunk_steps)
    batch = windows.batch(np.arange(len(windows)))
    assert len(windows) == sum(lengths)
    tick = np.concatenate([np.arange(n) for n in lengths])[:, None]
    last = np.repeat(lengths, lengths)[:, None] - 1
    np.testing.assert_array_equal(batch["owner"][:, 0], np.repeat(np.arange(len(lengths)), lengths))
    assert (batch["owner"] == batch["owner"][:, :1]).all()
    np.testing.assert_array_equal(batch["tick"], np.maximum(tick + np.arange(1 - obs_steps, 1), 0))
    np.testing.assert_array_equal(batch["action"], np.minimum(tick + np.arange(chunk_steps), last))


def test_a_dropping_stream_leaves_ticks_out(tmp_path: Path, robot: RobotSpec) -> None:
    stamps_ms = {"camera/scene": [0, 50, 200], "joint/position": [0], ACTION_EXECUTED: [0, 50, 100, 150, 200]}
    episode = record(tmp_path / "set", robot, stamps_ms)
    spec = robot.select(("camera/scene", "joint/position"))
    config = AlignmentConfig(max_age_s=0.06, drop=("camera/scene",), hold=("joint/position",))
    aligned = aligned_episode(episode, spec, config)
    assert aligned["action"][:, 0].tolist() == [0, 1, 2, 4]
    assert aligned["camera/scene"][:, 0, 0, 0].tolist() == [0, 1, 1, 2]
    report = align_episode(episode, spec, config).report
    assert (report.dropped, report.streams["joint/position"].held) == (1, 2)
    with pytest.raises(ConfigError, match="unknown stream of the alignment 'camera/scene'"):
        aligned_episode(episode, robot.select(("joint/position",)), config)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.data())
def test_chosen_episodes_give_the_windows_that_they_give_alone(lengths: list[int], data: st.DataObject) -> None:
    episodes = [{"x": np.arange(n) + 100 * e, "action": np.arange(n) + 100 * e} for e, n in enumerate(lengths)]
    chosen = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    joined = {name: np.concatenate([episode[name] for episode in episodes]) for name in ("x", "action")}
    some = Windows(AlignedEpisodes(joined, tuple(lengths)), 3, 4, chosen)
    alone = Windows([episodes[i] for i in chosen], 3, 4)
    every = np.arange(len(alone))
    assert len(some) == len(alone)
    for name, value in alone.batch(every).items():
        np.testing.assert_array_equal(some.batch(every)[name], value)


def test_windows_refuse_what_makes_none() -> None:
    with pytest.raises(DatasetError, match="no episodes"):
        Windows([], 1, 1)
    with pytest.raises(ConfigError, match="chunk_steps is 0"):
        Windows([], 1, 0)


@given(st.integers(0, 50), st.floats(0, 0.99), st.integers(0, 9))
def test_the_split_deals_out_every_episode_once(n: int, fraction: float, seed: int) -> None:
    training, validation = split_by_episode(n, fraction, seed)
    assert sorted([*training, *validation]) == list(range(n))
    assert len(training) >= min(n, 1)
    assert (len(validation) > 0) == (n > 1 and fraction > 0)
    again = split_by_episode(n, fraction, seed)
    assert (again[0].tolist(), again[1].tolist()) == (training.tolist(), validation.tolist())


def test_the_split_has_the_asked_size() -> None:
    training, validation = split_by_episode(60, 0.1, seed=0)
    assert (len(training), len(validation)) == (54, 6)
    with pytest.raises(ConfigError, match=r"validation_fraction is 1\.5"):
        split_by_episode(10, 1.5, seed=0)
