"""The last word before the arm: every command is finite, in range, and near the one before it in place and speed.

One tick: watch the arm, decide which request is believed, want velocities towards it, cut them to what every joint may
do (`limiter`, which is proved). A request passes to the last bit where no limit is in its way.

It is not a safety function in the sense of a standard: the emergency stop and the enabling switch stay in hardware.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import repeat
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from armature.control.arm_watch import ArmWatch
from armature.control.limiter import JointLimits, reach, velocity_range
from armature.control.limits import SafetyLimits, check_limits
from armature.control.pursuit import brake, fit, pursue, within
from armature.control.request_check import RequestCheck
from armature.errors import InvalidValue
from armature.spec import TCP_DELTA, ActionSpec
from armature.types import Command, GateState, Reason, Sample, Tick

LATCHING = frozenset(
    {
        *(Reason.STATE_LOST, Reason.STATE_FROZEN, Reason.TRACKING_LOST, Reason.OVERSPEED, Reason.FIRST_COMMAND),
        *(Reason.SECOND_WRITER, Reason.OPERATOR),
    }
)
"""What only a new arming ends."""
GIVE_WAY_NS = 500_000_000
"""An arm that has been away for longer than this, latched, was moved."""
_OFF_THE_COMMAND = frozenset({Reason.STATE_FROZEN, Reason.TRACKING_LOST})
# Nearer than this [rad or m] is there: what is left is rounding.
_THERE = 1e-12
# Slower than this [rad/s or m/s] stands still. Before a wall the guard leaves less and less, but never nothing.
_STILL = 1e-6


class MotionGuard(Protocol):
    """Slows the joints for something that is no limit of a single joint, such as a wall."""

    def scale(
        self, joints: NDArray[np.float64], velocity: NDArray[np.float64], period_s: float
    ) -> tuple[float, tuple[Reason, ...]]:
        """Return the factor in [0, 1] for the joints' velocities in the next tick, and why."""
        ...


class SafetyGate:
    """Lets a request through, shortened where limits ask for it, or stops the arm along its path.

    Limits count from the last command, not from the measured state, which lags behind. Elements of a `tcp/delta` are
    motions already: holding them means zero. Used by one thread.
    """

    def __init__(
        self,
        spec: ActionSpec,
        limits: SafetyLimits,
        period_ns: int | None = None,
        guard: MotionGuard | None = None,
    ) -> None:
        """Make a gate, disarmed, that is asked every `period_ns`: the action's period unless told otherwise."""
        check_limits(spec, limits)
        self.state = GateState.DISARMED
        self.fault: Reason | None = None
        """Why it is latched."""
        self.counts: Counter[Reason] = Counter()
        self._low, self._high = limits.position_low, limits.position_high
        self._limited = [i for i in range(spec.dim) if math.isfinite(limits.velocity_max[i])]
        self._joints = [
            JointLimits(self._low[i], self._high[i], limits.velocity_max[i], limits.acceleration_max[i])
            for i in self._limited
        ]
        self._free = [i for i in range(spec.dim) if i not in self._limited]
        deltas = spec.slice_of(TCP_DELTA) if spec.kind == "tcp_delta" else slice(0)
        self._deltas = range(spec.dim)[deltas]
        self._period_ns = spec.period_ns if period_ns is None else period_ns
        self._guard = guard
        self._watch = ArmWatch(spec.dim, self._limited, [joint.velocity_max for joint in self._joints], limits.watch)
        self._requests = RequestCheck(limits, spec.period_ns / 1e9)
        self._position: list[float] | None = None
        self._velocity = [0.0] * len(self._limited)
        self._target: list[float] | None = None
        self._anchor: list[float] | None = None
        self._held_ns: int | None = None
        """When, since it latched, the command last moved, or the arm was last known to be where it is held."""
        self._last_ns = 0
        self._last: Command | None = None

    @property
    def is_armed(self) -> bool:
        """Tell whether requests are let through as soon as they are valid."""
        return self.state in (GateState.ARMED, GateState.HOLD)

    @property
    def is_at_rest(self) -> bool:
        """Tell whether the commands stand still."""
        return all(-_STILL <= velocity <= _STILL for velocity in self._velocity)

    def arm(self, tick: Tick, measured: Sample) -> None:
        """Let requests through, starting at rest; the only way out of LATCHED.

        It starts from where the arm was held, unless `measured` is off that: then from there.
        Raises InvalidValue unless it has the action's size, is finite and fresh, and the commands stand still.
        """
        if not self.is_at_rest:
            raise InvalidValue("cannot arm: the arm is still coming to rest")
        if not self._watch.is_valid(measured):
            raise InvalidValue(f"cannot arm at {measured.value}: needs {len(self._low)} finite values")
        self._watch.begin(measured)
        if not self._watch.is_fresh(tick.steady_ns):
            age_s = (tick.steady_ns - measured.received_ns) / 1e9
            raise InvalidValue(f"cannot arm: the measured state is {age_s:.3f} s old")
        self._requests.begin()
        self._rest_at((self._watch.state if self._is_left() else self._position) or [])
        # As if it had been commanded one period ago, so that the tick itself may already move.
        self._last_ns = tick.steady_ns - self._period_ns
        self.state, self.fault = GateState.ARMED, None

    def disarm(self) -> None:
        """Let nothing through from now on: come to rest and stay; no way out of LATCHED."""
        if self.is_armed:
            self.state = GateState.DISARMED

    def latch(self, fault: Reason) -> None:
        """Stop, until armed anew; without effect while disarmed or latched already."""
        if self.is_armed:
            self.state, self.fault, self._held_ns = GateState.LATCHED, fault, None
            # Where the arm has not followed, holding the command would press on against what keeps it.
            state = self._watch.state
            self._anchor = None if state is None or fault not in _OFF_THE_COMMAND else self._standing(state)

    def check(
        self,
        tick: Tick,
        requested: NDArray[Any] | None,
        measured: Sample | None,
        chunk_stamp_ns: int | None,
        base: NDArray[Any] | None = None,
    ) -> Command:
        """Return the command of a tick: `requested` (D,) within the limits, or a stop, with the reasons.

        `measured` (D,) is the newest state, however old; its age is that of its `received_ns`. `base` (D,) is the
        request without its learned correction, where it has one. Raises InvalidValue when unarmed and no state was
        ever measured: then no command is safe.
        """
        ticks = self._ticks_since_last(tick.steady_ns)
        if ticks == 0 and self._last is not None:
            # Not the array sent before, which its receiver may have changed.
            return replace(self._last, action=np.array(self._position))
        self._watch.take(measured, self._position or [])
        if self.state is GateState.DISARMED:
            reasons = self._follow(tick.steady_ns, ticks)
        else:
            age_s = 0.0 if chunk_stamp_ns is None else (tick.stamp_ns - chunk_stamp_ns) / 1e9
            reasons = self._drive(tick.steady_ns, ticks, requested, base, age_s)
        if reasons:
            self.counts.update(reasons)
        self._last_ns = tick.steady_ns
        self._last = Command(tick.stamp_ns, np.array(self._position), requested, reasons, chunk_stamp_ns, self.state)
        return self._last

    def _follow(self, now_ns: int, ticks: int) -> tuple[Reason, ...]:
        if any(self._velocity):
            self._move(None, ticks)
        elif self._watch.state is not None and self._watch.is_fresh(now_ns) and self._is_left():
            self._rest_at(self._watch.state)
        if self._position is None:
            raise InvalidValue("the state of the arm is not known yet: no command is safe")
        return (Reason.NOT_ARMED,)

    def _is_left(self) -> bool:
        """Tell whether the command is where the arm is no more.

        One that hangs a little below it is held there: by a command that followed it, it would sink without an end.
        """
        return self._position is None or not self._limited or self._watch.is_off(self._position)

    def _drive(
        self, now_ns: int, ticks: int, requested: NDArray[Any] | None, base: NDArray[Any] | None, chunk_age_s: float
    ) -> tuple[Reason, ...]:
        position = self._position or []
        fault = self._watch.judge(now_ns, position)
        if fault is None:
            target, reasons = self._requests.judge(requested, base, chunk_age_s, position)
        else:
            self._requests.hold()
            target, reasons = None, (fault,)
        if reasons and reasons[0] in LATCHING:
            self.latch(reasons[0])
        if self.state is GateState.LATCHED:
            self._give_way(now_ns, position)
            self._move(self._anchor, ticks)
            if not self.is_at_rest:
                self._held_ns = now_ns
            return (Reason.LATCHED, *((self.fault,) if self.fault else ()))
        self.state = GateState.HOLD if target is None else GateState.ARMED
        return (*reasons, *self._move(target, ticks))

    def _give_way(self, now_ns: int, position: list[float]) -> None:
        """Hold the arm where it is now, once it has been away for GIVE_WAY_NS while its command stood still.

        Somebody has moved it, by hand or with the maker's tool, to recover from the stop: a driver that listens again
        would lead it back in one leap. One state that is wrong is nothing to give way to.
        """
        state, watch = self._watch.state, self._watch
        self._held_ns = now_ns if self._held_ns is None else self._held_ns
        if state is None or not watch.is_fresh(now_ns):
            return
        if not watch.is_away(position):
            self._held_ns = now_ns
        elif self.is_at_rest and now_ns - self._held_ns > GIVE_WAY_NS:
            self._anchor = None
            self._rest_at(state)

    def _move(self, target: list[float] | None, ticks: int) -> tuple[Reason, ...]:
        """Move the command one tick towards `target`, or towards rest; return which limits were in the way."""
        position, period_s = self._position or [], self._period_ns / 1e9
        missed = ticks - 1
        while missed > 0 and any(self._velocity):
            # The arm had no commands meanwhile: it has slowed down, or come to rest.
            self._velocity, missed = brake(self._velocity, self._joints, period_s), missed - 1
        places = [position[i] for i in self._limited]
        exact = None
        if target is None:
            self._target = None
            wanted, reasons = brake(self._velocity, self._joints, period_s), ()
        else:
            goal = self._in_range(target, position)
            reasons = () if goal is target else (Reason.POSITION_LIMIT,)
            gaps = [goal[i] - position[i] for i in self._limited]
            paces = self._paces(goal, ticks * period_s)
            wanted = exact = reach(gaps, paces, places, self._velocity, self._joints, period_s)
            if wanted is None:
                reasons += self._too_fast(gaps, period_s)
                wanted = pursue(gaps, paces, self._joints, period_s)
        if self._guard is not None:
            factor, because = self._guard.scale(np.array(places), np.array(wanted), period_s)
            wanted, reasons = [factor * velocity for velocity in wanted], reasons + because
        if wanted is not exact:
            wanted = fit(wanted, [*map(velocity_range, places, self._velocity, self._joints, repeat(period_s))])
        self._velocity = wanted
        has_arrived = self._advance(period_s)
        return reasons if has_arrived or reasons else (Reason.ACCELERATION_LIMIT,)

    def _paces(self, goal: list[float], elapsed_s: float) -> list[float]:
        """Return how fast the joints' target has moved to `goal`, the target from now on."""
        before, self._target = self._target or goal, goal
        return [(goal[i] - before[i]) / elapsed_s for i in self._limited]

    def _too_fast(self, gaps: list[float], period_s: float) -> tuple[Reason, ...]:
        for gap, joint in zip(gaps, self._joints, strict=True):
            step = joint.velocity_max * period_s + _THERE
            if not -step <= gap <= step:
                return (Reason.VELOCITY_LIMIT,)
        return ()

    def _in_range(self, target: list[float], position: list[float]) -> list[float]:
        """Return `target` itself where it lies in the range, else cut to it."""
        for x, low, high in zip(target, self._low, self._high, strict=True):
            if not low <= x <= high:
                break
        else:
            return target
        # Outside the range (an arm moved by hand) the present position is the bound: no jump into the range.
        return [
            within(x, min(low, now), max(high, now))
            for x, now, low, high in zip(target, position, self._low, self._high, strict=True)
        ]

    def _advance(self, period_s: float) -> bool:
        """Move the command by the chosen velocities; tell whether it is where it was asked to be."""
        position, goal, has_arrived = list(self._position or []), self._target, True
        for i, velocity in zip(self._limited, self._velocity, strict=True):
            before = position[i]
            after = before + velocity * period_s
            if goal is not None:
                if -_THERE <= after - goal[i] <= _THERE:
                    after = goal[i]
                else:
                    has_arrived = False
            low, high = self._low[i], self._high[i]
            if not low <= after <= high:
                # What the proof says over the reals, rounding may miss by the last bit.
                after = within(after, low if low < before else before, high if high > before else before)
            position[i] = after
        for i in self._free:
            position[i] = goal[i] if goal is not None else 0.0 if i in self._deltas else position[i]
        self._position = position
        return has_arrived

    def _rest_at(self, position: list[float]) -> None:
        self._position = self._standing(position)
        self._velocity = [0.0] * len(self._limited)
        self._target = None

    def _standing(self, state: list[float]) -> list[float]:
        """Return the command that keeps the arm at `state`."""
        return [0.0 if i in self._deltas else x for i, x in enumerate(state)]

    def _ticks_since_last(self, now_ns: int) -> int:
        """Return how many periods have passed, 0 for a tick that is repeated, or comes far too early."""
        if self._last is None:
            return 1
        return max(0, round((now_ns - self._last_ns) / self._period_ns))
