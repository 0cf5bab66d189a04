"""TQ and SACo against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.errors import ConfigError, SpecMismatch
from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection.audit.coverage import CoverageConfig, episode_return, measure, trajectory_quality, unique_pairs
from data_collection.streams import ACTION_EXECUTED, REWARD

POSITION = ArraySpec("position", (1,), "float32", "m", labels=("x",))
ACTION = ArraySpec("target", (1,), "float32", "m", labels=("x",))
SLIDER = RobotSpec("slider", ObservationSpec((POSITION,), 10.0), ActionSpec("controller_input", (ACTION,), 10.0))
PERIOD_NS = 100_000_000


def slide(states: list[float], actions: list[float], rewards: list[float] = []) -> dict:  # noqa: B006
    ticks_ns = np.arange(len(states), dtype=np.int64) * PERIOD_NS
    recording = {
        "position": (ticks_ns, np.array(states, np.float32)[:, None]),
        ACTION_EXECUTED: (ticks_ns, np.array(actions, np.float64)[:, None]),
    }
    if rewards:
        recording[REWARD] = (ticks_ns[: len(rewards)], np.array(rewards, np.float64)[:, None])
    return recording


def test_tq_is_the_return_between_random_and_reference(write_dataset) -> None:
    still = [0.0] * 3
    own = write_dataset(SLIDER, [slide(still, still, [1, 0, 4]), slide(still, still, [0, 0, 2])], "own")
    random = write_dataset(SLIDER, [slide(still, still, [0, 1, 0])], "random")
    reference = write_dataset(SLIDER, [slide(still, still, [3, 3, 3])], "reference")
    # Undiscounted: own (5 + 2) / 2 = 3.5, random 1, reference 9: (3.5 - 1) / (9 - 1).
    found = measure(own, random, reference, CoverageConfig())
    assert (found.mean_return, found.random_return, found.reference_return) == (3.5, 1.0, 9.0)
    assert found.tq == 0.3125
    # Discounted by a half: own (1 + 4/4 + 2/4) / 2 = 1.25, random 1/2, reference 3 + 3/2 + 3/4 = 5.25.
    found = measure(own, random, reference, CoverageConfig(discount=0.5))
    assert found.tq == pytest.approx((1.25 - 0.5) / (5.25 - 0.5))
    assert found.tq == pytest.approx(0.15789473684210525)


def test_without_rewards_the_outcome_is_the_return(write_dataset) -> None:
    still = [0.0] * 3
    won = write_dataset(SLIDER, [slide(still, still)], "won", {"success": True})
    lost = write_dataset(SLIDER, [slide(still, still)], "lost", {"success": False})
    unknown = write_dataset(SLIDER, [slide(still, still)], "unknown", {"success": None})
    assert [episode_return(d.episodes[0], 0.5) for d in (won, lost, unknown)] == [0.25, 0.0, None]
    assert measure(won, lost, won, CoverageConfig()).tq == 1.0
    assert measure(lost, won, won, CoverageConfig()).tq_reason == "random and reference have the same mean return, 1"
    found = measure(unknown, lost, None, CoverageConfig())
    assert (found.tq, found.tq_reason) == (None, "no return is known of the dataset and the reference")
    assert (found.saco, found.saco_reason) == (None, "no reference dataset was given")


def test_saco_counts_unique_pairs_on_the_references_grid(write_dataset) -> None:
    # Reference: positions and targets 0..9, two bins each [0, 4.5) and [4.5, 9]: the cells (0,0), (1,1), (0,1).
    reference = write_dataset(SLIDER, [slide([0, 1, 8, 9, 0], [0, 2, 9, 8, 9])], "reference")
    # The same size; -5 and 20 lie beyond the range, in its outermost bins: the cells (0,0) and (1,1).
    own = write_dataset(SLIDER, [slide([-5, 0, 20], [0, 1, 20]), slide([1, 2], [1, 2])], "own")
    found = measure(own, None, reference, CoverageConfig(bins=2))
    assert (found.unique_pairs, found.reference_unique_pairs, found.pairs) == (2, 3, 5)
    assert found.saco == pytest.approx(2 / 3)


def test_saco_takes_samples_of_the_same_size_evenly_from_both(write_dataset) -> None:
    many = list(np.linspace(0, 9, 10))
    reference = write_dataset(SLIDER, [slide(many, many)], "reference")
    own = write_dataset(SLIDER, [slide(many[:5], many[:5])], "own")
    found = measure(own, None, reference, CoverageConfig(bins=10))
    # Of the reference every second pair, 0 2 4 6 8, is compared with the five of the dataset.
    assert (found.pairs, found.unique_pairs, found.reference_unique_pairs, found.saco) == (5, 5, 5, 1.0)
    assert measure(own, None, reference, CoverageConfig(bins=10, pairs_max=2)).pairs == 2


def test_a_state_is_the_newest_sample_when_the_command_was_sent(write_dataset) -> None:
    recording = slide([0, 1, 2, 3], [0, 0, 0, 0])
    stamps_ns, values = recording["position"]
    # All positions came half a period late: command 0 had none yet, commands 1 to 3 see the sample before.
    recording["position"] = (stamps_ns + PERIOD_NS // 2, values)
    dataset = write_dataset(SLIDER, [recording])
    found = measure(dataset, None, dataset, CoverageConfig(bins=200))
    assert (found.pairs, found.unique_pairs) == (3, 3)


def test_other_robots_and_unknown_streams_are_refused(write_dataset) -> None:
    own = write_dataset(SLIDER, [slide([0, 1], [0, 1])], "own")
    other_spec = RobotSpec("slider", ObservationSpec((ArraySpec("height", (1,), "float32", "m"),), 10.0), SLIDER.action)
    other = write_dataset(other_spec, [], "other")
    with pytest.raises(SpecMismatch, match=r"other cannot be compared with .*own: vectors are .*height"):
        measure(own, None, other, CoverageConfig())
    with pytest.raises(ConfigError, match=r"unknown state stream 'positon'. Did you mean 'position'"):
        measure(own, None, own, CoverageConfig(state_streams=("positon",)))
    with pytest.raises(ConfigError, match=r"bins is 1, must be in \[2, 255\]"):
        CoverageConfig(bins=1)


@given(own=st.floats(-1e3, 1e3), random=st.floats(-1e3, 0), span=st.floats(1, 1e3), scale=st.floats(0.1, 10))
def test_tq_does_not_depend_on_the_units_of_reward(own: float, random: float, span: float, scale: float) -> None:
    reference = random + span
    assert trajectory_quality(random, random, reference) == 0
    assert trajectory_quality(reference, random, reference) == 1
    scaled = trajectory_quality(scale * own + 7, scale * random + 7, scale * reference + 7)
    assert scaled == pytest.approx(trajectory_quality(own, random, reference), abs=1e-6)


def test_unique_pairs_of_one_point_and_of_a_full_grid() -> None:
    low, high = np.zeros(2), np.ones(2)
    assert unique_pairs(np.full((9, 2), 0.3), low, high, 5) == 1
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 50), np.linspace(0, 1, 50)), -1).reshape(-1, 2)
    assert unique_pairs(grid, low, high, 5) == 25
    assert unique_pairs(np.array([[0.5, 7.0], [0.5, 8.0]]), low, np.array([1.0, 0.0]), 5) == 1
