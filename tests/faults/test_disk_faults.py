"""Disks that fill up, refuse, are slow, or are somebody else's: rows 44 to 47 of the fault matrix."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from crash_fs import FailingFs, FastFs, Operation
from full_disk import FULL, LOW, NOT_WATCHED, QuotaFs, error_of_end, record_until_it_ends
from known_content import ENCODINGS, JOINTS, LOSSLESS, robot, sample, stamps
from recording_process import add_step

from armature.errors import DatasetError
from armature.filesystem import Fs
from data_collection.commit_log import LOG_NAME
from data_collection.recorder import Recorder, RecorderConfig
from data_collection.store import Dataset, create_dataset, open_dataset

SPEC = robot(16, 16)
CONFIG = RecorderConfig(commit_period_s=0.01, disk_free_min_bytes=0, disk_free_min_s=0)
HERE = Path(__file__).parent


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return create_dataset(tmp_path / "set", SPEC, "lift", encodings=ENCODINGS, fs=FastFs())


def require_kept(dataset: Dataset, index: int, committed: dict[str, int]) -> None:
    """What was acknowledged can be read, nothing else is there, and the episode does not pass for a whole one."""
    episodes = {episode.index: episode for episode in dataset.episodes}
    if not any(committed.values()) and index not in episodes:
        return
    episode = episodes[index]
    assert episode.outcome == "incomplete"
    for name in episode.streams:
        stamps_ns, _, data = episode.read(name)
        assert len(data) == committed.get(name, 0)
        np.testing.assert_array_equal(stamps_ns, stamps(range(len(data)))[0])
        if name == LOSSLESS:
            for row, image in enumerate(data):
                np.testing.assert_array_equal(image, sample(dataset.streams[name], index, row))


def require_counts_add_up(recorder: Recorder) -> None:
    for name, counts in recorder.counts().items():
        assert counts.received == counts.committed + sum(counts.dropped.values()), (name, counts)
        assert counts.recorded == counts.committed, (name, counts)


@pytest.mark.fault(row=44)
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "not watched"])
def test_row_44_a_full_disk_ends_the_episode_and_keeps_what_counts(tmp_path: Path, watched: bool) -> None:
    dataset = create_dataset(tmp_path / "set", SPEC, "lift", encodings=ENCODINGS)
    fs = QuotaFs(dataset.path, 2_000_000)
    report = record_until_it_ends(dataset, LOW if watched else NOT_WATCHED, fs)
    require_full_disk_handled(report, watched)


@pytest.mark.fault(row=44)
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "not watched"])
def test_row_44_a_full_tmpfs_ends_the_episode_and_keeps_what_counts(tmp_path: Path, watched: bool) -> None:
    record = f"exec {sys.executable} {HERE / 'full_disk.py'} {tmp_path}/set {watched:d}"
    command = f"mount -t tmpfs -o size=4m none {tmp_path} && {record}"
    prefix = namespace("the same is tested with a quota")
    done = subprocess.run([*prefix, "sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    require_full_disk_handled(json.loads(done.stdout), watched)


def namespace(otherwise: str) -> list[str]:
    """Return a prefix that gives a command mounts of its own; skip where the system forbids that."""
    for options in ("-m", "-Urm"):
        probe = ["unshare", options, "mount", "-t", "tmpfs", "none", "/tmp"]
        if shutil.which("unshare") and subprocess.run(probe, capture_output=True).returncode == 0:
            return probe[:2]
    pytest.skip(f"this system lets no process mount a file system of its own; {otherwise}")


def require_full_disk_handled(report: dict, watched: bool) -> None:
    assert ("disk low" if watched else FULL) in report["fault"]
    assert "incomplete" in report["error"]
    assert not report["is_recording"]
    assert report["acknowledged"]
    assert report["readable"] == report["acknowledged"] == report["committed"]
    assert report["wrong"] == 0
    assert report["outcome"] == "incomplete"
    assert report["partials"] == []
    assert report["received"] == report["committed_and_dropped"]
    assert report["again"], "once there is room, the next episode is recorded"


@pytest.mark.fault(row=45)
@pytest.mark.parametrize("kind", ["write", "append", "sync", "rename"])
def test_row_45_a_disk_that_refuses_makes_the_episode_bad(tmp_path: Path, kind: str) -> None:
    steps = [number for number, step in enumerate(_clean_run(tmp_path / "clean")) if step.kind == kind]
    for at in steps[:: max(1, len(steps) // 12)]:
        folder = tmp_path / f"{at}"
        folder.mkdir()
        dataset = create_dataset(folder / "set", SPEC, "lift", encodings=ENCODINGS, fs=FastFs())
        fs = FailingFs(folder, at, errno.EIO)
        _record(dataset, fs)
        if fs.failed is not None:
            _require_not_tried_again(fs.log, at)


def _clean_run(folder: Path) -> list[Operation]:
    folder.mkdir()
    fs = FailingFs(folder, -1, errno.EIO)
    dataset = create_dataset(folder / "set", SPEC, "lift", encodings=ENCODINGS, fs=FastFs())
    with Recorder(dataset, CONFIG, fs=fs) as recorder:
        recorder.start({})
        for step in range(20):
            add_step(recorder, dataset.streams, 0, step, {})
        recorder.end(success=True)
    return fs.log


def _record(dataset: Dataset, fs: FailingFs) -> None:
    """Record through a fault, end, and look at what is left, before and after the next writer."""
    acknowledged: list[tuple[int, dict[str, int]]] = []
    with Recorder(dataset, CONFIG, lambda streams: acknowledged.append((len(fs.log), dict(streams))), fs) as recorder:
        try:
            recorder.start({})
        except DatasetError:
            assert dataset.episodes == []
            return
        _add_until_refused(recorder, dataset)
        error = error_of_end(recorder)
        if fs.failed is None:
            assert error == ""
            return
        assert "writing failed" in recorder.fault
        require_counts_add_up(recorder)
        committed = {name: counts.committed for name, counts in recorder.counts().items() if counts.committed}
        kept = "episode 0 is incomplete" if committed else "nothing of episode 0 was kept"
        assert f"{kept}: writing failed" in error
    assert all(moment <= fs.at for moment, _ in acknowledged), "nothing is acknowledged after a refusal"
    told = {name: length for _, streams in acknowledged for name, length in streams.items()}
    assert told == committed
    require_kept(dataset, 0, committed)
    dataset.writer(FastFs()).close()
    require_kept(dataset, 0, committed)
    assert not list(dataset.path.rglob("*.partial"))


def _add_until_refused(recorder: Recorder, dataset: Dataset, steps: range = range(20)) -> None:
    with suppress(RuntimeError):
        for step in steps:
            add_step(recorder, dataset.streams, 0, step, {})


def _require_not_tried_again(log: list[Operation], at: int) -> None:
    """The log gets no further line, and no file is synced again that was not written anew."""
    failed, later = log[at], [step for step in log[at + 1 :] if step.path == log[at].path]
    if failed.path.endswith(LOG_NAME):
        assert {step.kind for step in later} <= {"truncate"}
    elif failed.kind == "failed_sync" and later and Path(failed.path).name.startswith("c."):
        assert later[0].kind != "sync"


@pytest.mark.fault(row=45)
def test_row_45_a_start_that_was_refused_can_be_tried_again(dataset: Dataset) -> None:
    fs = FailingFs(dataset.path.parent, 9, errno.ENOSPC)
    with Recorder(dataset, CONFIG, fs=fs) as recorder:
        with pytest.raises(DatasetError, match="episode 0 cannot be begun"):
            recorder.start({})
        assert recorder.start({}) == 0
        add_step(recorder, dataset.streams, 0, 0, {})
        assert recorder.end(success=True).counts[LOSSLESS].committed == 1


@pytest.mark.fault(row=45)
def test_row_45_a_callback_that_fails_is_a_fault_and_every_sample_is_counted(dataset: Dataset) -> None:
    def fail(_: object) -> None:
        raise BrokenPipeError("nobody listens")

    with Recorder(dataset, CONFIG, fail, FastFs()) as recorder:
        recorder.start({})
        _add_until_refused(recorder, dataset)
        with pytest.raises(DatasetError, match=r"episode 0 is incomplete: .*nobody listens"):
            recorder.end(success=True)
        require_counts_add_up(recorder)


class StuckFs(FastFs):
    """A disk that does not answer until `freed` is set."""

    def __init__(self) -> None:
        self.freed = threading.Event()
        self.freed.set()
        self.asked = threading.Event()

    def write(self, path: Path, data: bytes) -> None:
        self.asked.set()
        assert self.freed.wait(60)
        super().write(path, data)


@pytest.mark.fault(row=46)
def test_row_46_a_disk_that_is_stuck_makes_nobody_wait_and_every_drop_is_counted(dataset: Dataset) -> None:
    array, fs, offered = dataset.streams[LOSSLESS], StuckFs(), 500
    image_bytes = array.size
    config = RecorderConfig(4 * image_bytes, commit_period_s=0.01, disk_free_min_bytes=0, disk_free_min_s=0)
    with Recorder(dataset, config, fs=fs) as recorder:
        recorder.start({})
        fs.asked.clear()
        fs.freed.clear()
        taken = [row for row in range(3) if recorder.add(LOSSLESS, row, row, sample(array, 0, row))]
        assert fs.asked.wait(60)
        # The writer hangs in the disk: were it waited for, this would not come to its end.
        taken += [row for row in range(3, offered) if recorder.add(LOSSLESS, row, row, sample(array, 0, row))]
        assert not fs.freed.is_set()
        assert len(taken) <= 3 + 4
        fs.freed.set()
        counts = recorder.end(success=True).counts[LOSSLESS]
        require_counts_add_up(recorder)
    assert (counts.received, counts.committed) == (offered, len(taken))
    assert counts.dropped == {"queue_full": offered - len(taken)}
    stamps_ns, _, data = dataset.episodes[0].read(LOSSLESS)
    assert stamps_ns.tolist() == taken
    for row, image in zip(taken, data, strict=True):
        np.testing.assert_array_equal(image, sample(array, 0, row))


@pytest.mark.fault(row=47)
def test_row_47_a_dataset_that_was_removed_is_not_recorded_to(dataset: Dataset) -> None:
    shutil.rmtree(dataset.path)
    with pytest.raises(DatasetError, match="set: cannot be written to: No such file"):
        Recorder(dataset, CONFIG)
    with pytest.raises(DatasetError, match="there is no dataset here"):
        open_dataset(dataset.path)


@pytest.mark.fault(row=47)
def test_row_47_a_read_only_dataset_is_not_recorded_to(dataset: Dataset, tmp_path: Path) -> None:
    script = (
        "import sys; from data_collection.store import open_dataset; from data_collection.recorder import Recorder; "
        "from armature.errors import DatasetError\n"
        "d = open_dataset(sys.argv[1]); print(len(d.episodes))\n"
        "try: Recorder(d)\nexcept DatasetError as error: print(error)"
    )
    read = [sys.executable, "-c", script, str(dataset.path)]
    if os.geteuid() == 0:  # whom no mode keeps out
        mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        command = [*namespace("try without being root"), "sh", "-c", mount, str(dataset.path), *read]
        done = subprocess.run(command, capture_output=True, text=True)
        reason = "Read-only file system"
    else:
        dataset.path.chmod(0o500)
        done = subprocess.run(read, capture_output=True, text=True)
        dataset.path.chmod(0o700)
        reason = "Permission denied"
    assert done.stdout.splitlines() == ["0", f"{dataset.path}: cannot be written to: {reason}"], done.stderr


def await_acknowledged(acknowledged: list[dict[str, int]], wanted: dict[str, int]) -> None:
    """Wait until every stream counts for so many samples; an acknowledgement names only those that have grown."""
    deadline_s = time.monotonic() + 60
    while dict(item for streams in list(acknowledged) for item in streams.items()) != {
        name: count for name, count in wanted.items() if count
    }:
        assert time.monotonic() < deadline_s, acknowledged
        time.sleep(0.001)


@pytest.mark.fault(row=47)
@pytest.mark.parametrize("fate", ["removed", "moved away", "replaced by a link", "replaced by another"])
def test_row_47_a_dataset_that_goes_away_while_recording_is_a_fault(
    dataset: Dataset, tmp_path: Path, fate: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    acknowledged: list[dict[str, int]] = []
    with Recorder(dataset, CONFIG, lambda streams: acknowledged.append(dict(streams)), FastFs()) as recorder:
        recorder.start({})
        added: dict[int, int] = {}
        for step in range(5):
            add_step(recorder, dataset.streams, 0, step, added)
        await_acknowledged(acknowledged, {name: added.get(i, 0) for i, name in enumerate(dataset.streams)})
        dataset.path.rename(elsewhere)
        if fate == "removed":
            shutil.rmtree(elsewhere)
        elif fate == "replaced by a link":
            dataset.path.symlink_to(elsewhere)
        elif fate == "replaced by another":
            create_dataset(dataset.path, SPEC, "lift", encodings=ENCODINGS)
        count = len(acknowledged)
        _add_until_refused(recorder, dataset, range(5, 10_000))
        assert "writing failed" in recorder.fault
        with pytest.raises(DatasetError, match="episode 0 is incomplete: writing failed"):
            recorder.end(success=True)
        require_counts_add_up(recorder)
    assert len(acknowledged) == count
    committed: dict[str, int] = {}
    for streams in acknowledged:
        committed |= streams
    if fate != "removed":
        require_kept(open_dataset(elsewhere), 0, committed)
    if fate == "replaced by another":
        assert open_dataset(dataset.path).episodes == []
        assert list((dataset.path / "episodes").iterdir()) == [dataset.path / "episodes/zarr.json"]


@pytest.mark.fault(row=47)
def test_row_47_a_link_in_the_place_of_a_dataset_folder_is_not_read(dataset: Dataset, tmp_path: Path) -> None:
    with Recorder(dataset, CONFIG, fs=FastFs()) as recorder:
        recorder.start({})
        add_step(recorder, dataset.streams, 0, 0, {})
        recorder.end(success=True)
    folder = dataset.path / "episodes/000000" / JOINTS.name
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=rf"episode 0, stream {JOINTS.name}: damaged: .*is a link"):
        dataset.episodes[0].read(JOINTS.name)


@pytest.mark.fault(row=47)
def test_row_47_free_space_that_cannot_be_asked_for_is_told_at_start(dataset: Dataset) -> None:
    class Unknown(Fs):
        def free_bytes(self, path: Path) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Recorder(dataset, CONFIG, fs=Unknown()) as recorder:
        with pytest.raises(DatasetError, match=r"set: cannot be recorded to: .*Input/output error"):
            recorder.start({})
        assert not recorder.is_recording
