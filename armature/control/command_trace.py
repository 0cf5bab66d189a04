"""Where the arm was told to be a moment ago: what a chunk that displaces the tool goes out from."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque

import numpy as np
from numpy.typing import NDArray

from armature.types import Command


class CommandTrace:
    """The commands of the last `span_s` seconds, one every `period_ns`, by their stamps. Used by one thread."""

    def __init__(self, span_s: float, period_ns: int) -> None:
        self._commands: deque[Command] = deque(maxlen=math.ceil(span_s * 1e9 / period_ns) + 1)

    def add(self, command: Command) -> None:
        """Take the command that was sent last; one that is not newer than the others begins anew."""
        if self._commands and command.stamp_ns <= self._commands[-1].stamp_ns:
            self._commands.clear()
        self._commands.append(command)

    def clear(self) -> None:
        """Forget all commands."""
        self._commands.clear()

    def at(self, time_ns: int) -> NDArray[np.float64] | None:
        """Return the command (D,) at a time, linear between two, the nearest beyond all; None where there is none."""
        if not self._commands:
            return None
        after = bisect_left(self._commands, time_ns, key=lambda command: command.stamp_ns)
        begin, end = self._commands[max(after - 1, 0)], self._commands[min(after, len(self._commands) - 1)]
        if begin is end or time_ns == end.stamp_ns:
            return end.action
        share = (time_ns - begin.stamp_ns) / (end.stamp_ns - begin.stamp_ns)
        return begin.action + share * (end.action - begin.action)
