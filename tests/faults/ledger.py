"""What was acknowledged and what was handed in, and whether a dataset on disk agrees with it.

Between the two there is room: a sample that was handed in but not acknowledged may be there or not, but if it is there
it has to be right. More than was handed in is a phantom; less than was acknowledged is lost.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from known_content import JPEG, sample, stamps, stored

from armature.errors import DatasetError
from armature.filesystem import PARTIAL
from armature.spec import ArraySpec
from data_collection.blocks import encode_jpeg
from data_collection.episode import Episode
from data_collection.store import Dataset, open_dataset

OPEN, CLOSED, GONE = "open", "closed", "gone"


@dataclass
class Entry:
    """One episode as its writer knows it."""

    committed: dict[str, int] = field(default_factory=dict)
    """What was acknowledged."""
    added: dict[str, int] = field(default_factory=dict)
    """What was handed in."""
    state: str = OPEN
    may_be_gone: bool = False
    """A discard or drop has begun."""
    outcomes: set[str] = field(default_factory=lambda: {"incomplete"})
    """What its outcome may be at this moment."""


@dataclass
class Findings:
    """What is not as it has to be."""

    checked: int = 0
    lost: int = 0
    wrong: int = 0
    phantom: int = 0
    unreadable: int = 0
    leftovers: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, message: str) -> None:
        if count:
            setattr(self, kind, getattr(self, kind) + count)
            self.messages.append(f"{kind} {count}: {message}")

    def merge(self, other: Findings) -> None:
        for kind in ("checked", "lost", "wrong", "phantom", "unreadable", "leftovers"):
            setattr(self, kind, getattr(self, kind) + getattr(other, kind))
        self.messages += other.messages


class Ledger:
    """The episodes of one dataset."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.last_begun = -1
        self._copy: Ledger | None = None

    def snapshot(self) -> Ledger:
        """Return a copy; the same one while nothing changes."""
        if self._copy is None or (self._copy.entries, self._copy.last_begun) != (self.entries, self.last_begun):
            self._copy = Ledger()
            self._copy.entries, self._copy.last_begun = copy.deepcopy(self.entries), self.last_begun
        return self._copy

    def begun(self, index: int) -> Entry:
        self.last_begun = index
        return self.entries.setdefault(index, Entry())

    def ended(self, index: int, outcome: str) -> None:
        entry = self.entries[index]
        entry.state, entry.outcomes, entry.committed = CLOSED, {outcome}, dict(entry.added)

    def gone(self, index: int) -> None:
        self.entries[index].state = GONE


def examine(path: Path, ledger: Ledger, *, since: int = 0) -> Findings:
    """Read everything of the episodes from number `since` on, and compare."""
    findings = Findings()
    try:
        dataset = open_dataset(path)
        episodes = {episode.index: episode for episode in dataset.episodes if episode.index >= since}
        findings.add("unreadable", len(dataset.problems), f"{path}: {dataset.problems}")
    except DatasetError as error:
        findings.add("unreadable", 1, str(error))
        return findings
    for index, episode in episodes.items():
        _examine_episode(dataset, episode, ledger.entries.get(index), findings)
    for index, entry in ledger.entries.items():
        if index >= since and index not in episodes and entry.state != GONE and not entry.may_be_gone:
            findings.add("lost", sum(entry.committed.values()), f"episode {index} is not there")
    return findings


def _examine_episode(dataset: Dataset, episode: Episode, entry: Entry | None, findings: Findings) -> None:
    lengths = {name: episode.length(name) for name in episode.streams}
    if entry is None or entry.state == GONE:
        findings.add("phantom", max(1, sum(lengths.values())), f"episode {episode.index} should not be there")
        return
    if episode.outcome not in entry.outcomes:
        findings.add("wrong", 1, f"episode {episode.index} is {episode.outcome!r}, not one of {entry.outcomes}")
    for name, length in lengths.items():
        where = f"episode {episode.index}, {name}: {length} rows"
        least, most = entry.committed.get(name, 0), entry.added.get(name, 0)
        findings.add("lost", max(0, least - length), f"{where}, acknowledged were {least}")
        findings.add("phantom", max(0, length - most), f"{where}, handed in were {most}")
        try:
            findings.add("wrong", _wrong_rows(dataset, episode, name), where)
        except DatasetError as error:
            findings.add("unreadable", 1, str(error))
        findings.checked += length


def _wrong_rows(dataset: Dataset, episode: Episode, name: str) -> int:
    array, index = dataset.streams[name], episode.index
    stamps_ns, received_ns, data = episode.read(name)
    rows = range(len(data))
    expected_stamps, expected_received = stamps(rows)
    is_jpeg = name == JPEG
    right = (stamps_ns == expected_stamps) & (received_ns == expected_received)
    if data.tobytes() != _expected(array, index, len(data), is_jpeg):
        for row in rows:
            right[row] &= data[row].tobytes() == stored(array, index, row, is_jpeg).tobytes()
    if is_jpeg and len(data):
        last = len(data) - 1
        right[last] &= episode.read_encoded(name, last) == encode_jpeg(sample(array, index, last))
    return int(np.count_nonzero(~right))


@lru_cache(maxsize=64)
def _expected(array: ArraySpec, episode: int, rows: int, is_jpeg: bool) -> bytes:
    """Return the bytes of the rows, so that NaN and -0 are compared too."""
    return b"".join(stored(array, episode, row, is_jpeg).tobytes() for row in range(rows))


def examine_recovered(path: Path, ledger: Ledger, *, since: int = 0) -> Findings:
    """As `examine`, after a writer has taken up what a dead one left: nothing of that may lie about any more."""
    findings = examine(path, ledger, since=since)
    dataset = open_dataset(path)
    partials = sorted(str(file.relative_to(path)) for file in path.rglob(f"*{PARTIAL}"))
    findings.add("leftovers", len(partials), f"partials: {partials}")
    folders = {int(folder.name) for folder in (path / "episodes").iterdir() if folder.is_dir()}
    orphans = folders ^ {episode.index for episode in dataset.episodes}
    findings.add("leftovers", len(orphans), f"folders without an episode, or the reverse: {orphans}")
    for episode in dataset.episodes:
        if episode.index >= since:
            findings.add("wrong", not episode.record.is_ended, f"episode {episode.index} is still open")
            _examine_documents(path, episode, findings)
    return findings


def _examine_documents(path: Path, episode: Episode, findings: Findings) -> None:
    """Compare with what any Zarr reader would believe."""
    for name in episode.streams:
        for array in ("data", "stamps_ns"):
            folder = path / "episodes" / f"{episode.index:06d}" / name / array
            length = json.loads((folder / "zarr.json").read_bytes())["shape"][0]
            where = f"{folder}/zarr.json says {length} rows, {episode.length(name)} count"
            findings.add("wrong", length != episode.length(name), where)
