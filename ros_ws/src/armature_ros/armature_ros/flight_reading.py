"""Reads the dump of a flight recorder, whoever wrote it: nothing in it is run, and what does not fit is named."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from armature.config import from_plain
from armature.errors import ArmatureError, ConfigError
from armature_ros.flight_dump import (
    ARRAYS,
    DOCUMENT,
    FORMAT,
    FORMAT_VERSION,
    PREFIX,
    About,
    Chunks,
    Commands,
    Flight,
    Limits,
    States,
    dump_folders,
)

P = TypeVar("P", States, Commands, Chunks, Limits)

BYTES_MAX = 512 * 2**20
"""Of the arrays of a dump that is read; one of 5 s has a few megabytes at most."""
_PARTS: dict[str, type] = {"states": States, "commands": Commands, "chunks": Chunks, "limits": Limits}
_WIDE = frozenset({"states.value", "commands.action", "commands.requested", "chunks.actions"})


class FlightError(ArmatureError):
    """A dump is absent, incomplete or damaged."""


def read_flight(path: Path) -> Flight:
    """Read a dump, or the newest of a folder of dumps; raise FlightError naming what is absent, damaged or not known.

    Nothing in it is run, whoever wrote it.
    """
    path = find_dump(path)
    about = _read_about(path / DOCUMENT)
    file = path / ARRAYS
    arrays = _read_arrays(file)
    parts = {part: _part(file, cls, part, arrays) for part, cls in _PARTS.items()}
    if arrays:
        raise FlightError(f"{file}: has an unknown array {min(arrays)}")
    flight = Flight(about, **parts)
    _check_numbers(file, flight)
    return flight


def find_dump(path: Path) -> Path:
    """Return `path` where it is a dump, else the newest one in it; raise FlightError when there is none."""
    if not path.is_dir():
        raise FlightError(f"{path}: there is no such folder")
    if (path / DOCUMENT).exists() or (path / ARRAYS).exists():
        return path
    if not (found := dump_folders(path)):
        raise FlightError(f"{path}: holds neither {DOCUMENT} nor folders named {PREFIX}*")
    return found[-1]


def _read_about(file: Path) -> About:
    try:
        data = json.loads(file.read_bytes())
        if isinstance(data, dict) and (data.get("format"), data.get("format_version")) != (FORMAT, FORMAT_VERSION):
            found = f"{data.get('format')} {data.get('format_version')}"
            raise FlightError(f"{file}: format {found}, this version reads {FORMAT} {FORMAT_VERSION}")
        return from_plain(About, data)
    except OSError as error:
        raise FlightError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, ConfigError) as error:
        raise FlightError(f"{file}: is no description of a dump: {error}") from error


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > BYTES_MAX:
            raise FlightError(f"{file}: would need {size} bytes, at most {BYTES_MAX} are read")
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except OSError as error:
        raise FlightError(f"{file}: cannot be read: {error.strerror or error}") from error
    except FlightError:
        raise
    except Exception as error:
        # What spoilt bytes make of two parsers has no end of names.
        raise FlightError(f"{file}: damaged: {type(error).__name__}: {error}") from error


def _part(file: Path, cls: type[P], part: str, arrays: dict[str, NDArray[Any]]) -> P:
    """Take the arrays of a part out of `arrays`."""
    names = [field.name for field in fields(cls)]
    if missing := [name for name in names if f"{part}.{name}" not in arrays]:
        raise FlightError(f"{file}: lacks {part}.{missing[0]}")
    return cls(**{name: arrays.pop(f"{part}.{name}") for name in names})


def _check_numbers(file: Path, flight: Flight) -> None:
    """Raise FlightError unless all arrays have the kinds and shapes that belong together."""
    about, lengths = flight.about, flight.chunks.length
    if len(about.units) != len(about.labels):
        raise FlightError(f"{file}: {len(about.labels)} labels, {len(about.units)} units")
    actions = int(lengths.sum()) if lengths.dtype.kind in "iu" and (lengths >= 0).all() else -1
    rows = {"states": flight.states.received_ns.size, "commands": flight.commands.sent_ns.size,
            "chunks": flight.chunks.received_ns.size, "limits": len(about.labels)}  # fmt: skip
    for part, cls in _PARTS.items():
        for field in fields(cls):
            name, array = f"{part}.{field.name}", getattr(getattr(flight, part), field.name)
            shape = (actions if name == "chunks.actions" else rows[part],)
            if name in _WIDE:
                shape += (len(about.labels),)
            elif name == "commands.reasons":
                shape += (len(about.reasons),)
            kind = "f" if "float" in str(field.type) else "b" if "bool" in str(field.type) else "iu"
            if array.shape != shape or array.dtype.kind not in kind:
                raise FlightError(f"{file}: {name} is {array.dtype} {array.shape}, expected kind {kind} {shape}")
    _check_indices(file, "commands.state", flight.commands.state, about.states)
    _check_indices(file, "chunks.policy", flight.chunks.policy, about.policies)


def _check_indices(file: Path, name: str, indices: NDArray[Any], names: Sequence[str]) -> None:
    if len(indices) and not 0 <= indices.min() <= indices.max() < len(names):
        raise FlightError(f"{file}: {name} goes up to {indices.max()}, there are {len(names)} names")
