"""What a deployment brings along as files: the checkpoint, the limits, and the dataset that it records into."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from armature.control.limits import check_limits
from armature.errors import ArmatureError
from armature.normalizer import Normalizer
from armature.spec import ActionSpec, RobotSpec, differences
from armature_ros.doctor_findings import Finding
from armature_ros.recorder_config import RecorderNodeConfig, open_for_recording
from armature_ros.robot import RobotConfig, load_limits
from data_collection.writer_lock import LOCK_NAME

ACTION = "action"


@dataclass(frozen=True)
class Disk:
    """Where a dataset lies, or will."""

    folder: Path
    """The dataset's, or the nearest above it that is there."""
    is_writable: bool
    free_bytes: int
    is_locked: bool
    """Somebody writes the dataset."""


def read_disk(dataset: Path) -> Disk:
    """Gather the facts; nothing is created."""
    folder = next(path for path in (dataset, *dataset.absolute().parents) if path.exists())
    return Disk(folder, os.access(folder, os.W_OK), shutil.disk_usage(folder).free, _is_locked(dataset / LOCK_NAME))


def _is_locked(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def check_disk(disk: Disk, config: RecorderNodeConfig, spec: RobotSpec, *, recorder_runs: bool) -> list[Finding]:
    """The dataset's folder can be written to, by our recorder only, and has room."""
    findings = [check_space(disk, config, spec)]
    if not disk.is_writable:
        remedy = "choose another --dataset, or change its owner"
        findings.append(Finding("dataset", "folder", "fail", f"{disk.folder} cannot be written to", remedy))
    if disk.is_locked and not recorder_runs:
        found = f"{config.dataset} is being written, but not by a recorder_node of this graph"
        findings.append(
            Finding("dataset", "lock", "fail", found, "end the other recorder, or choose another --dataset")
        )
    return findings


def check_space(disk: Disk, config: RecorderNodeConfig, spec: RobotSpec) -> Finding:
    """There is as much room as the recorder insists on, for data that is not compressed at all."""
    least_bytes = config.recorder.disk_free_min_bytes
    lasting_bytes = round(config.disk_free_min_s * bytes_per_s(spec))
    found = f"{disk.free_bytes / 1e9:.1f} GB free in {disk.folder}"
    remedy = "free some, or choose another --dataset"
    if disk.free_bytes < least_bytes:
        return Finding("dataset", "space", "fail", f"{found}, the recorder needs {least_bytes / 1e9:.1f} GB", remedy)
    if disk.free_bytes < lasting_bytes:
        found += f": less than {config.disk_free_min_s:g} s of uncompressed data ({lasting_bytes / 1e9:.1f} GB)"
        return Finding("dataset", "space", "warn", found, remedy)
    return Finding("dataset", "space", "ok", found)


def bytes_per_s(spec: RobotSpec) -> float:
    """Return how much a robot publishes, by its contract."""
    return spec.observation.rate_hz * sum(a.size * np.dtype(a.dtype).itemsize for a in spec.observation)


def check_dataset(config: RecorderNodeConfig, spec: RobotSpec) -> Finding:
    """A dataset that is there is of this robot and this task."""
    if not Path(config.dataset).exists():
        return Finding("dataset", "content", "ok", f"{config.dataset} will be created")
    try:
        dataset = open_for_recording(config, spec, warn=lambda _: None)
        return Finding("dataset", "content", "ok", f"{len(dataset.episodes)} episodes of {dataset.task}")
    except ArmatureError as error:
        return Finding("dataset", "content", "fail", str(error), "choose another --dataset")


def check_checkpoint(
    path: Path, offered: RobotSpec, read: Callable[[Path], Mapping[str, Any]]
) -> tuple[list[Finding], tuple[str, ...]]:
    """Return the findings about a checkpoint, and the observations that its policy sees; `read` verifies the files."""
    try:
        document = read(path)
        needed = RobotSpec.from_json(document["spec"])
        normalizer = Normalizer.from_json(document["normalizer"])
    except ArmatureError as error:
        return [Finding("checkpoint", "files", "fail", str(error), "copy it again, or train it anew")], ()
    about = f"{document['family']}, {document['parameters'] / 1e6:.2f} M parameters, checksums right"
    findings = [
        Finding("checkpoint", "files", "ok", about),
        check_contract(needed, offered),
        check_statistics(needed, normalizer),
    ]
    return findings, tuple(name for name in needed.observation.names if name in offered.observation.names)


def check_contract(needed: RobotSpec, offered: RobotSpec) -> Finding:
    """The policy was trained for what this robot offers and takes."""
    if found := differences(needed, offered):
        remedy = "choose the checkpoint or the --robot that belongs to the other"
        return Finding("checkpoint", "contract", "fail", "; ".join(found), remedy)
    return Finding("checkpoint", "contract", "ok", f"fits {offered.name} (contract {needed.fingerprint})")


def check_statistics(spec: RobotSpec, normalizer: Normalizer) -> Finding:
    """Every vector that the policy sees, and its action, has statistics of the right size."""
    sizes = {array.name: array.size for array in spec.observation.vectors} | {ACTION: spec.action.dim}
    wrong = [f"{name} has none" for name in sizes if name not in normalizer.fields]
    for name in sizes.keys() & normalizer.fields.keys():
        if (found := len(normalizer.fields[name].mean)) != sizes[name]:
            wrong.append(f"{name} has {found} elements, not {sizes[name]}")
    if wrong:
        return Finding("checkpoint", "statistics", "fail", "; ".join(sorted(wrong)), "train it anew")
    return Finding("checkpoint", "statistics", "ok", "statistics complete")


def check_robot_limits(robot: RobotConfig, profile: str, action: ActionSpec) -> Finding:
    """The limits that the safety gate would keep can be read and fit the contract."""
    try:
        check_limits(action, load_limits(robot, action, profile))
    except ArmatureError as error:
        return Finding("limits", "file", "fail", str(error), "mend limits_file or the profile: nothing may be left out")
    return Finding("limits", "file", "ok", f"profile {profile} of {robot.limits_file or 'the simulated robot'}")
