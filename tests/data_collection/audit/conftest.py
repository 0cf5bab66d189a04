from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from armature.control.chunk_scheduler import SchedulerConfig
from armature.spec import RobotSpec
from armature.types import Command
from data_collection.store import Dataset, create_dataset
from data_collection.streams import ACTION_EXECUTED
from sim.defaults import panda_limits
from sim.environment import make_env
from sim.expert import make_expert
from sim.rollout import rollout
from sim.tasks import SimConfig, robot_spec

LIFT = SimConfig(task="lift", image_size=64)
SEEDS = range(8)
BEGIN_NS = 1_700_000_000_123_456_789
"""Stamps of real recordings are large, and nothing about them is round."""
DELAY_NS = 4_000_000

Recording = dict[str, tuple[NDArray[np.int64], NDArray[Any]]]
"""Stream to stamps (N,) and values (N, *shape)."""
WriteDataset = Callable[..., Dataset]


@pytest.fixture(scope="session")
def lift_recordings() -> list[Recording]:
    """Record the scripted expert with both cameras in the real simulator, once for all tests; a dozen seconds."""
    env, expert = make_env(LIFT), make_expert(LIFT)
    try:
        return [_record(env, expert, seed) for seed in SEEDS]
    finally:
        env.close()


def _record(env: Any, expert: Any, seed: int) -> Recording:
    rows: list[dict[str, NDArray[Any]]] = []

    def keep(values: dict[str, NDArray[Any]], command: Command) -> None:
        rows.append({**{name: np.array(value) for name, value in values.items()}, ACTION_EXECUTED: command.action})

    result = rollout(env, expert, seed, SchedulerConfig("receding_horizon", execute_steps=1), panda_limits(), keep)
    assert result.success
    stamps_ns = BEGIN_NS + np.arange(len(rows), dtype=np.int64) * env.robot_spec.action.period_ns
    return {name: (stamps_ns, np.stack([row[name] for row in rows])) for name in rows[0]}


@pytest.fixture(scope="session")
def lift_spec() -> RobotSpec:
    return robot_spec(LIFT)


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """Return a function that stores recordings as episodes."""

    def write(
        spec: RobotSpec,
        recordings: Iterable[Recording],
        name: str = "",
        metadata: Mapping[str, Any] = {"success": True, "outcome": "success"},
        encodings: Mapping[str, Any] = {},
    ) -> Dataset:
        dataset = create_dataset(
            tmp_path / (name or f"set{len(list(tmp_path.iterdir()))}"), spec, "lift", encodings=encodings
        )
        with dataset.writer() as writer:
            for recording in recordings:
                episode = writer.begin(metadata)
                for stream, (stamps_ns, values) in recording.items():
                    episode.append(stream, stamps_ns, stamps_ns + DELAY_NS, values)
                episode.end({})
        return dataset

    return write
