"""Normalisation of named vectors: statistics per field and the affine map from physical units to normalised ones.

It is part of a checkpoint: a missing field is an error, never a silent identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from armature.config import from_plain, to_plain
from armature.errors import ConfigError, InvalidValue, MissingStatistics, unknown

Mode = Literal["limits", "gaussian", "identity"]

SMALLEST_SPREAD = 5e-5
"""A dimension with a smaller half range or deviation (0.05 mm, 0.05 mrad) is noise, which scaling would blow up."""


@dataclass(frozen=True)
class FieldStats:
    """Statistics of one field over a dataset, one float per dimension, in physical units."""

    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, array: NDArray[Any]) -> FieldStats:
        """Compute the statistics of `array` (N, D); raise InvalidValue when it is empty, not 2-D or not finite."""
        if array.ndim != 2 or len(array) == 0:
            raise InvalidValue(f"statistics need a non-empty array (N, D), got shape {array.shape}")
        if not np.isfinite(array).all():
            raise InvalidValue(f"statistics need finite values; not finite in rows {_rows_not_finite(array)}")
        x = array.astype(np.float64)
        moments = (x.min(axis=0), x.max(axis=0), x.mean(axis=0), x.std(axis=0))
        return cls(*(tuple(m.tolist()) for m in moments), count=len(x))

    def fault(self) -> str:
        """Say what makes these no statistics of anything, or return an empty text."""
        moments = {"minimum": self.minimum, "maximum": self.maximum, "mean": self.mean, "std": self.std}
        for name, values in moments.items():
            if len(values) != len(self.minimum):
                return f"{name} has {len(values)} elements, minimum {len(self.minimum)}"
            if not all(map(math.isfinite, values)):
                return f"{name} is not finite"
        if any(low > high for low, high in zip(self.minimum, self.maximum, strict=True)):
            return f"minimum {self.minimum} is above maximum {self.maximum}"
        if min(self.std, default=0.0) < 0 or self.count < 1:
            return f"std {self.std} of {self.count} rows"
        return ""


class Affine(NamedTuple):
    """The map y = x * scale + offset, each (D,) and read-only."""

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]


@dataclass(frozen=True)
class Normalizer:
    """Statistics and mode per field: `limits` maps [min, max] to [-1, 1], `gaussian` to mean 0 and deviation 1."""

    fields: dict[str, FieldStats]
    modes: dict[str, Mode]

    def __post_init__(self) -> None:
        if set(self.fields) != set(self.modes):
            raise ConfigError(f"normaliser statistics are for {sorted(self.fields)}, modes for {sorted(self.modes)}")
        for name, stats in self.fields.items():
            if fault := stats.fault():
                raise ConfigError(f"normaliser statistics of {name}: {fault}")
        for name, mode in self.modes.items():
            if mode not in _AFFINE_OF:
                raise ConfigError(unknown(f"normaliser mode of {name}:", mode, _AFFINE_OF))

    def affine(self, name: str) -> Affine:
        """Return (scale, offset) of a field; raise MissingStatistics when the field is not known."""
        if name not in self.fields:
            raise MissingStatistics(unknown("normaliser field", name, self.fields))
        return _AFFINE_OF[self.modes[name]](self.fields[name])

    def apply(self, name: str, x: NDArray[Any]) -> NDArray[np.float64]:
        """Map `x` (..., D) from physical units to normalised ones."""
        scale, offset = self._affine_for(name, x)
        return x * scale + offset

    def invert(self, name: str, y: NDArray[Any]) -> NDArray[np.float64]:
        """Map `y` (..., D) from normalised to physical units; inverse of `apply`."""
        scale, offset = self._affine_for(name, y)
        return (y - offset) / scale

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; inverse of `from_json`."""
        return to_plain(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Normalizer:
        """Rebuild a normaliser from `to_json` data; raise ConfigError on unknown or missing keys."""
        return from_plain(cls, data)

    def _affine_for(self, name: str, x: NDArray[Any]) -> Affine:
        affine = self.affine(name)
        if x.shape[-1:] != affine.scale.shape:
            raise InvalidValue(f"{name}: shape {x.shape}, expected (..., {len(affine.scale)})")
        return affine


def _limits(stats: FieldStats) -> Affine:
    low, high = np.asarray(stats.minimum), np.asarray(stats.maximum)
    return _centred((low + high) / 2, (high - low) / 2)


def _gaussian(stats: FieldStats) -> Affine:
    return _centred(np.asarray(stats.mean), np.asarray(stats.std))


def _identity(stats: FieldStats) -> Affine:
    return _centred(np.zeros(len(stats.mean)), np.ones(len(stats.mean)))


_AFFINE_OF = {"limits": _limits, "gaussian": _gaussian, "identity": _identity}


def _centred(centre: NDArray[np.float64], spread: NDArray[np.float64]) -> Affine:
    scale = 1 / np.where(spread < SMALLEST_SPREAD, 1.0, spread)
    affine = Affine(scale, -centre * scale)
    for array in affine:
        array.setflags(write=False)
    return affine


def _rows_not_finite(array: NDArray[Any]) -> list[int]:
    return np.flatnonzero(~np.isfinite(array).all(axis=1))[:10].tolist()
