"""Clocks: integer nanoseconds; the steady one for watchdogs and pacing, a simulated one for tests and rollouts."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time that can also wait."""

    def now_ns(self) -> int:
        """Return the present time [ns]."""
        ...

    def sleep_until(self, deadline_ns: int) -> None:
        """Return at `deadline_ns`, or at once when it has passed."""
        ...


class SteadyClock:
    """The operating system's monotonic clock: never stepped by NTP or by an operator."""

    def now_ns(self) -> int:
        """Return nanoseconds since an arbitrary fixed point."""
        return time.monotonic_ns()

    def sleep_until(self, deadline_ns: int) -> None:
        """Sleep to an absolute deadline, so that periods do not drift."""
        while (left_ns := deadline_ns - self.now_ns()) > 0:
            time.sleep(left_ns / 1e9)


class SimulatedClock:
    """A clock that moves only when told to."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """Return the simulated time [ns]."""
        return self._now_ns

    def sleep_until(self, deadline_ns: int) -> None:
        """Jump to the deadline."""
        self._now_ns = max(self._now_ns, deadline_ns)
