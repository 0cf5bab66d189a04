"""From chunks of actions to one action per tick, by time: late chunks lose the actions whose time has passed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from armature.control.blending import Offset, Plan
from armature.control.delay_estimate import DelayEstimate
from armature.errors import ConfigError, unknown
from armature.types import ActionChunk, CommittedActions

SchedulerMode = Literal["receding_horizon", "temporal_ensemble", "blend", "real_time_chunking"]


@dataclass(frozen=True)
class SchedulerConfig:
    """How chunks become actions.

    receding_horizon    the newest chunk alone, from its arrival on
    temporal_ensemble   the weighted mean of all chunks that cover the tick (Zhao et al. 2023, ACT)
    blend               the newest, and its offset to the schedule before it, which fades out: for any policy
    real_time_chunking  as blend, of a policy that is told what it has to go on from (Black et al. 2025): little is left
                        to blend; blend_s 0 switches at once, as published
    """

    mode: SchedulerMode
    execute_steps: int
    """How many actions of a chunk are executed before the next one is asked for."""
    ensemble_decay: float = 0.01
    """Weight exp(-decay * i) of the i-th chunk counted from the oldest; ACT calls it m."""
    blend_s: float = 0.2
    """How long the offset to a new chunk takes to fade out."""
    delay_window: int = 10
    """How many of the last answers the delay estimate is the longest of."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(SchedulerMode):
            raise ConfigError(unknown("scheduler mode", self.mode, get_args(SchedulerMode)))
        for name in ("execute_steps", "delay_window"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not (self.ensemble_decay >= 0 and math.isfinite(self.ensemble_decay)):
            raise ConfigError(f"ensemble_decay is {self.ensemble_decay}, must be finite and not negative")
        if not (self.blend_s >= 0 and math.isfinite(self.blend_s)):
            raise ConfigError(f"blend_s is {self.blend_s}, must be finite and not negative")
        if self.mode == "blend" and not self.fade_ns > 0:
            raise ConfigError(f"blend_s is {self.blend_s}, must be positive in mode blend")

    @property
    def fade_ns(self) -> int:
        """Return how long the offset to a new chunk fades out; 0 where chunks are not blended."""
        return round(self.blend_s * 1e9) if self.mode in ("blend", "real_time_chunking") else 0


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
        self._plans: list[Plan] = []
        self._delay = DelayEstimate(config.delay_window)
        self._begin_ns = 0

    @property
    def delay_ns(self) -> int | None:
        """Return the longest recent time from an observation to its chunk's arrival; None before one was measured."""
        return self._delay.longest_ns

    def reset(self, begin_ns: int = 0) -> None:
        """Forget all chunks and refuse, from now on, chunks that answer an observation before `begin_ns`.

        What was measured of the delay stays; the next chunk's does not count.
        """
        self._plans.clear()
        self._delay.reset()
        self._begin_ns = begin_ns

    def push(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Take a chunk that arrives at `now_ns`, or return False, counting in `dropped` why it is of no use."""
        fault = self._fault(chunk, now_ns)
        if fault is not None:
            self.dropped[fault] += 1
            return False
        self._delay.add(now_ns - chunk.stamp_ns)
        plan = Plan(chunk, self._offset_to(chunk, max(now_ns, chunk.start_ns)))
        # Only times from now on will be asked for, so a chunk that has ended can never be due again.
        self._plans = [old for old in self._plans if old.chunk.end_ns > now_ns] + [plan]
        return True

    def needs_chunk(self, now_ns: int) -> bool:
        """Tell whether `execute_steps` of the newest chunk have passed, or all of it, or there is none."""
        if not self._plans:
            return True
        newest = self._plans[-1].chunk
        steps = min(self.config.execute_steps, len(newest.actions))
        return now_ns >= newest.start_ns + steps * newest.period_ns

    def action_at(self, now_ns: int) -> ScheduledAction | None:
        """Return the action due at `now_ns`, or None when no chunk covers this time: then the arm has to hold."""
        covering = self._covering(now_ns)
        if not covering:
            return None
        return ScheduledAction(self._mean_at(covering, now_ns), covering[-1].chunk.stamp_ns)

    def committed(self, now_ns: int) -> CommittedActions | None:
        """Return what is executed while an observation of `now_ns` is answered: the rest of the chunk in force.

        Begins with the action at or before `now_ns`. Until a delay has been measured, the whole rest counts as
        executed before the answer comes. None in any mode but `real_time_chunking`, and when no chunk covers the time.
        """
        covering = self._covering(now_ns)
        if self.config.mode != "real_time_chunking" or not covering:
            return None
        plan, chunk = covering[-1], covering[-1].chunk
        start_ns = now_ns - (now_ns - chunk.start_ns) % chunk.period_ns
        rest = np.stack([plan.at(time_ns) for time_ns in range(start_ns, chunk.end_ns, chunk.period_ns)])
        delay_ns = chunk.end_ns - start_ns if self.delay_ns is None else self.delay_ns
        return CommittedActions(start_ns, chunk.period_ns, rest, delay_ns)

    def _covering(self, now_ns: int) -> list[Plan]:
        begun = [plan for plan in self._plans if plan.chunk.start_ns <= now_ns]
        if self.config.mode != "temporal_ensemble":
            begun = begun[-1:]
        return [plan for plan in begun if now_ns < plan.chunk.end_ns]

    def _fault(self, chunk: ActionChunk, now_ns: int) -> str | None:
        newest = self._plans[-1].chunk if self._plans else None
        if not _is_well_formed(chunk) or (newest and chunk.actions.shape[1] != newest.actions.shape[1]):
            return "malformed"
        if not np.isfinite(chunk.actions).all():
            return "not finite"
        if chunk.stamp_ns < self._begin_ns:
            return "before the reset"
        # It would make every later chunk look out of order, until its time has come.
        if chunk.stamp_ns > now_ns:
            return "from the future"
        if newest and chunk.stamp_ns <= newest.stamp_ns:
            return "duplicate" if chunk.stamp_ns == newest.stamp_ns else "out of order"
        return "late" if chunk.end_ns <= now_ns else None

    def _offset_to(self, chunk: ActionChunk, switch_ns: int) -> Offset | None:
        """Return what separates the schedule as it is from `chunk` at the switch; None where nothing is to blend."""
        before = self.action_at(switch_ns) if self.config.fade_ns > 0 else None
        if before is None:
            return None
        return Offset(before.action - Plan(chunk).at(switch_ns), switch_ns, self.config.fade_ns)

    def _mean_at(self, plans: list[Plan], now_ns: int) -> NDArray[np.float64]:
        if len(plans) == 1:
            return plans[0].at(now_ns)
        weights = np.exp(-self.config.ensemble_decay * np.arange(len(plans)))
        actions = np.stack([plan.at(now_ns) for plan in plans])
        return weights @ actions / weights.sum()


def _is_well_formed(chunk: ActionChunk) -> bool:
    actions = chunk.actions
    return actions.ndim == 2 and actions.size > 0 and actions.dtype.kind in "fiu" and chunk.period_ns > 0
