from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.errors import ConfigError, DatasetError
from armature.spec import RobotSpec
from data_collection.sampling import (
    OutcomeWeights,
    SamplingConfig,
    advantages,
    draw,
    first_states,
    outcome_of,
    outcome_weights,
    returns,
    trajectory_weights,
    window_weights,
)
from data_collection.store import Episode, create_dataset
from data_collection.streams import ACTION_EXECUTED, REWARD
from data_collection.windows import Windows, load_windows

PERIOD_NS = 50_000_000


def record(path: Path, robot: RobotSpec, episodes: list[dict]) -> list[Episode]:
    """Record an episode for each dict: `steps`, `rewards`, first `joint` value, the rest is its metadata."""
    dataset = create_dataset(path, robot, "lift")
    with dataset.writer() as writer:
        for options in episodes:
            metadata = dict(options)
            steps, rewards, joint = metadata.pop("steps"), metadata.pop("rewards", []), metadata.pop("joint", 0.0)
            episode = writer.begin()
            stamps_ns = np.arange(steps, dtype=np.int64) * PERIOD_NS
            values = {name: np.zeros((steps, *dataset.streams[name].shape)) for name in robot.observation.names}
            values["joint/position"] = values["joint/position"] + joint
            values[ACTION_EXECUTED] = np.zeros((steps, 3))
            for name, data in values.items():
                episode.append(name, stamps_ns, stamps_ns, data.astype(dataset.streams[name].dtype))
            if rewards:
                episode.append(REWARD, stamps_ns, stamps_ns, np.array(rewards)[:, None])
            if metadata.get("outcome") == "incomplete":
                episode.commit()
                episode.fail("the disk was full")
            else:
                episode.end(metadata)
    return dataset.episodes


def windows_of(episodes: list[Episode], robot: RobotSpec) -> Windows:
    return load_windows(episodes, robot.select(("joint/position", "gripper/opening")), 2, 4)


SUCCESS, FAILURE = {"success": True, "outcome": "success"}, {"success": False, "outcome": "failure"}
MIXED = [
    {"steps": 2, **SUCCESS},
    {"steps": 3, **FAILURE},
    {"steps": 1, "outcome": "incomplete"},
    {"steps": 4, "success": None},
    {"steps": 1, "success": False},
]


def test_uniform_is_the_default_and_weighs_nothing(tmp_path: Path, robot: RobotSpec) -> None:
    episodes = record(tmp_path / "set", robot, MIXED)
    assert window_weights(SamplingConfig(), episodes, windows_of(episodes, robot)) is None


def test_outcomes_weigh_every_window_of_their_episodes(tmp_path: Path, robot: RobotSpec) -> None:
    episodes = record(tmp_path / "set", robot, MIXED)
    assert [outcome_of(e) for e in episodes] == ["success", "failure", "incomplete", "unknown", "failure"]
    config = SamplingConfig("outcome", OutcomeWeights(success=4.0, failure=1.0, incomplete=0.0, unknown=2.0))
    weights = window_weights(config, episodes, windows_of(episodes, robot))
    assert weights is not None
    assert (weights * 20).round(12).tolist() == [4, 4, 1, 1, 1, 0, 2, 2, 2, 2, 1]


def test_outcomes_that_leave_nothing_to_draw_are_refused(tmp_path: Path, robot: RobotSpec) -> None:
    episodes = record(tmp_path / "set", robot, MIXED)
    with pytest.raises(DatasetError, match="every episode has weight 0; the outcomes are: failure, incomplete"):
        outcome_weights([episodes[1], episodes[2]], OutcomeWeights(failure=0.0, incomplete=0.0))
    (odd,) = record(tmp_path / "odd", robot, [{"steps": 1, "outcome": "sucess"}])
    with pytest.raises(DatasetError, match=r"episode 0: unknown outcome 'sucess'\. Did you mean 'success'"):
        outcome_of(odd)


def test_the_return_is_the_sum_of_rewards_or_the_success(tmp_path: Path, robot: RobotSpec) -> None:
    judged = record(tmp_path / "judged", robot, [MIXED[0], MIXED[1], MIXED[2], MIXED[4]])
    assert returns(judged).tolist() == [1.0, 0.0, 0.0, 0.0]
    rewarded = record(tmp_path / "rewarded", robot, [{**FAILURE, "steps": 3, "rewards": [0.5, -1.0, 4.0]}])
    assert returns(rewarded).tolist() == [3.5]
    with pytest.raises(DatasetError, match="episode 3: its return is not known: it has neither rewards nor an outcome"):
        returns(record(tmp_path / "mixed", robot, MIXED))
    both = record(tmp_path / "both", robot, [MIXED[0], {"steps": 1, "rewards": [1.0]}])
    with pytest.raises(DatasetError, match="episode 0: its return is not known: episode 1 has rewards"):
        returns(both)


def test_rewards_without_a_finite_sum_are_refused(tmp_path: Path, robot: RobotSpec) -> None:
    episodes = [{"steps": 2, "rewards": [0.0, 1.0]}, {"steps": 2, "rewards": [0.0, math.nan]}]
    recorded = record(tmp_path / "set", robot, episodes)
    with pytest.raises(DatasetError, match="episode 1: the sum of its rewards is nan"):
        window_weights(SamplingConfig("return"), recorded, windows_of(recorded, robot))


def test_trajectory_weights_are_the_softmax_over_all_windows() -> None:
    scores, lengths = np.array([10.0, 20.0, 15.0]), np.array([1, 2, 3])
    config = SamplingConfig("return", temperature=0.5)
    weights = trajectory_weights(scores, lengths, config)
    found = weights / weights.sum()
    low, middle, high = 1.0, math.e, math.exp(2.0)
    total = low + 2 * high + 3 * middle
    np.testing.assert_allclose(found, np.array([low, high, high, middle, middle, middle]) / total, rtol=1e-12)
    by_episode = trajectory_weights(scores, lengths, replace(config, mass="episode"))
    np.testing.assert_allclose(
        by_episode / by_episode.sum(),
        np.array([low, high / 2, high / 2, middle / 3, middle / 3, middle / 3]) / (low + high + middle),
        rtol=1e-12,
    )
    best = trajectory_weights(scores, lengths, replace(config, top_k=2))
    assert (best > 0).tolist() == [False, True, True, True, True, True]
    assert len(set(trajectory_weights(np.full(3, 7.0), lengths, config))) == 1
    # However low the temperature, the best do not vanish.
    assert trajectory_weights(scores, lengths, replace(config, temperature=1e-9)).max() == 1.0


def test_the_advantage_is_what_the_beginning_does_not_explain() -> None:
    states = np.array([[0.0], [1.0], [2.0], [3.0]])
    # The regression of these returns is 1 + 2 x.
    scores = 1.0 + 2.0 * states[:, 0] + np.array([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_allclose(advantages(scores, states), [1.0, -1.0, -1.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(advantages(scores, np.empty((4, 0))), scores - scores.mean())
    with pytest.raises(DatasetError, match=r"needs more episodes than dimensions: 2 episodes, .* span 2 dimensions"):
        advantages(scores[:2], states[:2])


def test_good_episodes_from_bad_beginnings_are_preferred_by_advantage(tmp_path: Path, robot: RobotSpec) -> None:
    above = [0.5, -0.5, -0.5, 0.5]
    options = [{"steps": 2, "rewards": [k + a, 0.0], "joint": k} for k, a in enumerate(above)]
    episodes = record(tmp_path / "set", robot, options)
    windows = windows_of(episodes, robot)
    np.testing.assert_allclose(first_states(windows)[:, 0], [0, 1, 2, 3])
    by_return = window_weights(SamplingConfig("return"), episodes, windows)
    by_advantage = window_weights(SamplingConfig("advantage"), episodes, windows)
    assert by_return is not None
    assert by_advantage is not None
    assert by_return.sum() == pytest.approx(1.0)
    assert by_return.argmax() == 6
    best = 0.25 / (1 + math.exp(-10))
    worst = 0.25 - best
    np.testing.assert_allclose(by_advantage, [best, best, worst, worst, worst, worst, best, best], atol=1e-12)


@given(
    weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=20).filter(lambda found: sum(found) > 0),
    step=st.integers(0, 1000),
    seed=st.integers(0, 5),
)
def test_draws_are_a_function_of_seed_and_step_and_never_take_weight_zero(weights, step, seed) -> None:
    cumulative = np.cumsum(weights)
    drawn = draw(step, 64, cumulative, seed)
    np.testing.assert_array_equal(draw(step, 64, cumulative, seed), drawn)
    assert (np.diff(cumulative, prepend=0.0)[drawn] > 0).all()


def test_draws_come_as_often_as_they_weigh() -> None:
    cumulative = np.cumsum([0.0, 1.0, 0.0, 3.0, 0.0])
    drawn = np.concatenate([draw(step, 100, cumulative, seed=0) for step in range(100)])
    counts = np.bincount(drawn, minlength=5)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    # Binomial(10,000, 1/4): five standard deviations.
    assert abs(counts[1] - 2500) < 5 * math.sqrt(10_000 * 0.25 * 0.75)
    assert not np.array_equal(draw(0, 100, cumulative, seed=0), draw(0, 100, cumulative, seed=1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SamplingConfig("returns"), "unknown sampling.mode 'returns'. Did you mean 'return'"),  # type: ignore[arg-type]
        (SamplingConfig("return", temperature=0.0), "sampling.temperature is 0.0, must be above 0"),
        (SamplingConfig("return", top_k=0), "sampling.top_k is 0, must be at least 1"),
        (
            SamplingConfig("outcome", OutcomeWeights(failure=-1.0)),
            r"sampling.outcome.failure is -1.0, must be at least 0",
        ),
    ],
)
def test_wrong_configs_are_named(config: SamplingConfig, message: str) -> None:
    windows = Windows([{"x": np.zeros((2, 1)), "action": np.zeros((2, 1))}], 1, 1)
    with pytest.raises(ConfigError, match=message):
        window_weights(config, [], windows)
