"""Row 39: whenever a machine stops while a checkpoint is saved over another, one of the two is there and loads."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from crash_fs import CrashFs, FailingFs, Tree, read_tree, states, write_tree

from policies.checkpoint import load_policy, save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.signed_folder import read_file, replace_folder

NAME = "checkpoint"


@pytest.fixture
def saves(new_policy: Callable[..., ChunkPolicy], tmp_path: Path) -> tuple[Path, dict[str, bytes], list[str]]:
    """A disk with a checkpoint on it, the files of the next one, and the ids of both, old first."""
    root = tmp_path / "disk"
    old = save_checkpoint(root / NAME, new_policy(seed=0), {})
    new = save_checkpoint(tmp_path / "new", new_policy(seed=1), {})
    files = {file.name: read_file(file) for file in new.iterdir()}
    return root, files, [load_policy(old).policy_id, load_policy(new).policy_id]


def crashed(root: Path, fs: CrashFs, files: dict[str, bytes]) -> list[tuple[str, Tree]]:
    before = read_tree(root)
    replace_folder(root / NAME, files, fs)
    return [(where, tree) for where, tree, _ in states(before, fs.log, final=None, every=1)]


@pytest.mark.fault(row=39)
def test_a_crash_at_any_step_of_a_save_leaves_the_old_checkpoint_or_the_new_one(
    saves: tuple[Path, dict[str, bytes], list[str]], tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    root, files, ids = saves
    disks = crashed(root, CrashFs(root), files)
    found = []
    for number, (where, tree) in enumerate(disks):
        disk = tmp_path / f"crash_{number}"
        write_tree(disk, tree)
        found.append(load_policy(disk / NAME).policy_id)
        assert found[-1] in ids, where
        # Whatever is left, the next save is as good as any.
        replace_folder(disk / NAME, files)
        assert load_policy(disk / NAME).policy_id == ids[1], where
    assert set(found) == set(ids)
    assert found[0] == ids[0]
    assert load_policy(root / NAME).policy_id == ids[1]
    record_property("figure", f"{len(disks)} disks after a crash")


def test_a_save_removes_what_killed_processes_left_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    mine = (f".{NAME}.{process.pid}.draft", f".{NAME}.{os.getpid()}.draft")
    others = (f".{NAME}.{os.getppid()}.draft", f".other.{process.pid}.draft", f".{NAME}.note.draft")
    for name in (*mine, *others):
        (tmp_path / name).mkdir()
    replace_folder(tmp_path / NAME, {"a": b"1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((*others, NAME))


class NoSwapFs(CrashFs):
    """A file system that cannot swap two names, such as NFS."""

    def exchange(self, one: Path, other: Path) -> None:
        raise OSError(errno.EINVAL, "Invalid argument", str(one))


@pytest.mark.fault(row=39)
def test_where_names_cannot_be_swapped_the_old_checkpoint_is_in_place_or_whole_beside_it(
    saves: tuple[Path, dict[str, bytes], list[str]], tmp_path: Path
) -> None:
    root, files, ids = saves
    beside = 0
    for number, (where, tree) in enumerate(crashed(root, NoSwapFs(root), files)):
        disk = tmp_path / f"crash_{number}"
        write_tree(disk, tree)
        place = disk / NAME
        if not place.exists():
            (place,) = disk.glob(f".{NAME}.*.old")
            beside += 1
        assert load_policy(place).policy_id in ids, where
    assert beside > 0
    assert load_policy(root / NAME).policy_id == ids[1]


@pytest.mark.fault(row=39)
def test_a_first_save_is_there_wholly_or_not_at_all(
    saves: tuple[Path, dict[str, bytes], list[str]], tmp_path: Path
) -> None:
    _, files, ids = saves
    root = tmp_path / "empty"
    root.mkdir()
    there = 0
    for number, (where, tree) in enumerate(crashed(root, CrashFs(root), files)):
        disk = tmp_path / f"crash_{number}"
        write_tree(disk, tree)
        if (disk / NAME).exists():
            assert load_policy(disk / NAME).policy_id == ids[1], where
            there += 1
    assert there > 0


@pytest.mark.fault(row=39)
def test_a_save_that_the_disk_refuses_leaves_one_of_both_and_nothing_else(
    saves: tuple[Path, dict[str, bytes], list[str]], tmp_path: Path
) -> None:
    root, files, ids = saves
    before = read_tree(root)
    found = []
    for at in range(100):
        disk = tmp_path / f"refused_{at}"
        write_tree(disk, before)
        fs = FailingFs(disk, at, errno.ENOSPC)
        with suppress(OSError):
            replace_folder(disk / NAME, files, fs)
        found.append(load_policy(disk / NAME).policy_id)
        assert found[-1] in ids, fs.failed
        if fs.failed is None or not fs.failed.kind.startswith("failed_remove"):
            assert [path.name for path in disk.iterdir()] == [NAME], fs.failed
        if fs.failed is None:
            break
    assert fs.failed is None
    assert set(found) == set(ids)
