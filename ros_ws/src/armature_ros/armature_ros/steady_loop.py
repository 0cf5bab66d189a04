"""Calls a function at a fixed rate on a thread of its own, by absolute deadlines of the steady clock."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

# How long another thread may keep Python's lock while this one is due; the default would be half a tick at 100 Hz.
SWITCH_INTERVAL_S = 0.0005
READINGS_MAX, APART_MAX_NS = 3, 200_000
"""So often two clocks are read until they were read together, without another process between the two."""


def stamp_of(steady_ns: int, clock: Callable[[], int]) -> int:
    """Return what `clock` [ns] said at a moment of the steady clock."""
    for _ in range(READINGS_MAX):
        before_ns = time.monotonic_ns()
        stamp_ns = clock()
        if time.monotonic_ns() - before_ns < APART_MAX_NS:
            break
    return stamp_ns - (before_ns - steady_ns)


class SteadyLoop:
    """Ticks until it is stopped; what `tick` raises ends the loop and is kept in `failure`."""

    def __init__(self, period_ns: int, tick: Callable[[int], None]) -> None:
        """`tick` gets its deadline [ns, steady clock], so that its time does not carry the jitter of the sleep."""
        self.ticks = 0
        self.overruns = 0
        """Deadlines that passed without a tick."""
        self.last_ns = time.monotonic_ns()
        """When the last tick was over [ns, steady clock]."""
        self.failure: Exception | None = None
        self._period_ns = period_ns
        self._tick = tick
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Begin to tick."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._thread.start()

    def stop(self) -> None:
        """Return when the last tick is over."""
        self._ends.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        try:
            deadline_ns = time.monotonic_ns() + self._period_ns
            while not self._ends.is_set():
                deadline_ns = self._sleep_until(deadline_ns)
                self._tick(deadline_ns)
                self.ticks += 1
                self.last_ns = time.monotonic_ns()
                deadline_ns += self._period_ns
        except Exception as error:
            # The node's main thread ends the process with it.
            self.failure = error

    def _sleep_until(self, deadline_ns: int) -> int:
        """Sleep; return the deadline that is now: ticks that were missed are not made up for, but counted."""
        while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)
        missed = -left_ns // self._period_ns
        self.overruns += missed
        return deadline_ns + missed * self._period_ns
