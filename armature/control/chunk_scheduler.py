"""From chunks of actions to one action per tick, by time: late chunks lose the actions whose time has passed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, unknown
from armature.types import ActionChunk

SchedulerMode = Literal["receding_horizon", "temporal_ensemble"]


@dataclass(frozen=True)
class SchedulerConfig:
    """How chunks become actions: the newest alone, or the weighted mean of all that cover the tick (ACT)."""

    mode: SchedulerMode
    execute_steps: int
    """How many actions of a chunk are executed before the next one is asked for."""
    ensemble_decay: float = 0.01
    """Weight exp(-decay * i) of the i-th chunk counted from the oldest; ACT calls it m."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(SchedulerMode):
            raise ConfigError(unknown("scheduler mode", self.mode, get_args(SchedulerMode)))
        if not self.execute_steps >= 1:
            raise ConfigError(f"execute_steps is {self.execute_steps}, must be at least 1")
        if not (self.ensemble_decay >= 0 and math.isfinite(self.ensemble_decay)):
            raise ConfigError(f"ensemble_decay is {self.ensemble_decay}, must be finite and not negative")


@dataclass(frozen=True)
class ScheduledAction:
    """One action (D,) in physical units and the observation stamp of the newest chunk that it comes from."""

    action: NDArray[np.float64]
    chunk_stamp_ns: int


class ChunkScheduler:
    """Holds the chunks that may still be due. All times are on the clock of the observation stamps.

    Example: period 50 ms, chunk A stamped and starting at 0, chunk B at 400, arriving at 470. Until 470 A is executed;
    at 500 B wins with its third action (index (500 - 400) / 50 = 2), and B's first two are never executed.
    A chunk whose start lies ahead leaves its predecessor in force until then.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.dropped: Counter[str] = Counter()
        self._chunks: list[ActionChunk] = []
        self._newest_stamp_ns = -1

    def reset(self, begin_ns: int = 0) -> None:
        """Forget all chunks and refuse, from now on, chunks that answer an observation before `begin_ns`."""
        self._chunks.clear()
        self._newest_stamp_ns = begin_ns - 1

    def push(self, chunk: ActionChunk) -> bool:
        """Take a chunk; return False, counting it in `dropped`, when it is malformed or not newer than the newest."""
        if not self._is_well_formed(chunk):
            self.dropped["malformed"] += 1
            return False
        if chunk.stamp_ns <= self._newest_stamp_ns:
            self.dropped["not newer"] += 1
            return False
        # The new observation lies in the past, so a chunk that ended before it can never be due again.
        self._chunks = [old for old in self._chunks if old.end_ns > chunk.stamp_ns] + [chunk]
        self._newest_stamp_ns = chunk.stamp_ns
        return True

    def needs_chunk(self, now_ns: int) -> bool:
        """Tell whether `execute_steps` of the newest chunk have passed, or all of it, or there is none."""
        if not self._chunks:
            return True
        newest = self._chunks[-1]
        steps = min(self.config.execute_steps, len(newest.actions))
        return now_ns >= newest.start_ns + steps * newest.period_ns

    def action_at(self, now_ns: int) -> ScheduledAction | None:
        """Return the action due at `now_ns`, or None when no chunk covers this time."""
        begun = [chunk for chunk in self._chunks if chunk.start_ns <= now_ns]
        if self.config.mode == "receding_horizon":
            begun = begun[-1:]
        covering = [chunk for chunk in begun if now_ns < chunk.end_ns]
        if not covering:
            return None
        return ScheduledAction(self._mean_at(covering, now_ns), covering[-1].stamp_ns)

    def _is_well_formed(self, chunk: ActionChunk) -> bool:
        if chunk.actions.ndim != 2 or len(chunk.actions) == 0 or chunk.period_ns <= 0:
            return False
        return not self._chunks or chunk.actions.shape[1] == self._chunks[-1].actions.shape[1]

    def _mean_at(self, chunks: list[ActionChunk], now_ns: int) -> NDArray[np.float64]:
        if len(chunks) == 1:
            return _interpolate(chunks[0], now_ns)
        weights = np.exp(-self.config.ensemble_decay * np.arange(len(chunks)))
        actions = np.stack([_interpolate(chunk, now_ns) for chunk in chunks])
        return weights @ actions / weights.sum()


def _interpolate(chunk: ActionChunk, now_ns: int) -> NDArray[np.float64]:
    """Return the chunk's action at a time that it covers: exact at its steps, linear between, the last one held."""
    index, rest_ns = divmod(now_ns - chunk.start_ns, chunk.period_ns)
    action = np.array(chunk.actions[index], dtype=np.float64)
    if rest_ns == 0 or index + 1 == len(chunk.actions):
        return action
    return action + rest_ns / chunk.period_ns * (chunk.actions[index + 1] - action)
