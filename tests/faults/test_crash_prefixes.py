"""Power cut and kill at every step that the store takes on the disk: nothing acknowledged is lost, nothing made up.

Row 43 of the fault matrix, with the file system of `crash_fs`. Each scenario is run once for real; then, for every
step, the states that a crash may leave are laid out in a folder of their own, read, taken up by a new writer, recorded
to, and read again.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import count
from pathlib import Path

import pytest
from crash_fs import CrashFs, FailingFs, FastFs, Operation, Tree, crashes, read_tree, states, write_tree
from crash_fs import Disk as CrashedDisk
from known_content import ENCODINGS, LOSSLESS, robot, samples
from ledger import Entry, Findings, Ledger, examine, examine_recovered

from armature.errors import DatasetError
from armature.spec import RobotSpec
from data_collection.commit_log import LOG_NAME
from data_collection.dataset_writer import DatasetWriter
from data_collection.episode_writer import EpisodeWriter
from data_collection.store import create_dataset, open_dataset

SPEC: RobotSpec = robot(8, 8)
DATASET = "set"
SILENT = "reward"
"""A stream that nobody publishes."""

Scenario = Callable[[Path, CrashFs, Ledger], None]


def add(writer: EpisodeWriter, ledger: Ledger, rows: range, only: tuple[str, ...] = ()) -> None:
    entry = ledger.entries[writer.index]
    for name, array in writer._log.streams.items():
        if name != SILENT and (not only or name in only):
            entry.added[name] = rows.stop
            writer.append(name, *samples(array, writer.index, rows))


def commit(writer: EpisodeWriter, ledger: Ledger) -> None:
    ledger.entries[writer.index].committed |= writer.commit()


def end(writer: EpisodeWriter, ledger: Ledger) -> None:
    ledger.entries[writer.index].outcomes.add("success")
    writer.end({"outcome": "success"})
    ledger.ended(writer.index, "success")


def begin(writer: DatasetWriter, ledger: Ledger) -> EpisodeWriter:
    # It may be read before `begin` has returned, empty as it is.
    ledger.entries[writer.next_index] = Entry(may_be_gone=True)
    episode = writer.begin({})
    ledger.begun(episode.index).may_be_gone = False
    return episode


def record(writer: DatasetWriter, ledger: Ledger, rows: int = 4) -> None:
    episode = begin(writer, ledger)
    add(episode, ledger, range(rows))
    end(episode, ledger)


def record_in_commits(path: Path, fs: CrashFs, ledger: Ledger) -> None:
    """Three commits, one stream alone in one of them; a block that is filled exactly; a next episode, left open."""
    with open_dataset(path).writer(fs) as writer:
        episode = begin(writer, ledger)
        add(episode, ledger, range(2))
        commit(episode, ledger)
        add(episode, ledger, range(2, 64))
        add(episode, ledger, range(64, 67), only=(LOSSLESS,))
        commit(episode, ledger)
        add(episode, ledger, range(67, 69), only=(LOSSLESS,))
        end(episode, ledger)
        episode = begin(writer, ledger)
        add(episode, ledger, range(3))
        commit(episode, ledger)
        add(episode, ledger, range(3, 5))


def discard(path: Path, fs: CrashFs, ledger: Ledger) -> None:
    with open_dataset(path).writer(fs) as writer:
        episode = begin(writer, ledger)
        add(episode, ledger, range(3))
        commit(episode, ledger)
        ledger.entries[episode.index].may_be_gone = True
        episode.discard()
        ledger.gone(episode.index)


def edit(path: Path, fs: CrashFs, ledger: Ledger) -> None:
    """Relabel an episode, then drop it."""
    with open_dataset(path).writer(fs) as writer:
        ledger.entries[0].outcomes.add("failure")
        writer.relabel(0, {"outcome": "failure"})
        ledger.entries[0].outcomes = {"failure"}
        ledger.entries[0].may_be_gone = True
        writer.drop(0)
        ledger.gone(0)


def take_up(path: Path, fs: CrashFs, ledger: Ledger) -> None:
    open_dataset(path).writer(fs).close()


def record_another(path: Path, fs: CrashFs, ledger: Ledger) -> None:
    with open_dataset(path).writer(fs) as writer:
        record(writer, ledger, rows=1)


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Iterator[Path]]:
    """Return new folders, one at a time; in memory where the system has such a place."""
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path))
    yield (base / str(number) for number in count())
    shutil.rmtree(base)


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Ledger]:
    """An episode on a disk that is at rest, and what is known of it."""
    root, ledger = tmp_path / "disk", Ledger()
    root.mkdir()
    create_dataset(root / DATASET, SPEC, "lift", encodings=ENCODINGS, fs=FastFs())
    with open_dataset(root / DATASET).writer(FastFs()) as writer:
        record(writer, ledger)
    return root, ledger


def play(root: Path, ledger: Ledger, scenario: Scenario) -> tuple[Tree, list[Operation]]:
    """Run a scenario for real; return what lay on the disk before, and the steps."""
    before = read_tree(root)
    fs = CrashFs(root, ledger.snapshot)
    scenario(root / DATASET, fs, ledger)
    return before, fs.log


def require_sound(root: Path, known: Ledger, where: str) -> None:
    """Read what a crash has left, let a writer take it up and record another episode, read again."""
    path = root / DATASET
    require(examine(path, known), where)
    recovered = copy_of(known)
    record_another(path, FastFs(), recovered)
    require(examine_recovered(path, recovered), f"{where}; taken up")
    assert recovered.last_begun > known.last_begun, where


def require_taken_up_once(root: Path, known: Ledger, where: str) -> None:
    """Take up what a crash has left, twice: the second time nothing changes."""
    take_up(root / DATASET, FastFs(), known)
    once = read_tree(root)
    take_up(root / DATASET, FastFs(), known)
    assert read_tree(root) == once, where


def copy_of(known: Ledger) -> Ledger:
    ledger = Ledger()
    ledger.entries, ledger.last_begun = deepcopy(known.entries), known.last_begun
    return ledger


def require(findings: Findings, where: str) -> None:
    assert findings.messages == [], where


@pytest.mark.fault(row=43)
@pytest.mark.parametrize("scenario", [record_in_commits, discard, edit])
def test_row_43_a_crash_loses_nothing(
    recorded: tuple[Path, Ledger], folders: Iterator[Path], scenario: Scenario
) -> None:
    crash_at_steps(recorded, folders, scenario, every=5)


@pytest.mark.fault(row=43)
@pytest.mark.slow
@pytest.mark.parametrize("scenario", [record_in_commits, discard, edit])
def test_row_43_a_crash_at_any_step_loses_nothing(
    recorded: tuple[Path, Ledger], folders: Iterator[Path], scenario: Scenario
) -> None:
    crash_at_steps(recorded, folders, scenario, every=1)


def crash_at_steps(recorded: tuple[Path, Ledger], folders: Iterator[Path], scenario: Scenario, every: int) -> None:
    root, ledger = recorded
    before, log = play(root, ledger, scenario)
    for where, tree, known in states(before, log, final=ledger.snapshot(), every=every):
        folder = next(folders)
        write_tree(folder, tree)
        require_sound(folder, known, where)
        shutil.rmtree(folder)


@pytest.mark.fault(row=43)
def test_row_43_a_dataset_is_created_whole_or_not_at_all(tmp_path: Path, folders: Iterator[Path]) -> None:
    root, created = tmp_path / "disk", Ledger()
    root.mkdir()
    fs = CrashFs(root, lambda: created.last_begun)
    path = Path("data", "lab", DATASET)
    create_dataset(root / path, SPEC, "lift", encodings=ENCODINGS, fs=fs)
    for where, tree, _ in states({}, fs.log, final=True, every=1):
        folder = next(folders)
        write_tree(folder, tree)
        if where.startswith("at the end") or (folder / path).exists():
            assert open_dataset(folder / path).episodes == [], where
        else:
            create_dataset(folder / path, SPEC, "lift", encodings=ENCODINGS, fs=FastFs())
        record_another(folder / path, FastFs(), created)
        require(examine_recovered(folder / path, created), where)
        created.entries.clear()
        shutil.rmtree(folder)


@pytest.mark.fault(row=43)
def test_row_43_a_crash_while_taking_up_a_crash_loses_nothing(
    recorded: tuple[Path, Ledger], folders: Iterator[Path]
) -> None:
    root, ledger = recorded
    before, log = play(root, ledger, record_in_commits)
    crashed = list(states(before, log, final=ledger.snapshot(), every=37))[1::12]
    for where, tree, known in crashed:
        folder = next(folders)
        write_tree(folder, tree)
        again, steps = play(folder, copy_of(known), take_up)
        for then, tree_then, _ in states(again, steps, final=None, every=5):
            second = next(folders)
            write_tree(second, tree_then)
            require_taken_up_once(second, known, f"{where}; then, taking up, {then}")
            require_sound(second, known, f"{where}; then, taking up, {then}")
            shutil.rmtree(second)
        shutil.rmtree(folder)


@pytest.mark.fault(row=45)
def test_row_45_a_sync_that_failed_is_never_taken_for_done(
    recorded: tuple[Path, Ledger], folders: Iterator[Path]
) -> None:
    """The kernel drops what it could not write: it can still be read, until the power goes."""
    root, ledger = recorded
    before, log = play(root, ledger, record_in_commits)
    for at in steps_to_refuse(log):
        folder, known = next(folders), copy_of(log[0].known)
        write_tree(folder, before)
        fs = FailingFs(folder, at, errno.EIO, known.snapshot)
        with pytest.raises((OSError, DatasetError)):
            record_in_commits(folder / DATASET, fs, known)
        require(examine(folder / DATASET, known), f"refused step {at}, {fs.failed}")
        after = CrashFs(folder, known.snapshot)
        record_another(folder / DATASET, after, known)
        disk = CrashedDisk(before)
        for step in [*fs.log, *after.log]:
            disk.apply(step)
        for crash in crashes(at)[::3]:
            second = next(folders)
            write_tree(second, disk.crashed(crash))
            require_sound(second, known, f"refused step {at}, {fs.failed}; then power cut; kept: {crash.name}")
            shutil.rmtree(second)
        shutil.rmtree(folder)


def steps_to_refuse(log: list[Operation]) -> list[int]:
    """Return every step on the log, and some of the others."""
    return [at for at, step in enumerate(log) if step.path.endswith(LOG_NAME) or at % 29 == 0]
