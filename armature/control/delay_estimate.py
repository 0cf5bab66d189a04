"""How long a policy takes to answer, measured at the robot."""

from __future__ import annotations

from collections import deque


class DelayEstimate:
    """The longest of the last few delays: too long an estimate costs some freedom, too short a one a jump.

    The first answer after a reset may have paid for lazy initialisation: it never counts.
    """

    def __init__(self, window: int) -> None:
        """Remember the last `window` delays, across resets."""
        self._delays_ns: deque[int] = deque(maxlen=window)
        self._is_warm = False

    def reset(self) -> None:
        """Begin an episode: the next answer does not count."""
        self._is_warm = False

    def add(self, delay_ns: int) -> None:
        """Count an answer that took `delay_ns` from the stamp of its observation to its arrival."""
        if self._is_warm:
            self._delays_ns.append(delay_ns)
        self._is_warm = True

    @property
    def longest_ns(self) -> int | None:
        """Return the estimate, or None while nothing has been measured."""
        return max(self._delays_ns, default=None)
