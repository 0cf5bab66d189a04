"""The values that travel: observations, action chunks and commands. Time is integer nanoseconds throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """One value of one stream: when it was acquired and when it arrived (steady clock)."""

    stamp_ns: int
    received_ns: int
    value: NDArray[Any]


@dataclass(frozen=True)
class Observation:
    """Aligned arrays, each (obs_steps, *shape), oldest first; `stamp_ns` is the time of the last step."""

    stamp_ns: int
    values: Mapping[str, NDArray[Any]]

    def latest(self) -> dict[str, NDArray[Any]]:
        """Return the last step of every array."""
        return {name: value[-1] for name, value in self.values.items()}


@dataclass(frozen=True)
class ActionChunk:
    """A policy's answer: `actions` (chunk_steps, dim) in physical units, one every `period_ns` from `start_ns` on.

    `stamp_ns` is the stamp of the observation that it answers.
    """

    stamp_ns: int
    start_ns: int
    period_ns: int
    actions: NDArray[np.float64]
    policy_id: str = ""
    sequence: int = 0
    diagnostics: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def end_ns(self) -> int:
        """Return the time at which the last action has been executed."""
        return self.start_ns + len(self.actions) * self.period_ns


class Reason(Enum):
    """Why a command differs from what was asked for."""

    NO_CHUNK = "no chunk covers this time"
    STALE_STATE = "measured state is missing or too old"
    NOT_FINITE = "request is not finite"
    MALFORMED = "request has the wrong size"
    POSITION_LIMIT = "position limit"
    VELOCITY_LIMIT = "velocity limit"
    STEP_LIMIT = "step limit"
    NOT_ARMED = "not armed"


@dataclass(frozen=True)
class Command:
    """What is sent to the arm at `stamp_ns`, (dim,), what was asked for, and why the two differ."""

    stamp_ns: int
    action: NDArray[np.float64]
    requested: NDArray[np.float64] | None
    reasons: tuple[Reason, ...] = ()
    chunk_stamp_ns: int | None = None
