from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from armature.alignment import AlignmentConfig
from armature.errors import DatasetError
from armature.spec import ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from data_collection import aligned_cache
from data_collection.aligned_cache import open_cache
from data_collection.store import Dataset, create_dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED
from data_collection.windows import Windows, load_windows

MS = 1_000_000
LENGTHS = (40, 7, 150)


def record(path: Path, robot: RobotSpec, lengths: tuple[int, ...] = LENGTHS, jpeg: bool = False) -> Dataset:
    """Record episodes of 20 Hz commands, 30 Hz images and 100 Hz joints, with random values."""
    dataset = create_dataset(path, robot, "lift", encodings={"camera/scene": "jpeg"} if jpeg else {})
    rng = np.random.default_rng(len(lengths))
    periods_ms = {"camera/scene": 33, "joint/position": 10, "gripper/opening": 70, ACTION_EXECUTED: 50}
    with dataset.writer() as writer:
        for length in lengths:
            episode = writer.begin()
            for name, period_ms in periods_ms.items():
                array = dataset.streams[name]
                stamps_ns = np.arange(0, length * 50, period_ms, dtype=np.int64) * MS
                values = rng.uniform(0, 255, (len(stamps_ns), *array.shape)).astype(array.dtype)
                episode.append(name, stamps_ns, stamps_ns, values)
            episode.end({"success": True, "outcome": "success"})
    return dataset


def built(dataset: Dataset, folder: Path | None = None) -> Path:
    """Return the folder of the only cache of `dataset`."""
    (index,) = (folder or dataset.path / ".cache").glob("*/index.json")
    return index.parent


def in_full(windows: Windows) -> dict[str, np.ndarray]:
    return windows.batch(np.arange(len(windows)))


def assert_equals_memory(dataset: Dataset, windows: Windows) -> None:
    expected = in_full(load_windows(dataset.episodes, dataset.spec, 2, 5))
    found = in_full(windows)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("jpeg", [False, True])
def test_mapped_windows_equal_those_in_memory(tmp_path: Path, robot: RobotSpec, jpeg: bool) -> None:
    dataset = record(tmp_path / "set", robot, jpeg=jpeg)
    for _ in ("built", "found"):
        mapped = open_cache(dataset, dataset.episodes, dataset.spec)
        assert mapped.lengths == LENGTHS
        assert_equals_memory(dataset, Windows(mapped, 2, 5))


def test_it_is_built_once(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot)
    progress: list[tuple[int, int]] = []
    open_cache(dataset, dataset.episodes, robot, on_episode=lambda *at: progress.append(at))
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]
    before = built(dataset).stat()
    open_cache(dataset, dataset.episodes, robot, on_episode=lambda *at: progress.append(at))
    assert len(progress) == 4
    assert built(dataset).stat().st_ino == before.st_ino
    # A moved dataset keeps its cache, and the store does not mind it.
    dataset.path.rename(tmp_path / "moved")
    moved = open_dataset(tmp_path / "moved")
    open_cache(moved, moved.episodes, robot, on_episode=lambda *at: progress.append(at))
    assert len(progress) == 4
    assert moved.problems == ()


def test_writing_into_windows_never_reaches_the_file(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot)
    mapped = open_cache(dataset, dataset.episodes, robot)
    mapped.arrays["camera/scene"][:] = 0
    assert_equals_memory(dataset, Windows(open_cache(dataset, dataset.episodes, robot), 2, 5))


def test_another_selection_has_another_cache(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot)
    folder, episodes, some = tmp_path / "caches", dataset.episodes, robot.select(("joint/position",))
    assert open_cache(dataset, episodes, robot, folder=folder).lengths == LENGTHS
    assert open_cache(dataset, episodes[1:], robot, folder=folder).lengths == LENGTHS[1:]
    assert list(open_cache(dataset, episodes, some, folder=folder).arrays) == ["joint/position", "action"]
    drop = AlignmentConfig(max_age_s=0.03, drop=("gripper/opening",))
    with pytest.raises(DatasetError, match="camera/scene is silent"):
        open_cache(dataset, episodes, robot, drop, folder)
    drop = AlignmentConfig(max_age_s=0.04, drop=("gripper/opening",))
    assert open_cache(dataset, episodes, robot, drop, folder).lengths < LENGTHS
    other = record(tmp_path / "other", robot, lengths=(3,))
    assert open_cache(other, other.episodes, robot, folder=folder).lengths == (3,)
    assert len(list(folder.iterdir())) == 5
    assert not (dataset.path / ".cache").exists()


def test_caches_inside_a_dataset_that_has_changed_are_removed(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot)
    mapped = open_cache(dataset, dataset.episodes, robot)
    kept = {name: array.copy() for name, array in mapped.arrays.items()}
    before = built(dataset)
    with dataset.writer() as writer:
        writer.drop(0)
    assert open_cache(dataset, dataset.episodes, robot).lengths == LENGTHS[1:]
    assert built(dataset) != before
    # Whoever still reads the old one is not disturbed.
    for name, array in mapped.arrays.items():
        np.testing.assert_array_equal(array, kept[name])


def damage_truncate(cache: Path) -> None:
    file = cache / "00.npy"
    os.truncate(file, file.stat().st_size - 1)


def damage_missing(cache: Path) -> None:
    (cache / "02.npy").unlink()


def damage_index(cache: Path) -> None:
    text = (cache / "index.json").read_text()
    (cache / "index.json").write_text(text.replace("40", "41"))


def damage_foreign(cache: Path) -> None:
    index = json.loads((cache / "index.json").read_text())
    index["identity"]["dataset_fingerprint"] = "of another"
    index.pop("crc32")
    (cache / "index.json").write_bytes(aligned_cache._index_bytes(index))


def damage_dtype(cache: Path) -> None:
    data = (cache / "01.npy").read_bytes()
    (cache / "01.npy").write_bytes(data.replace(b"<f4", b"<i4", 1))


def damage_object(cache: Path) -> None:
    data = (cache / "01.npy").read_bytes()
    (cache / "01.npy").write_bytes(data.replace(b"'<f4'", b"'|O' ", 1))


def damage_no_index(cache: Path) -> None:
    (cache / "index.json").unlink()


DAMAGES = [
    damage_truncate, damage_missing, damage_index, damage_foreign, damage_dtype, damage_object, damage_no_index
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_cache_is_built_anew(tmp_path: Path, robot: RobotSpec, damage) -> None:
    dataset = record(tmp_path / "set", robot)
    open_cache(dataset, dataset.episodes, robot)
    damage(built(dataset))
    assert_equals_memory(dataset, Windows(open_cache(dataset, dataset.episodes, robot), 2, 5))
    assert sorted(p.name for p in (dataset.path / ".cache").iterdir()) == [built(dataset).name]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot)
    (dataset.path / ".cache").write_text("in the way")
    with pytest.raises(DatasetError, match=r"\.cache: the aligned cache cannot be written: .* with --cache DIR"):
        open_cache(dataset, dataset.episodes, robot)
    mapped = open_cache(dataset, dataset.episodes, robot, folder=tmp_path / "deep" / "caches")
    assert_equals_memory(dataset, Windows(mapped, 2, 5))


def test_a_read_only_dataset_needs_another_folder(tmp_path: Path, robot: RobotSpec, monkeypatch) -> None:
    dataset = record(tmp_path / "set", robot)

    # Tests may run as root, whom permissions do not stop.
    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DatasetError, match=r"cannot be written: Read-only file system; choose .* --cache DIR"):
        open_cache(dataset, dataset.episodes, robot)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DatasetError, match="cannot be written: File too large"):
            open_cache(dataset, dataset.episodes, robot)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list((dataset.path / ".cache").iterdir()) == []


def test_damage_in_the_dataset_is_named_and_leaves_nothing_behind(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot)
    shutil.rmtree(dataset.path / "episodes" / "000002" / "camera" / "scene" / "data")
    with pytest.raises(DatasetError, match="episode 2, stream camera/scene"):
        open_cache(dataset, dataset.episodes, robot)
    assert list((dataset.path / ".cache").iterdir()) == []


def test_no_episodes_make_no_cache(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot, lengths=())
    with pytest.raises(DatasetError, match="there are no episodes to align"):
        open_cache(dataset, dataset.episodes, robot)


def _open_at_once(path: str, barrier, queue) -> None:
    dataset = open_dataset(path)
    barrier.wait()
    mapped = open_cache(dataset, dataset.episodes, dataset.spec)
    queue.put(int(mapped.arrays["camera/scene"].sum()))


def test_builders_at_the_same_time_do_not_disturb_each_other(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot)
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(4), context.Queue()
    arguments = (str(dataset.path), barrier, queue)
    processes = [context.Process(target=_open_at_once, args=arguments, daemon=True) for _ in range(4)]
    for process in processes:
        process.start()
    sums = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    assert len(sums) == 1
    assert [p.name for p in (dataset.path / ".cache").iterdir()] == [built(dataset).name]
    assert_equals_memory(dataset, Windows(open_cache(dataset, dataset.episodes, robot), 2, 5))


BUILD_SLOWLY = """
import sys, time
from data_collection.aligned_cache import open_cache
from data_collection.store import open_dataset

def wait(done, total):
    print(done, flush=True)
    time.sleep(60 if done == 2 else 0)

dataset = open_dataset(sys.argv[1])
open_cache(dataset, dataset.episodes, dataset.spec, on_episode=wait)
"""


def test_a_killed_builder_leaves_a_draft_that_the_next_one_removes(tmp_path: Path, robot: RobotSpec) -> None:
    dataset = record(tmp_path / "set", robot)
    command = [sys.executable, "-c", BUILD_SLOWLY, str(dataset.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "2":
            assert process.poll() is None
        (draft,) = (dataset.path / ".cache").iterdir()
        # While it lives, its draft is left alone.
        open_cache(dataset, dataset.episodes[:1], robot)
        assert draft.exists()
        process.kill()
        process.wait()
    assert_equals_memory(dataset, Windows(open_cache(dataset, dataset.episodes, robot), 2, 5))
    assert not draft.exists()


GROWTH = """
import resource, sys
from data_collection.aligned_cache import open_cache
from data_collection.store import open_dataset

dataset = open_dataset(sys.argv[1])
small, large = dataset.episodes[:1], dataset.episodes
open_cache(dataset, small, dataset.spec)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_cache(dataset, large, dataset.spec)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_is_bounded_while_it_is_built(tmp_path: Path) -> None:
    joint = ArraySpec("joint/position", (1,), "float32", "rad", labels=("joint",))
    camera = ArraySpec("camera/scene", (128, 128, 3), "uint8", "rgb8")
    robot = RobotSpec("big", ObservationSpec((camera, joint), 20.0), ActionSpec("joint_position", (joint,), 20.0))
    dataset = create_dataset(tmp_path / "set", robot, "film")
    with dataset.writer() as writer:
        for length in (100, 2000):
            episode = writer.begin()
            stamps_ns = np.arange(length, dtype=np.int64) * 50 * MS
            episode.append("joint/position", stamps_ns, stamps_ns, np.zeros((length, 1), np.float32))
            episode.append(ACTION_EXECUTED, stamps_ns, stamps_ns, np.zeros((length, 1)))
            episode.append("camera/scene", stamps_ns, stamps_ns, np.zeros((length, 128, 128, 3), np.uint8))
            episode.end({"success": True})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", GROWTH, str(dataset.path)]
    grown = int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    # The cache is 98 MB; pieces of 8 MiB went through.
    assert grown < 40_000_000
