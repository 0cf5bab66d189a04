"""What a dump says, in words and figures: the terminal and the page show the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from armature.types import Reason
from armature_ros.flight_dump import NEVER_NS, Flight

UNKNOWN = "\N{EN DASH}"
ROUNDING = 1e-9


@dataclass(frozen=True)
class ReasonRow:
    """How often a reason was given, and when first and last [s before the end]."""

    reason: str
    commands: int
    first_s: float
    last_s: float


@dataclass(frozen=True)
class StateChange:
    """From when on the gate was in a state, and what it gave as reasons then."""

    at_s: float
    state: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ElementRow:
    """The extremes of one element of the action, in its unit."""

    label: str
    unit: str
    velocity_max: float
    commanded_speed: float
    measured_speed: float
    cut: float
    """Largest distance of what was asked for from what was sent."""
    tracking: float
    """Largest distance of what was measured from what had been sent."""


@dataclass(frozen=True)
class TickRow:
    """One command; figures are None where there was nothing to compare."""

    at_s: float
    state: str
    reasons: tuple[str, ...]
    asked: str
    cut: float | None
    cut_label: str
    tracking: float | None
    tracking_label: str
    chunk_age_s: float | None
    state_age_s: float | None


class FlightSummary:
    """Figures of a dump. Times count from its newest record, in seconds, so that they are negative."""

    def __init__(self, flight: Flight) -> None:
        self.flight = flight
        self.about = flight.about
        times = (flight.states.received_ns, flight.commands.sent_ns, flight.chunks.received_ns)
        newest = [int(part[-1]) for part in times if len(part)]
        self._end_ns = max(newest, default=0)
        self.state_s, self.command_s, self.chunk_s = (self.seconds(part) for part in times)
        starts = [float(part[0]) for part in (self.command_s, self.state_s, self.chunk_s) if len(part)]
        self.begin_s = starts[0] if starts else 0.0
        named = self.about.reason.upper() in Reason.__members__
        self.title = Reason[self.about.reason.upper()].value if named else self.about.reason

    def seconds(self, times_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return times of the loop's clock [s before the end]."""
        return (times_ns - self._end_ns) / 1e9

    @cached_property
    def period_s(self) -> float:
        """Return the time between two commands by their stamps: their median distance."""
        stamps_ns = self.flight.commands.stamp_ns
        return float(np.median(np.diff(stamps_ns))) / 1e9 if len(stamps_ns) > 1 else 0.0

    @cached_property
    def commanded_velocity(self) -> NDArray[np.float64]:
        """Return the velocity (n, D) that each command asks of the arm; NaN for the first."""
        action = self.flight.commands.action
        velocity = np.full(action.shape, np.nan)
        if self.period_s > 0:
            velocity[1:] = np.diff(action, axis=0) / self.period_s
        return velocity

    @cached_property
    def measured_velocity(self) -> NDArray[np.float64]:
        """Return the velocity (n, D) between the measured states; NaN where two have the same stamp."""
        states = self.flight.states
        velocity = np.full(states.value.shape, np.nan)
        elapsed_s = np.diff(states.stamp_ns) / 1e9
        np.divide(np.diff(states.value, axis=0), elapsed_s[:, None], out=velocity[1:], where=elapsed_s[:, None] > 0)
        return velocity

    @cached_property
    def tracking(self) -> NDArray[np.float64]:
        """Return how far each measured state (n, D) is from the command before it; NaN before the first."""
        latest = np.searchsorted(self.command_s, self.state_s, side="right") - 1
        before = np.full(self.flight.states.value.shape, np.nan)
        before[latest >= 0] = self.flight.commands.action[latest[latest >= 0]]
        return self.flight.states.value - before

    def chunk_counts(self) -> tuple[int, int]:
        """Return how many chunks came, and how many of them were of no use."""
        was_taken = self.flight.chunks.was_taken
        return len(was_taken), int((~was_taken).sum())

    def cards(self) -> list[tuple[str, str, str]]:
        """Return name, figure and explanation of what matters most."""
        commands, chunks = self.flight.commands, self.chunk_counts()
        last_state = self.about.states[commands.state[-1]] if len(commands.state) else UNKNOWN
        rate = f"one every {1e3 * self.period_s:.3g} ms" if self.period_s else "no rate"
        silence = f"the last {-self.state_s[-1] * 1e3:.0f} ms before the end" if len(self.state_s) else "none came"
        answer = f"the last {-self.chunk_s[-1] * 1e3:.0f} ms before the end" if len(self.chunk_s) else "none came"
        return [
            ("State at the end", last_state, f"{-self.begin_s:.2f} s recorded"),
            ("Commands", str(len(self.command_s)), rate),
            ("Measured states", str(len(self.state_s)), silence),
            ("Chunks", str(chunks[0]), f"{answer}; {chunks[1]} of no use" if chunks[1] else answer),
        ]

    def changes(self) -> list[StateChange]:
        """List when the state of the gate changed, its first state included."""
        state = self.flight.commands.state
        firsts = [i for i in range(len(state)) if i == 0 or state[i] != state[i - 1]]
        return [StateChange(float(self.command_s[i]), self.about.states[state[i]], self._reasons(i)) for i in firsts]

    def reasons(self) -> list[ReasonRow]:
        """List the reasons that were given, in the order in which they came up."""
        found = []
        for column, reason in enumerate(self.about.reasons):
            at_s = self.command_s[self.flight.commands.reasons[:, column]]
            if len(at_s):
                found.append(ReasonRow(reason, len(at_s), float(at_s[0]), float(at_s[-1])))
        return sorted(found, key=lambda row: row.first_s)

    def elements(self) -> list[ElementRow]:
        """List the extremes of every element."""
        commands = self.flight.commands
        tables = (self.commanded_velocity, self.measured_velocity, commands.requested - commands.action, self.tracking)
        extremes = np.stack([_largest(table) for table in tables], axis=1)
        limits = self.flight.limits.velocity_max
        return [
            ElementRow(label, unit, float(limit), *row)
            for label, unit, limit, row in zip(
                self.about.labels, self.about.units, limits, extremes.tolist(), strict=True
            )
        ]

    def ticks(self, count: int) -> list[TickRow]:
        """List the last `count` commands, oldest first."""
        total = len(self.command_s)
        return [self._tick(i) for i in range(max(0, total - count), total)]

    def stretches(self, mask: NDArray[np.bool_]) -> list[tuple[float, float]]:
        """Return begin and duration [s] of the stretches of commands for which `mask` (n,) holds."""
        edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
        ends_s = np.append(self.command_s, self.command_s[-1:] + self.period_s)
        return [(float(ends_s[a]), float(ends_s[b] - ends_s[a])) for a, b in list(pairwise(edges))[::2]]

    def _reasons(self, index: int) -> tuple[str, ...]:
        return tuple(self.about.reasons[k] for k in np.flatnonzero(self.flight.commands.reasons[index]))

    def _tick(self, index: int) -> TickRow:
        commands, at_s = self.flight.commands, float(self.command_s[index])
        cut, cut_label = self._extreme(commands.requested[index] - commands.action[index])
        newest = int(np.searchsorted(self.state_s, at_s, side="right")) - 1
        tracking, tracking_label = self._extreme(self.tracking[newest]) if newest >= 0 else (None, UNKNOWN)
        answered_ns = int(commands.chunk_stamp_ns[index])
        return TickRow(
            at_s, self.about.states[commands.state[index]], self._reasons(index), self._asked(index),
            cut, cut_label, tracking, tracking_label,
            None if answered_ns == NEVER_NS else (int(commands.stamp_ns[index]) - answered_ns) / 1e9,
            at_s - float(self.state_s[newest]) if newest >= 0 else None,
        )  # fmt: skip

    def _asked(self, index: int) -> str:
        size, requested = int(self.flight.commands.requested_size[index]), self.flight.commands.requested[index]
        if size != len(requested):
            return f"{size} elements, not {len(requested)}" if size else "nothing"
        faulty = [label for label, x in zip(self.about.labels, requested, strict=True) if not np.isfinite(x)]
        return f"not finite: {', '.join(faulty)}" if faulty else ""

    def _extreme(self, row: NDArray[np.float64]) -> tuple[float | None, str]:
        finite = np.where(np.isfinite(row), np.abs(row), -1.0)
        k = int(finite.argmax())
        return (float(finite[k]), self.about.labels[k]) if finite[k] > ROUNDING else (None, UNKNOWN)


def _largest(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest magnitude of every column; NaN where it has none."""
    finite = np.where(np.isfinite(table), np.abs(table), np.nan)
    return np.fmax.reduce(finite, axis=0, initial=np.nan)
