"""The values that travel: observations, action chunks and commands. Time is integer nanoseconds throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """One value of one stream: when it was acquired and when it arrived (steady clock)."""

    stamp_ns: int
    received_ns: int
    value: NDArray[Any]


class Tick(NamedTuple):
    """One moment of control on both clocks: that of the stamps, which may be stepped or simulated, and the steady."""

    stamp_ns: int
    steady_ns: int


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


@dataclass(frozen=True)
class CommittedActions:
    """What the robot executes while a policy computes its next answer: the rest of the chunk in force.

    `actions` (n, dim) in physical units, one every `period_ns` from `start_ns` on. `delay_ns` is how long an answer has
    been measured to take, from the stamp of its observation until its first action is executed.
    """

    start_ns: int
    period_ns: int
    actions: NDArray[np.float64]
    delay_ns: int


class GateState(Enum):
    """What the safety gate does with requests."""

    DISARMED = "disarmed"
    """Follows the measured state; nothing passes."""
    ARMED = "armed"
    """Requests pass, within the limits."""
    HOLD = "hold"
    """Stopped, or stopping, for want of valid input; goes on by itself as soon as that is back."""
    LATCHED = "latched"
    """Stopped, or stopping, for a fault; only a new arming ends it."""


class Reason(Enum):
    """Why a command differs from what was asked for."""

    # Shortened: the request passes in part.
    POSITION_LIMIT = "position limit"
    VELOCITY_LIMIT = "velocity limit"
    ACCELERATION_LIMIT = "acceleration limit"
    TCP_SPEED = "speed limit of the TCP"
    TCP_BOX = "wall of the workspace"
    SINGULARITY = "near a singularity"
    RESIDUAL_LIMIT = "residual larger than its share"
    # Held: the arm stops, or stays.
    NOT_ARMED = "not armed"
    NO_CHUNK = "no chunk covers this time"
    STALE_CHUNK = "chunk answers an observation that is too old"
    STALE_STATE = "measured state is missing or too old"
    TRACKING_ERROR = "arm is not where it was commanded to be"
    # Refused: the request is dropped whole, the one before stays in force for a few ticks.
    NOT_FINITE = "request is not finite"
    MALFORMED = "request has the wrong size"
    JUMP = "request is too far from the command before"
    GRIPPER_RANGE = "gripper far out of its range"
    # Latched: only a new arming lets requests through again.
    FIRST_COMMAND = "first request is too far from where the arm is"
    STATE_LOST = "measured state missing for too long"
    STATE_FROZEN = "measured state does not change while the command does"
    TRACKING_LOST = "arm is far from where it was commanded to be"
    OVERSPEED = "arm is faster than it may be"
    SECOND_WRITER = "somebody else commands the arm"
    OPERATOR = "stopped by the operator"
    LATCHED = "latched until armed anew"


@dataclass(frozen=True)
class Command:
    """What is sent to the arm at `stamp_ns`, (dim,), what was asked for, and why the two differ."""

    stamp_ns: int
    action: NDArray[np.float64]
    requested: NDArray[np.float64] | None
    reasons: tuple[Reason, ...] = ()
    chunk_stamp_ns: int | None = None
    state: GateState = GateState.ARMED
