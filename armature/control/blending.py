"""A chunk in force: its actions by time, and the offset with which it took over, faded out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from armature.types import ActionChunk


@dataclass(frozen=True)
class Offset:
    """How far (D,) the schedule before a chunk was from it at `switch_ns`; nothing is left after `fade_ns`."""

    value: NDArray[np.float64]
    switch_ns: int
    fade_ns: int

    def at(self, now_ns: int) -> NDArray[np.float64]:
        """Return what is left of the offset (D,)."""
        return self.value * fade((now_ns - self.switch_ns) / self.fade_ns)


@dataclass(frozen=True)
class Plan:
    """A chunk, and its offset where it is blended with the schedule before it."""

    chunk: ActionChunk
    offset: Offset | None = None

    def at(self, now_ns: int) -> NDArray[np.float64]:
        """Return the action (D,) at a time that the chunk covers."""
        action = interpolate(self.chunk, now_ns)
        return action if self.offset is None else action + self.offset.at(now_ns)


def fade(share: float) -> float:
    """Fall from 1 at 0 to 0 at 1 along the path of least jerk: no speed and no acceleration at either end."""
    u = min(max(share, 0.0), 1.0)
    return 1 - u**3 * (10 - 15 * u + 6 * u**2)


def interpolate(chunk: ActionChunk, now_ns: int) -> NDArray[np.float64]:
    """Return the chunk's action at a time that it covers: exact at its steps, linear between, the last one held."""
    index, rest_ns = divmod(now_ns - chunk.start_ns, chunk.period_ns)
    action = np.array(chunk.actions[index], dtype=np.float64)
    if rest_ns == 0 or index + 1 == len(chunk.actions):
        return action
    return action + rest_ns / chunk.period_ns * (chunk.actions[index + 1] - action)
