"""The parameters of `recorder_node`, and the dataset that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from armature.errors import ConfigError
from armature.spec import RobotSpec, differences
from armature_ros.recorder_qos import Reliability
from armature_ros.robot import RobotConfig
from armature_ros.streams import StreamConfig
from data_collection.recorder import RecorderConfig
from data_collection.store import Dataset, create_dataset, open_dataset


@dataclass(frozen=True)
class RecorderNodeConfig:
    """Parameters of `recorder_node`."""

    streams: dict[str, StreamConfig]
    dataset: str
    """Folder; created when there is none."""
    robot: RobotConfig = field(default_factory=RobotConfig)
    operator: str = ""
    prompt: str = ""
    """What the robot was told to do, in words; kept with each episode."""
    encodings: dict[str, Literal["lossless", "jpeg"]] = field(default_factory=dict[str, Literal["lossless", "jpeg"]])
    """How image streams are stored, by name, in a dataset that is created; lossless where nothing is said."""
    reliability: Reliability = "adapt"
    """`adapt` to the publishers; `reliable` refuses those whose transport may lose messages."""
    queue_mb: int = 256
    """How much may wait for the disk before samples are dropped and counted [MB]."""
    commit_period_s: float = 0.5
    """How often what came is made to count: at most this much is lost in a power cut [s]."""
    disk_free_min_gb: float = 2.0
    disk_free_min_s: float = 60.0
    """An episode ends when less than either is free: so many GB, or so many seconds of the present data."""
    stale_after_s: float = 1.0
    """A topic that was silent for so long, or is stamped so far from the clock, keeps an episode from starting [s]."""
    late_after_s: float = 0.2
    """A sample that is older by its stamp when it arrives is counted as late [s]."""
    drain_timeout_s: float = 5.0
    """How long `~/end` waits for samples that were published and have not arrived [s]."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the parameter that cannot be."""
        for name in ("queue_mb", "commit_period_s", "stale_after_s", "late_after_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name):g}, must be above 0")
        for name in ("disk_free_min_gb", "disk_free_min_s", "drain_timeout_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name):g}, must not be negative")

    @property
    def recorder(self) -> RecorderConfig:
        """Return the recorder's share."""
        return RecorderConfig(
            self.queue_mb * 1_000_000, self.commit_period_s, round(self.disk_free_min_gb * 1e9), self.disk_free_min_s
        )


def open_for_recording(config: RecorderNodeConfig, spec: RobotSpec, warn: Callable[[str], Any]) -> Dataset:
    """Open or create the dataset; raise ConfigError when it is of another robot or task."""
    path = Path(config.dataset)
    if not config.dataset:
        raise ConfigError("parameters of recorder_node: 'dataset' is empty; give the folder to record into")
    if not path.exists():
        return create_dataset(path, spec, config.robot.task, encodings=config.encodings)
    dataset = open_dataset(path)
    if dataset.task != config.robot.task:
        raise ConfigError(f"{path}: holds task '{dataset.task}', not '{config.robot.task}'; choose another folder")
    if dataset.spec.fingerprint != spec.fingerprint:
        found = "; ".join(differences(dataset.spec, spec) + differences(spec, dataset.spec))
        raise ConfigError(f"{path}: was recorded with another robot: {found}")
    if _lossy(dataset.encodings) != _lossy(config.encodings):
        warn(f"{path}: goes on with the encodings it was created with: {dict(dataset.encodings) or 'all lossless'}")
    return dataset


def _lossy(encodings: Mapping[str, str]) -> set[str]:
    return {name for name, encoding in encodings.items() if encoding != "lossless"}
