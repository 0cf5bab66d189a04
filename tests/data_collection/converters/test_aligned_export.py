"""What the formats with one row per command are given of a recording whose streams have rates of their own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from armature.spec import RobotSpec
from data_collection.converters.aligned_export import align
from data_collection.converters.diffusion_policy import exporter as zarr_exporter
from data_collection.converters.diffusion_policy import importer as zarr_importer
from data_collection.converters.importing import import_source
from data_collection.converters.lerobot import exporter as lerobot_exporter
from data_collection.converters.lerobot import importer as lerobot_importer
from data_collection.converters.robomimic import exporter as hdf5_exporter
from data_collection.converters.robomimic import importer as hdf5_importer
from data_collection.store import Dataset, create_dataset
from data_collection.streams import ACTION_EXECUTED, REWARD

PERIOD_NS = 50_000_000


def record(path: Path, robot: RobotSpec, steps: int, rewards: dict[int, float], observed_from: int = 0) -> Dataset:
    """Record one episode at 20 Hz with the rewards given by their stamps [ns]."""
    dataset = create_dataset(path, robot, "reach")
    with dataset.writer() as writer:
        episode = writer.begin()
        for name in (*robot.observation.names, ACTION_EXECUTED):
            first = 0 if name == ACTION_EXECUTED else observed_from
            array, stamps_ns = dataset.streams[name], np.arange(first, steps) * PERIOD_NS
            episode.append(name, stamps_ns, stamps_ns, np.zeros((len(stamps_ns), *array.shape), array.dtype))
        stamps_ns, values = np.array(list(rewards)), np.array(list(rewards.values()))
        episode.append(REWARD, stamps_ns, stamps_ns, values[:, None])
        episode.end({})
    return dataset


@pytest.mark.parametrize(
    ("exporter", "importer", "options"),
    [
        (zarr_exporter, zarr_importer, {}),
        (hdf5_exporter, hdf5_importer, {}),
        (lerobot_exporter, lerobot_importer, {"images": True}),
    ],
)
def test_a_reward_counts_once(
    tmp_path: Path, robot: RobotSpec, exporter: ModuleType, importer: ModuleType, options: dict[str, bool]
) -> None:
    dataset = record(tmp_path / "set", robot, 40, {1_000_000_000: 1.0})
    exporter.export(exporter.ExportConfig(dataset.path, tmp_path / "out", **options))
    back = import_source(
        importer.open_source(importer.ImportConfig(tmp_path / "out", tmp_path / "back")), tmp_path / "back"
    )
    assert back.episodes[0].read(REWARD)[2][:, 0].tolist() == [0.0] * 20 + [1.0] + [0.0] * 19


def test_rewards_between_before_and_after_the_commands_keep_their_sum(tmp_path: Path, robot: RobotSpec) -> None:
    given = {10_000_000: 1.0, 110_000_000: 2.0, 120_000_000: 4.0, 150_000_000: 8.0, 9_000_000_000: 16.0}
    dataset = record(tmp_path / "set", robot, 5, given, observed_from=2)
    aligned = align(dataset.episodes[0], (*robot.observation.names, ACTION_EXECUTED, REWARD))
    (rewards,) = aligned.blocks(dataset.streams[REWARD])
    assert rewards[:, 0].tolist() == [7.0, 8.0, 16.0]


def test_the_sign_of_a_zero_reward_comes_back(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot, 3, {0: -0.0, 50_000_000: 0.0})
    (rewards,) = align(dataset.episodes[0], (*robot.observation.names, REWARD)).blocks(dataset.streams[REWARD])
    assert np.signbit(rewards[:, 0]).tolist() == [True, False, False]
