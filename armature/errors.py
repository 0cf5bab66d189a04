"""Errors that name the offender, the value, the limit and the valid choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class ArmatureError(Exception):
    """A mistake of the user or of the input: the command line prints it as one line and exits with 2."""


class ConfigError(ArmatureError):
    """A configuration names something that does not exist or holds a value that is not allowed."""


class SpecMismatch(ArmatureError):
    """Two specs that have to agree do not; the message lists the differing fields."""


class InvalidValue(ArmatureError):
    """An array is not what its spec says: shape, dtype, range or not finite."""


class MissingStatistics(ArmatureError):
    """A normaliser has no statistics for a field."""


class CheckpointError(ArmatureError):
    """A checkpoint is absent, incomplete, damaged or of another family."""


class DatasetError(ArmatureError):
    """A dataset is absent, damaged, locked or empty."""


def unknown(kind: str, name: object, choices: Iterable[object]) -> str:
    """Word the one-line message for an unknown name: what was asked for, the nearest and all valid names.

    A key of a YAML file need not be text: `on` is True there.
    """
    known = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}'.{hint} Valid: {', '.join(known) or '(none)'}"


def beside(path: Path, marker: str) -> str:
    """Word the valid choices for a folder that is not there: those beside it that hold the file `marker`."""
    found = sorted(str(file.parent) for file in path.parent.glob(f"*/{marker}"))
    return f"Valid beside it: {', '.join(found) or '(none)'}"
