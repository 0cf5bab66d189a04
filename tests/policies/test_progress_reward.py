"""What failures earn, in literal numbers, and what the embeddings take for alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.errors import ConfigError, InvalidValue
from armature.normalizer import FieldStats, Normalizer
from policies.nets.pretrained_vision import PretrainedVision
from policies.progress_reward import ImageEmbedding, ProgressReward, StateEmbedding, failure_reward, failure_share


def last(trajectory):
    return trajectory["x"][-1]


def at(*place):
    return {"x": np.array([[0.0] * len(place), place])}


def judge(reward, success, *place):
    return reward.judge(at(*place), success=success)


@pytest.mark.parametrize(("d", "earned"), [(0.0, 0.5960), (0.25, 0.5545), (0.5, 0.3), (0.75, 0.0455), (1.0, 0.0040)])
def test_the_published_curve(d, earned):
    assert failure_share(d) == pytest.approx(earned, abs=5e-5)


def test_a_success_earns_1_and_a_failure_nothing_before_there_is_one():
    reward = ProgressReward(last)
    assert judge(reward, False, 3.0) == 0.0
    assert judge(reward, False, 1.0) == 0.0
    assert judge(reward, True, 0.0) == 1.0


def test_a_failure_earns_by_its_distance_to_the_nearest_success():
    reward = ProgressReward(last)
    for place in (0.0, 100.0):
        judge(reward, True, place)
    # The successes lie 100 apart: whatever is nearer than that lies among them.
    assert judge(reward, False, 300.0) == pytest.approx(0.3)
    assert judge(reward, False, 90.0) == pytest.approx(0.5960, abs=5e-5)
    # 150 from the nearest, of 100 (among them) to 200 (the farthest failure).
    assert judge(reward, False, 250.0) == pytest.approx(0.3)
    assert judge(reward, False, 275.0) == pytest.approx(0.0455, abs=5e-5)


def test_of_failures_that_are_all_as_far_each_earns_half():
    assert failure_reward([2.0, 2.0, 2.0], near=0.5) == 0.3
    assert failure_reward([7.0], near=0.5) == 0.3


def test_the_best_of_poor_failures_earns_little():
    """Normalised among themselves the best of them would earn 0.596."""
    reward = ProgressReward(last)
    judge(reward, True, 0.0)
    judge(reward, False, 10.0)
    assert [judge(reward, False, place) for place in (9.0, 9.5)] == pytest.approx([0.0108, 0.0066], abs=5e-5)


def test_what_a_failure_earns_does_not_depend_on_who_is_judged_with_it():
    assert failure_reward([10.0, 1.0, 4.0], near=0.0) == failure_reward([1.0, 10.0, 3.0, 4.0], near=0.0)


def test_only_the_newest_are_remembered():
    reward = ProgressReward(last, window=2)
    judge(reward, True, 0.0)
    for place in (100.0, 10.0, 5.0):
        earned = judge(reward, False, place)
    # 100 is forgotten: 5 is half of the way to the farthest, 10.
    assert earned == pytest.approx(0.3)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0, 1e6))
def test_no_failure_earns_what_a_success_does(distances, near):
    assert 0.0 < failure_reward(distances, near) < 0.6


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10))
def test_a_nearer_failure_never_earns_less(one, other, near):
    nearer, farther = sorted((one, other))
    reference = [20.0, 0.0]
    assert failure_reward([*reference, nearer], near) >= failure_reward([*reference, farther], near)


@pytest.mark.parametrize("spoilt", [np.array([np.nan]), np.zeros((1, 1)), np.zeros(2)])
def test_an_embedding_that_cannot_be_is_refused_and_not_remembered(spoilt):
    vectors = iter([np.zeros(1), spoilt, np.ones(1)])
    reward = ProgressReward(lambda _: next(vectors))
    reward.judge({}, success=True)
    with pytest.raises(InvalidValue, match="embedding of a trajectory"):
        reward.judge({}, success=False)
    assert reward.judge({}, success=False) == 0.3


def normalizer():
    stats = {"x": FieldStats.of(np.array([[0.0, 0.0], [10.0, 2.0]])), "y": FieldStats.of(np.array([[-1.0], [1.0]]))}
    return Normalizer(stats, dict.fromkeys(stats, "limits"))


def test_states_are_normalised_and_sampled_evenly_in_time():
    embed = StateEmbedding(normalizer(), ["x", "y"], points=3)
    trajectory = {
        "x": np.array([[0.0, 0.0], [5.0, 1.0], [10.0, 2.0], [10.0, 2.0], [10.0, 2.0]]),
        "y": np.array([[-1.0], [0.0], [1.0], [0.0], [0.5]]),
    }
    # At the first, third and fifth step, in -1 to 1, divided by the root of 9.
    expected = np.array([-1, -1, -1, 1, 1, 1, 1, 1, 0.5]) / 3
    assert embed(trajectory) == pytest.approx(expected)


def test_a_slow_trajectory_is_like_a_quick_one_and_another_way_is_not():
    embed = StateEmbedding(normalizer(), ["x"])
    quick, slow = (np.linspace([0.0, 0.0], [10.0, 2.0], count) for count in (11, 41))
    assert embed({"x": quick}) == pytest.approx(embed({"x": slow}))
    bent = slow.copy()
    bent[:, 1] = 0.0
    assert np.linalg.norm(embed({"x": bent}) - embed({"x": slow})) > 0.5


@pytest.mark.parametrize("trajectory", [{"y": np.zeros((3, 1))}, {"x": np.zeros((0, 2))}])
def test_a_trajectory_without_what_counts_is_refused(trajectory):
    with pytest.raises(InvalidValue, match="trajectory lacks x"):
        StateEmbedding(normalizer(), ["x"])(trajectory)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="window of a progress reward is 0"):
        ProgressReward(last, window=0)
    with pytest.raises(ConfigError, match="0 arrays at 16 times"):
        StateEmbedding(normalizer(), [])


def test_images_are_embedded_frame_by_frame_by_a_pretrained_tower(pretrained_folder):
    embed = ImageEmbedding(PretrainedVision((str(pretrained_folder("dinov2")),)), "camera/scene", frames=4)
    rng = np.random.default_rng(0)
    video, other = rng.integers(0, 256, (2, 10, 24, 32, 3), dtype=np.uint8)
    found = embed({"camera/scene": video})
    assert found.shape == (4 * 8,)
    assert np.linalg.norm(found.reshape(4, 8), axis=1) == pytest.approx([0.5] * 4)
    # Frames 0, 3, 6 and 9 are seen, and nothing else.
    assert embed({"camera/scene": video[[0, 3, 6, 9]]}) == pytest.approx(found, abs=1e-6)
    assert np.linalg.norm(embed({"camera/scene": other}) - found) > 1e-3
    reward = ProgressReward(embed)
    assert reward.judge({"camera/scene": video}, success=True) == 1.0
    assert reward.judge({"camera/scene": other}, success=False) == 0.3
