"""When the tick of a joint state is due in lockstep: at once, or as soon as what it waits for is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from armature.control.control_path import ControlPath
from armature_ros.control_corrections import ControlCorrections

CHUNK, CORRECTION = "chunk", "correction"
_THEN = {CHUNK: "the arm holds", CORRECTION: "base actions pass alone, and wait for none until one comes"}


@dataclass(frozen=True)
class _Wait:
    """The tick of `stamp_ns` waits for a chunk or a correction, until `until_ns` of the steady clock."""

    what: str
    stamp_ns: int
    until_ns: int


class LockstepTicks:
    """Holds back one tick until its chunk, and its correction where there is a residual, have come or time is up.

    What did not come in time is waited for no more until one comes.
    """

    def __init__(
        self,
        path: ControlPath,
        corrections: ControlCorrections | None,
        timeouts_s: dict[str, float],
        tick: Callable[[int], None],
        warn: Callable[[str], object],
    ) -> None:
        """`timeouts_s` by CHUNK and CORRECTION; `tick(stamp_ns)` is called when a tick is due."""
        self._path, self._corrections, self._timeouts_s = path, corrections, timeouts_s
        self._tick, self._warn = tick, warn
        self._wait: _Wait | None = None
        self._silent: set[str] = set()

    def reset(self) -> None:
        """Drop the tick that waits; a policy that was silent may be asked again."""
        self._wait = None
        self._silent.discard(CHUNK)

    def begin(self, stamp_ns: int) -> None:
        """Take the next joint state."""
        if self._path.is_driving and CHUNK not in self._silent and self._path.needs_chunk(stamp_ns):
            self._wait_for(CHUNK, stamp_ns)
        else:
            self._correct(stamp_ns)

    def on_chunk(self) -> None:
        """Go on where the newest chunk was waited for."""
        self._silent.discard(CHUNK)
        wait = self._wait
        if wait is not None and wait.what == CHUNK and not self._path.needs_chunk(wait.stamp_ns):
            self._correct(wait.stamp_ns)

    def on_correction(self) -> None:
        """Go on where the newest correction was waited for."""
        self._silent.discard(CORRECTION)
        wait, corrections = self._wait, self._corrections
        if wait is None or wait.what != CORRECTION or corrections is None:
            return
        if corrections.residual.is_answered(wait.stamp_ns):
            self._end(wait.stamp_ns)

    def give_up_late(self) -> None:
        """Go on without what has not come in time."""
        wait = self._wait
        if wait is None or time.monotonic_ns() <= wait.until_ns:
            return
        self._silent.add(wait.what)
        self._warn(f"no {wait.what} for {self._timeouts_s[wait.what]} s: {_THEN[wait.what]}")
        (self._correct if wait.what == CHUNK else self._end)(wait.stamp_ns)

    def _correct(self, stamp_ns: int) -> None:
        """Ask for the correction of what the scheduler has for this tick."""
        corrections = self._corrections if self._path.is_driving else None
        planned = None if corrections is None else self._path.scheduled(stamp_ns)
        if corrections is None or planned is None:
            self._end(stamp_ns)
            return
        corrections.ask(stamp_ns, planned)
        if CORRECTION in self._silent:
            self._end(stamp_ns)
        else:
            self._wait_for(CORRECTION, stamp_ns)

    def _wait_for(self, what: str, stamp_ns: int) -> None:
        self._wait = _Wait(what, stamp_ns, time.monotonic_ns() + round(self._timeouts_s[what] * 1e9))

    def _end(self, stamp_ns: int) -> None:
        self._wait = None
        self._tick(stamp_ns)
