from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armature.errors import ConfigError, DatasetError
from armature.normalizer import FieldStats
from armature.spec import RobotSpec
from data_collection.statistics import field_stats, merge_stats
from data_collection.store import Dataset, create_dataset
from data_collection.streams import ACTION_EXECUTED


@pytest.fixture
def dataset(tmp_path: Path, robot: RobotSpec) -> Dataset:
    """Joints 1, 3 and then 5, 7, 9 over two episodes; commands ten times that."""
    dataset = create_dataset(tmp_path / "set", robot, "lift")
    with dataset.writer() as writer:
        for column in ([1.0, 3.0], [5.0, 7.0, 9.0]):
            episode, stamps = writer.begin(), np.arange(len(column))
            episode.append("joint/position", stamps, stamps, np.array([[x, -x] for x in column], np.float32))
            episode.append(ACTION_EXECUTED, stamps, stamps, np.array([[10 * x, 0, 0] for x in column]))
            episode.end({})
    return dataset


def test_statistics_span_all_episodes(dataset: Dataset) -> None:
    stats = field_stats(dataset, ["joint/position", "action"])
    joints = stats["joint/position"]
    assert (joints.minimum, joints.maximum, joints.count) == ((1.0, -9.0), (9.0, -1.0), 5)
    assert joints.mean == pytest.approx((5.0, -5.0))
    assert joints.std == pytest.approx((8.0**0.5, 8.0**0.5))
    assert (stats["action"].maximum, stats["action"].std[1:]) == ((90.0, 0.0, 0.0), (0.0, 0.0))


def test_statistics_of_chosen_episodes(dataset: Dataset) -> None:
    assert field_stats(dataset.episodes[:1], ["action"])["action"].maximum == (30.0, 0.0, 0.0)


def test_what_has_no_statistics_is_named(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="camera/scene is a camera image"):
        field_stats(dataset, ["camera/scene"])
    with pytest.raises(DatasetError, match="no episode has samples of gripper/opening"):
        field_stats(dataset, ["action", "gripper/opening"])
    with pytest.raises(DatasetError, match="unknown stream 'joint/torque'"):
        field_stats(dataset, ["joint/torque"])


ROWS = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=20)


@given(ROWS, ROWS)
def test_merging_equals_taking_both_at_once(a: list, b: list) -> None:
    merged, whole = merge_stats(FieldStats.of(np.array(a)), FieldStats.of(np.array(b))), FieldStats.of(np.array(a + b))
    assert (merged.minimum, merged.maximum, merged.count) == (whole.minimum, whole.maximum, whole.count)
    assert merged.mean == pytest.approx(whole.mean, abs=1e-9)
    assert merged.std == pytest.approx(whole.std, abs=1e-6)
