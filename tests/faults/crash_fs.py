"""A file system that remembers what was done to it, and what a disk may hold after a crash at any moment of it.

The model is POSIX at its least: a file's content is safe once the file was synced, a name once its folder was synced,
a rename happens wholly or not at all. Everything else may be on the disk after a power cut, or not, in any combination.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from armature.filesystem import Fs

Tree = dict[str, bytes | None]
"""What lies on a disk: relative path to content, None for a folder; parents first."""


@dataclass(frozen=True)
class Operation:
    """One step, with what was acknowledged before it began."""

    kind: str
    path: str
    data: bytes = b""
    size: int = 0
    target: str = ""
    known: Any = None


class FastFs(Fs):
    """Does not wait for the disk: for tests in which nothing crashes but the model."""

    def sync(self, path: Path) -> None:
        # What cannot be opened cannot be synced either.
        os.close(os.open(path, os.O_RDONLY))


class CrashFs(FastFs):
    """Does everything for real below `root` and logs it; `know` is asked before each step what was acknowledged."""

    def __init__(self, root: Path, know: Callable[[], Any] = lambda: None) -> None:
        self.root = root
        self.know = know
        self.log: list[Operation] = []

    def make_folder(self, path: Path) -> None:
        self._do("make_folder", path, super().make_folder)

    def write(self, path: Path, data: bytes | memoryview) -> None:
        # The caller's memory is used again.
        data = bytes(data)
        self._do("write", path, lambda p: Fs.write(self, p, data), data=data)

    def append(self, path: Path, data: bytes) -> None:
        self._do("append", path, lambda p: Fs.append(self, p, data), data=data)

    def truncate(self, path: Path, size: int) -> None:
        self._do("truncate", path, lambda p: Fs.truncate(self, p, size), size=size)

    def rename(self, old: Path, new: Path) -> None:
        self._do("rename", old, lambda p: Fs.rename(self, p, new), target=self._name(new))

    def exchange(self, one: Path, other: Path) -> None:
        self._do("exchange", one, lambda p: Fs.exchange(self, p, other), target=self._name(other))

    def remove(self, path: Path) -> None:
        self._do("remove", path, super().remove)

    def remove_tree(self, path: Path) -> None:
        # Not one step: a crash leaves any part of it.
        for folder, _, files in os.walk(path, topdown=False):
            for file in files:
                self.remove(Path(folder, file))
            self._do("remove_folder", Path(folder), Path.rmdir)

    def sync(self, path: Path) -> None:
        self._do("sync", path, super().sync)

    def _do(self, kind: str, path: Path, act: Callable[[Path], None], **what: Any) -> None:
        self.log.append(Operation(kind, self._name(path), known=self.know(), **what))
        act(path)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))


class FailingFs(CrashFs):
    """Refuses the operation of this number with an I/O error; the half of a write is done nevertheless."""

    def __init__(self, root: Path, at: int, error: int, know: Callable[[], Any] = lambda: None) -> None:
        super().__init__(root, know)
        self.at, self.error = at, error
        self.failed: Operation | None = None

    def _do(self, kind: str, path: Path, act: Callable[[Path], None], **what: Any) -> None:
        if len(self.log) != self.at or self.failed is not None:
            super()._do(kind, path, act, **what)
            return
        self.failed = Operation(f"failed_{kind}", self._name(path), known=self.know())
        half = what.get("data", b"")[: len(what.get("data", b"")) // 2]
        if kind in ("write", "append"):
            super()._do(kind, path, lambda p: getattr(Fs, kind)(self, p, half), data=half)
        else:
            self.log.append(self.failed)
        raise OSError(self.error, os.strerror(self.error), str(path))


@dataclass
class _File:
    cached: bytes = b""
    durable: bytes = b""
    tried: int = 0
    """So many bytes were handed to a sync, successful or not."""
    holes: list[tuple[int, int]] = field(default_factory=list)
    """What a failed sync has lost: the page counts as clean, and no later sync will write it."""

    def on_disk(self) -> bytes:
        content = bytearray(self.cached)
        for begin, end in self.holes:
            content[begin:end] = bytes(max(0, min(end, len(content)) - begin))
        return bytes(content)

    def resize(self, size: int) -> None:
        self.cached = self.cached[:size]
        self.tried = min(self.tried, size)
        self.holes = [(begin, min(end, size)) for begin, end in self.holes if begin < size]


@dataclass
class _Folder:
    cached: dict[str, _File | _Folder] = field(default_factory=dict)
    durable: dict[str, _File | _Folder] = field(default_factory=dict)
    pending: list[dict[str, _File | _Folder | None]] = field(default_factory=list)

    def change(self, names: dict[str, _File | _Folder | None]) -> None:
        self.pending.append(names)
        _update(self.cached, names)


def _update(names: dict[str, Any], change: dict[str, Any]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """A disk under the operations of a log."""

    def __init__(self, content: Tree | None = None) -> None:
        self._root = _Folder()
        for name, data in (content or {}).items():
            folder, last = self._parent(name)
            folder.change({last: _Folder() if data is None else _File(data, data, len(data))})
            folder.durable, folder.pending = dict(folder.cached), []

    def apply(self, operation: Operation) -> None:
        getattr(self, f"_{operation.kind}")(operation)

    def crashed(self, crash: Crash) -> Tree:
        """Return what the disk holds after a crash."""
        return dict(_walk(self._root, "", crash))

    def _make_folder(self, operation: Operation) -> None:
        folder, name = self._parent(operation.path)
        folder.change({name: _Folder()})

    def _write(self, operation: Operation) -> None:
        folder, name = self._parent(operation.path)
        if name not in folder.cached:
            folder.change({name: _File()})
        file = folder.cached[name]
        file.resize(0)
        file.cached = operation.data

    def _append(self, operation: Operation) -> None:
        self._node(operation.path).cached += operation.data

    def _truncate(self, operation: Operation) -> None:
        self._node(operation.path).resize(operation.size)

    def _rename(self, operation: Operation) -> None:
        folder, old = self._parent(operation.path)
        other, new = self._parent(operation.target)
        assert folder is other, "the store renames within a folder only"
        folder.change({old: None, new: folder.cached[old]})

    def _exchange(self, operation: Operation) -> None:
        folder, one = self._parent(operation.path)
        other = self._parent(operation.target)[1]
        folder.change({one: folder.cached[other], other: folder.cached[one]})

    def _remove(self, operation: Operation) -> None:
        folder, name = self._parent(operation.path)
        folder.change({name: None})

    _remove_folder = _remove

    def _sync(self, operation: Operation) -> None:
        node = self._node(operation.path)
        if isinstance(node, _Folder):
            node.durable, node.pending = dict(node.cached), []
        else:
            node.durable, node.tried = node.on_disk(), len(node.cached)

    def _failed_sync(self, operation: Operation) -> None:
        node = self._node(operation.path)
        if isinstance(node, _File):
            node.holes.append((node.tried, len(node.cached)))
            node.tried = len(node.cached)

    def _ignore(self, operation: Operation) -> None:
        """Do nothing: it was refused."""

    _failed_rename = _failed_exchange = _failed_make_folder = _failed_truncate = _failed_remove = (
        _failed_remove_folder
    ) = _ignore

    def _node(self, name: str) -> Any:
        if name == ".":
            return self._root
        folder, last = self._parent(name)
        return folder.cached[last]

    def _parent(self, name: str) -> tuple[_Folder, str]:
        folder, *parts = self._root, *name.split("/")
        for part in parts[:-1]:
            folder = folder.cached[part]
        return folder, parts[-1]


@dataclass(frozen=True)
class Crash:
    """Which of the changes of names that no sync has made safe are on the disk, and what of the contents."""

    name: str
    keeps_name: Callable[[], bool]
    keeps: Callable[[_File], bytes]


def crashes(step: int) -> list[Crash]:
    """Return the crashes to be tried before a step; one of them decides at random about each name and file.

    The ways in which contents are torn take turns: neighbouring steps leave nearly the same disk.
    """
    draw = random.Random(step)
    torn = [
        Crash("names without contents", lambda: True, lambda f: f.durable),
        Crash("names and half of the contents", lambda: True, lambda f: _torn(f)[1]),
        Crash("names and zeros", lambda: True, lambda f: _torn(f)[2]),
        Crash("names and the latter half of the contents", lambda: True, lambda f: _torn(f)[3]),
        Crash("contents without names", lambda: False, lambda f: f.on_disk()),
    ]
    return [
        Crash("nothing that was not synced", lambda: False, lambda f: f.durable),
        Crash("everything", lambda: True, lambda f: f.cached),
        torn[step % len(torn)],
        Crash("something", lambda: draw.random() < 0.5, lambda f: draw.choice(_torn(f))),
    ]


def _torn(file: _File) -> list[bytes]:
    """Return what may be left of a file that was not synced since it was changed."""
    new = file.on_disk()
    if new == file.durable:
        return [new] * 5
    safe = len(file.durable) if new.startswith(file.durable) else 0
    middle = (safe + len(new)) // 2
    zeros = new[:safe] + bytes(len(new) - safe)
    return [file.durable, new[:middle], zeros, zeros[:middle] + new[middle:], new]


def _walk(folder: _Folder, prefix: str, crash: Crash) -> Iterator[tuple[str, bytes | None]]:
    names = dict(folder.durable)
    for change in folder.pending:
        if crash.keeps_name():
            _update(names, change)
    for name, node in sorted(names.items()):
        if isinstance(node, _File):
            yield prefix + name, crash.keeps(node)
        else:
            yield prefix + name, None
            yield from _walk(node, f"{prefix}{name}/", crash)


def read_tree(root: Path) -> Tree:
    """Return what lies below a folder."""
    paths = sorted(root.rglob("*"))
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in paths}


def write_tree(root: Path, tree: Tree) -> None:
    """Put a tree into a folder that does not exist."""
    root.mkdir()
    for name, data in tree.items():
        if data is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(data)


def states(before: Tree, log: list[Operation], *, final: Any, every: int) -> Iterator[tuple[str, Tree, Any]]:
    """Return where, what the disk may hold and what was acknowledged, for crashes before, in and after every n-th step.

    None of the steps on the log of commits is left out. States that look alike and were acknowledged alike come once.
    """
    disk, seen = Disk(before), set()
    for number in range(len(log) + 1):
        step = log[number] if number < len(log) else None
        after_append = number > 0 and log[number - 1].kind == "append"
        if number % every == 0 or after_append or step is None or step.kind == "append":
            for where, tree in _states_before(disk, number, step, after_append=after_append):
                known = final if step is None else step.known
                mark = hash((tuple(tree.items()), id(known)))
                if mark not in seen:
                    seen.add(mark)
                    yield where, tree, known
        if step is not None:
            disk.apply(step)


def _states_before(
    disk: Disk, number: int, step: Operation | None, *, after_append: bool
) -> Iterator[tuple[str, Tree]]:
    where = "at the end" if step is None else f"before step {number}, {step.kind} {step.path}"
    # A torn log is the worst that can happen: every way of it.
    turns = range(5) if after_append else range(1)
    for crash in [crash for turn in turns for crash in crashes(number + turn)]:
        yield f"{where}; kept: {crash.name}", disk.crashed(crash)
    if step is not None and step.kind in ("write", "append"):
        yield f"in step {number}, {step.kind} {step.path}", _half_done(disk, step)


def _half_done(disk: Disk, step: Operation) -> Tree:
    """Return the disk of a process that was killed within a write."""
    tree = disk.crashed(Crash("everything", lambda: True, lambda f: f.cached))
    old = tree.get(step.path) or b""
    half = step.data[: len(step.data) // 2]
    return tree | {step.path: old + half if step.kind == "append" else half}
