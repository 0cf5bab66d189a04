"""What the control loop and those who feed it share: chunks and states come in at any time, commands go out by ticks.

The loop runs on a thread of its own; every method may be called from any thread.
"""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from armature.control.chunk_scheduler import ChunkScheduler, ScheduledAction, SchedulerConfig
from armature.control.command_trace import CommandTrace
from armature.control.control_step import control_step
from armature.control.limits import SafetyLimits
from armature.control.residual import Residual
from armature.control.safety_gate import MotionGuard, SafetyGate
from armature.control.takeover import Driven, Takeover
from armature.errors import InvalidValue
from armature.spec import ActionSpec
from armature.types import ActionChunk, Command, CommittedActions, GateState, Reason, Sample, Tick

CLOCK_STEP_NS = 100_000_000
"""Stamps that run so far from the steady clock from one tick to the next were set by somebody."""
ARMING_NS = 1_000_000_000
"""So long after it was asked to arm it waits for a state: who has gone to the arm meanwhile is not surprised."""


class ControlPath:
    """Scheduler, residual, takeover and gate of one arm, behind one lock."""

    def __init__(
        self,
        spec: ActionSpec,
        limits: SafetyLimits,
        scheduler: SchedulerConfig,
        residual: Residual,
        period_ns: int,
        guard: MotionGuard | None = None,
        takeover: Takeover | None = None,
    ) -> None:
        """Make a path, disarmed, that ticks every `period_ns`; without a `takeover` no person can drive."""
        self.refused: Counter[str] = Counter()
        self._new_gate = lambda: SafetyGate(spec, limits, period_ns, guard)
        self._gate = self._new_gate()
        self._scheduler = ChunkScheduler(scheduler)
        self._residual, self._takeover = residual, takeover
        self._driven_ticks = 0
        self._trace = CommandTrace(limits.request.chunk_age_max_s, period_ns)
        self._measured: Sample | None = None
        self._newest_ns = -1
        self._offset_ns: int | None = None
        self._arms_at_next_tick = False
        self._asked_ns: int | None = None
        """When, on the steady clock, the first tick came since it was asked to arm."""
        self._lock = threading.Lock()

    @property
    def state(self) -> GateState:
        """Return the state of the gate."""
        return self._gate.state

    @property
    def fault(self) -> Reason | None:
        """Return why the gate is latched."""
        return self._gate.fault

    @property
    def is_at_rest(self) -> bool:
        """Tell whether the last command moved nothing."""
        return self._gate.is_at_rest

    @property
    def is_armed(self) -> bool:
        """Tell whether requests pass as soon as they are valid."""
        return self._gate.is_armed

    @property
    def is_driving(self) -> bool:
        """Tell whether requests pass, or will from the next tick on."""
        return self._gate.is_armed or self._arms_at_next_tick

    @property
    def human(self) -> float:
        """Return the weight of a person in the last tick, 0 to 1."""
        return 0.0 if self._takeover is None else self._takeover.weight

    @property
    def measured(self) -> Sample | None:
        """Return the newest measured state."""
        return self._measured

    def counts(self) -> dict[str, int]:
        """Return how often what happened: reasons of the gate, dropped chunks, refused messages."""
        with self._lock:
            reasons = {reason.name.lower(): count for reason, count in self._gate.counts.items()}
            dropped = {f"chunk dropped: {why}": count for why, count in self._scheduler.dropped.items()}
            driven = {"takeover: ticks": self._driven_ticks} if self._driven_ticks else {}
            refused = {f"refused: {why}": count for why, count in self.refused.items()}
            return {**reasons, **dropped, **driven, **refused}

    def reset(self, begin_ns: int) -> None:
        """Forget chunks, states and faults, disarmed; what is stamped before `begin_ns` is refused from now on."""
        with self._lock:
            self._gate = self._new_gate()
            self._scheduler.reset(begin_ns)
            self._trace.clear()
            self._release()
            self._newest_ns, self._measured, self._arms_at_next_tick = begin_ns - 1, None, False

    def arm(self) -> None:
        """Arm at the next tick with a fresh state, of the next second; after that it has to be asked again.

        Without effect where it is armed: a request that waited for rest would end a stop that comes meanwhile.
        """
        with self._lock:
            self._arms_at_next_tick, self._asked_ns = not self._gate.is_armed, None

    def disarm(self) -> None:
        """Let nothing through from now on; the arm comes to rest."""
        with self._lock:
            self._gate.disarm()
            self._arms_at_next_tick = False

    def latch(self, fault: Reason) -> None:
        """Stop until armed anew."""
        with self._lock:
            self._gate.latch(fault)
            self._arms_at_next_tick = False

    def take_state(self, sample: Sample) -> bool:
        """Take a measured state; return False when it is not newer than the newest, or of the time before the reset."""
        with self._lock:
            if sample.stamp_ns <= self._newest_ns:
                self.refused["state not newer"] += 1
                return False
            self._newest_ns, self._measured = sample.stamp_ns, sample
            return True

    def refuse(self, what: str) -> None:
        """Count something that was refused before it came here."""
        with self._lock:
            self.refused[what] += 1

    def take_chunk(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Take a chunk that arrives at `now_ns` on the clock of the stamps; return False when it is of no use."""
        with self._lock:
            return self._scheduler.push(chunk, now_ns)

    def take_person(self, said: Driven) -> bool:
        """Take what a person says; return False, counting it, where that is not newer or nobody may take over."""
        with self._lock:
            was_taken = self._takeover is not None and self._takeover.take(said)
            if not was_taken:
                self.refused["takeover not newer"] += 1
            return was_taken

    def needs_chunk(self, now_ns: int) -> bool:
        """Tell whether the next chunk is due."""
        with self._lock:
            return self._scheduler.needs_chunk(now_ns)

    def committed(self, now_ns: int) -> CommittedActions | None:
        """Return what is executed while an observation of `now_ns` is answered."""
        with self._lock:
            return self._scheduler.committed(now_ns)

    def scheduled(self, now_ns: int) -> ScheduledAction | None:
        """Return the action due at `now_ns` before any correction; None when no chunk covers this time."""
        with self._lock:
            return self._scheduler.action_at(now_ns)

    def commanded(self, time_ns: int) -> NDArray[np.float64] | None:
        """Return where the arm was told to be at a time of the last second (D,); until it was told, where it is.

        None while the state of the arm was never known.
        """
        with self._lock:
            known = self._trace.at(time_ns)
            return known if known is not None or self._measured is None else self._measured.value

    def tick(self, tick: Tick) -> Command | None:
        """Return the command of a tick; None while the state of the arm was never known."""
        with self._lock:
            self._watch_clock(tick)
            if self._arms_at_next_tick:
                self._arm(tick)
            try:
                command = control_step(
                    tick, self._measured, self._scheduler, self._residual, self._gate, self._takeover
                )
            except InvalidValue:
                self.refused["tick without a known state"] += 1
                return None
            self._trace.add(command)
            self._driven_ticks += self.human > 0.0
            return command

    def _watch_clock(self, tick: Tick) -> None:
        """Forget all plans when the clock of the stamps was set, and take what is stamped by it from now on."""
        before_ns, self._offset_ns = self._offset_ns, tick.stamp_ns - tick.steady_ns
        if before_ns is not None and abs(self._offset_ns - before_ns) > CLOCK_STEP_NS:
            self.refused["plans of a clock that was set"] += 1
            self._scheduler.reset(tick.stamp_ns)
            self._trace.clear()
            self._release()
            self._newest_ns = tick.stamp_ns - CLOCK_STEP_NS

    def _release(self) -> None:
        if self._takeover is not None:
            self._takeover.reset()

    def _arm(self, tick: Tick) -> None:
        self._asked_ns = tick.steady_ns if self._asked_ns is None else self._asked_ns
        if tick.steady_ns - self._asked_ns > ARMING_NS:
            self.refused["arming expired"] += 1
            self._arms_at_next_tick = False
        elif not self._gate.is_at_rest:
            self.refused["arming in motion"] += 1
        elif self._measured is not None:
            self._arm_at(tick, self._measured)

    def _arm_at(self, tick: Tick, measured: Sample) -> None:
        try:
            self._gate.arm(tick, measured)
        except InvalidValue:
            # Too old: the next state may be better.
            self.refused["arming without a fresh state"] += 1
        else:
            self._arms_at_next_tick = False
