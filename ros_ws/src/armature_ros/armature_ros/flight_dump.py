"""The dump of a flight recorder: `flight.npz` with plain arrays, `flight.json` with everything that has a name.

Times are nanoseconds: `*_ns` of the clock that the control loop ticks by, `stamp_ns` of the clock of the stamps.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from armature.config import to_plain
from armature.control.limits import SafetyLimits
from armature.spec import ActionSpec
from armature.types import ActionChunk, Command, GateState, Reason, Sample

FORMAT, FORMAT_VERSION = "armature-flight", 1
ARRAYS, DOCUMENT = "flight.npz", "flight.json"
PREFIX = "flight_"
NEVER_NS = -1
"""Stands for a time that is not there."""
_TURN, _TURN_S = 32, 2e-4
_STATES, _REASONS = tuple(GateState), tuple(Reason)

T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """What the recorder held at one moment, each with the time of the control loop's clock."""

    reason: str
    utc: datetime
    states: Sequence[tuple[int, Sample]]
    chunks: Sequence[tuple[int, tuple[ActionChunk, bool]]]
    commands: Sequence[tuple[int, Command]]
    counters: Mapping[str, int]
    spec: ActionSpec
    limits: SafetyLimits | None
    versions: Mapping[str, str]
    commit: str


@dataclass(frozen=True)
class About:
    """Everything of a dump that has a name."""

    format: str
    format_version: int
    reason: str
    utc: str
    labels: tuple[str, ...]
    units: tuple[str, ...]
    states: tuple[str, ...]
    """What the numbers in `Commands.state` mean."""
    reasons: tuple[str, ...]
    """What the columns of `Commands.reasons` mean."""
    policies: tuple[str, ...]
    """What the numbers in `Chunks.policy` mean."""
    counters: dict[str, int]
    versions: dict[str, str]
    commit: str


@dataclass(frozen=True)
class States:
    """Measured states, (n,) and (n, D); NaN where one had the wrong size."""

    received_ns: NDArray[np.int64]
    stamp_ns: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True)
class Commands:
    """Commands, (n,), (n, D) and `reasons` (n, R)."""

    sent_ns: NDArray[np.int64]
    stamp_ns: NDArray[np.int64]
    chunk_stamp_ns: NDArray[np.int64]
    """Of the chunk that asked for it, NEVER_NS where none did."""
    state: NDArray[np.uint8]
    reasons: NDArray[np.bool_]
    action: NDArray[np.float64]
    requested: NDArray[np.float64]
    """NaN where nothing was asked for, or something of the wrong size."""
    requested_size: NDArray[np.int64]
    """How many elements were asked for: 0 for nothing."""


@dataclass(frozen=True)
class Chunks:
    """Chunks, (n,); `actions` (m, D) are those of all chunks, one after the other, `length` says how many each has."""

    received_ns: NDArray[np.int64]
    stamp_ns: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    period_ns: NDArray[np.int64]
    was_taken: NDArray[np.bool_]
    policy: NDArray[np.int64]
    length: NDArray[np.int64]
    actions: NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Limits of the gate, (D,); infinite where it has none, or was not told any."""

    position_low: NDArray[np.float64]
    position_high: NDArray[np.float64]
    velocity_max: NDArray[np.float64]


@dataclass(frozen=True)
class Flight:
    """A dump as it was read."""

    about: About
    states: States
    commands: Commands
    chunks: Chunks
    limits: Limits


def dump_folders(folder: Path) -> list[Path]:
    """List the dumps in a folder, oldest first by their names."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())


def pack(snapshot: Snapshot) -> dict[str, bytes]:
    """Return the files of a dump by name."""
    policies = sorted({chunk.policy_id for _, (chunk, _) in snapshot.chunks})
    dim = snapshot.spec.dim
    parts = {
        "states": _pack_states(snapshot, dim),
        "commands": _pack_commands(snapshot, dim),
        "chunks": _pack_chunks(snapshot, dim, policies),
        "limits": _pack_limits(snapshot.limits, dim),
    }
    arrays = {f"{part}.{name}": array for part, content in parts.items() for name, array in vars(content).items()}
    file = io.BytesIO()
    np.savez(file, **arrays)
    text = json.dumps(to_plain(_about(snapshot, policies)), indent=1, allow_nan=False) + "\n"
    return {ARRAYS: file.getvalue(), DOCUMENT: text.encode()}


def _about(snapshot: Snapshot, policies: Sequence[str]) -> About:
    arrays = snapshot.spec.arrays
    labels = [label for a in arrays for label in (a.labels or [f"{a.name} {i}" for i in range(a.size)])]
    units = [a.unit.split(",")[0] for a in arrays for _ in range(a.size)]
    return About(
        FORMAT, FORMAT_VERSION, snapshot.reason, snapshot.utc.isoformat(timespec="milliseconds"),
        tuple(labels), tuple(units), tuple(s.value for s in _STATES), tuple(r.value for r in _REASONS),
        tuple(policies), dict(snapshot.counters), dict(snapshot.versions), snapshot.commit,
    )  # fmt: skip


def _pack_states(snapshot: Snapshot, dim: int) -> States:
    samples = [sample for _, sample in snapshot.states]
    values = _rows([sample.value for sample in samples], dim)
    return States(_integers(sample.received_ns for sample in samples), _integers(s.stamp_ns for s in samples), values)


def _pack_commands(snapshot: Snapshot, dim: int) -> Commands:
    commands = [command for _, command in snapshot.commands]
    given = [[reason in command.reasons for reason in _REASONS] for command in _in_turns(commands)]
    return Commands(
        _integers(sent_ns for sent_ns, _ in snapshot.commands),
        _integers(c.stamp_ns for c in commands),
        _integers(NEVER_NS if c.chunk_stamp_ns is None else c.chunk_stamp_ns for c in commands),
        np.array([_STATES.index(c.state) for c in commands], np.uint8),
        np.array(given, np.bool_).reshape(-1, len(_REASONS)),
        _rows([c.action for c in commands], dim),
        _rows([c.requested for c in commands], dim),
        _integers(0 if c.requested is None else np.size(c.requested) for c in commands),
    )


def _pack_chunks(snapshot: Snapshot, dim: int, policies: Sequence[str]) -> Chunks:
    chunks = [chunk for _, (chunk, _) in snapshot.chunks]
    actions = [_rows(list(chunk.actions), dim) for chunk in chunks]
    return Chunks(
        _integers(received_ns for received_ns, _ in snapshot.chunks),
        _integers(c.stamp_ns for c in chunks),
        _integers(c.start_ns for c in chunks),
        _integers(c.period_ns for c in chunks),
        np.array([was_taken for _, (_, was_taken) in snapshot.chunks], np.bool_),
        _integers(policies.index(c.policy_id) for c in chunks),
        _integers(len(rows) for rows in actions),
        np.concatenate([np.zeros((0, dim)), *actions]),
    )


def _pack_limits(limits: SafetyLimits | None, dim: int) -> Limits:
    if limits is None:
        return Limits(np.full(dim, -np.inf), np.full(dim, np.inf), np.full(dim, np.inf))
    return Limits(np.array(limits.position_low), np.array(limits.position_high), np.array(limits.velocity_max))


def _integers(values: Iterable[int]) -> NDArray[np.int64]:
    return np.array(list(values), np.int64)


def _in_turns(items: Sequence[T]) -> Iterator[T]:
    """Yield items, and every now and then the interpreter, which the control loop of this process may wait for."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % _TURN == 0:
            time.sleep(_TURN_S)


def _rows(values: Sequence[Any], dim: int) -> NDArray[np.float64]:
    """Stack values of `dim` numbers; what is none, or no numbers, or too many, becomes a row of NaN."""
    rows = np.full((len(values), dim), np.nan)
    for row, value in zip(rows, _in_turns(values), strict=True):
        if value is not None and np.shape(value) == (dim,) and np.asarray(value).dtype.kind in "fiu":
            row[:] = value
    return rows
