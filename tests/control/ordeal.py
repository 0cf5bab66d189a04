"""What has to hold of every command of the safety gate, and a gate that everything happens to."""

from __future__ import annotations

from collections import Counter
from math import inf, isfinite, isinf, nan

import numpy as np
from hypothesis import strategies as st
from small_arm import LIMITS, ORIGIN, TICK_NS, Driver

from armature.control.limits import SafetyLimits
from armature.control.safety_gate import GIVE_WAY_NS
from armature.errors import InvalidValue
from armature.types import Command, GateState, Reason, Sample

MS = 1_000_000
HOUR_NS = 3_600_000 * MS
NO_NUMBERS = (nan, -nan, inf, -inf)


class Watchdog:
    """Compares every command with the one before."""

    def __init__(self, limits: SafetyLimits, period_s: float, start) -> None:
        self._period_s = period_s
        self._limits = list(
            zip(limits.position_low, limits.position_high, limits.velocity_max, limits.acceleration_max, strict=True)
        )
        self.restart(start)

    def restart(self, position) -> None:
        """Begin anew at rest, where the arm was found."""
        self.position = [float(x) for x in position]
        self.velocity = [0.0] * len(self.position)

    def see(self, command: Command, ticks: int) -> None:
        """Check a command that comes `ticks` periods after the one before."""
        action = command.action.tolist()
        for i, (after, before, (low, high, velocity_max, acceleration_max)) in enumerate(
            zip(action, self.position, self._limits, strict=True)
        ):
            assert isfinite(after), command
            assert min(low, before) <= after <= max(high, before), command
            velocity = 0.0 if isinf(velocity_max) else (after - before) / self._period_s
            rounding = 1e-9 + 4e-16 * abs(before) / self._period_s
            assert abs(velocity) <= velocity_max + rounding, command
            change = acceleration_max * ticks * self._period_s
            assert abs(velocity - self.velocity[i]) <= change + rounding, (command, velocity, self.velocity[i])
            self.velocity[i] = velocity
        self.position = action


def near(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)


starts = st.tuples(near(-1.3, 1.3), near(-2.3, 2.3), near(-0.01, 0.09))
in_range = st.tuples(near(-1, 1), near(-2, 2), near(0, 0.08))
offsets = st.tuples(near(-0.3, 0.3), near(-0.6, 0.6), near(-0.04, 0.04))
numbers = st.floats(width=64) | st.sampled_from([*NO_NUMBERS, 1e30, -1e308, 3.5e38, 5e-324, -0.0])
anything = st.lists(numbers, min_size=3, max_size=3)
malformed = st.sampled_from([np.zeros(n) for n in (0, 2, 4, 700)] + [np.zeros((3, 1)), np.array(["0"] * 3)])
requests = st.one_of(
    offsets.map(lambda x: ("near", x)),
    in_range.map(lambda x: ("at", x)),
    anything.map(lambda x: ("at", x)),
    malformed.map(lambda x: ("at", x)),
    st.just(("none", None)),
)
ages_ns = st.just(0) | st.just(0) | st.integers(-HOUR_NS, HOUR_NS)
measurements = st.sampled_from(["there"] * 6 + ["missing", "old", "short", "not finite", "off", "far off", "stuck"])
acts = st.sampled_from([""] * 12 + ["arm", "disarm", "latch"])
gaps_ns = st.just(TICK_NS) | st.just(TICK_NS) | st.integers(-TICK_NS, 6 * TICK_NS)
events = st.tuples(acts, requests, st.none() | offsets, measurements, ages_ns, gaps_ns)


class Ordeal:
    """A driver that everything happens to, and what is expected of its gate apart from the limits."""

    def __init__(self, start) -> None:
        self.driver, self.watchdog = Driver(start), Watchdog(LIMITS, 0.1, start)
        self.counts: Counter[Reason] = Counter()
        self._last: Command | None = None
        self._last_ns = self._moved_ns = -TICK_NS
        self._seen = [list(start)]

    def happens(self, event) -> None:
        act, (how, value), correction, measurement, age_ns, gap_ns = event
        self._do(act)
        driver, gate, before = self.driver, self.driver.gate, self.driver.gate.state
        requested = np.add(self.watchdog.position, value) if how == "near" else value
        base = None if correction is None or how != "near" else np.add(requested, correction)
        ticks = 1 if self._last is None else max(0, round((driver.now_ns - self._last_ns) / TICK_NS))
        measured, was_at_rest = self._measured(measurement), gate.is_at_rest
        if measured is not None:
            self._seen.append(measured.value.tolist())
        place, velocity = self.watchdog.position, self.watchdog.velocity
        command = driver.ask(requested, measured, base, age_ns, gap_ns / TICK_NS)
        driver.now_ns = max(0, driver.now_ns)
        if ticks == 0 and self._last is not None:
            assert command.stamp_ns == self._last.stamp_ns
            return
        self._last, self._last_ns = command, command.stamp_ns - driver.epoch_ns
        self.counts.update(command.reasons)
        assert gate.counts == self.counts
        assert command.state is gate.state
        if before is GateState.LATCHED:
            assert command.state is GateState.LATCHED
            assert command.reasons == (Reason.LATCHED, gate.fault)
            if was_at_rest and command.action.tolist() in self._seen and self._has_held_ns() > GIVE_WAY_NS:
                # Moved meanwhile: it is held where it is.
                self.watchdog.restart(command.action)
                return
        if before is GateState.DISARMED:
            assert (command.state, command.reasons) == (GateState.DISARMED, (Reason.NOT_ARMED,))
            if was_at_rest:
                assert command.action.tolist() in (place, *self._seen)
                self.watchdog.restart(command.action)
                return
            assert (np.abs(command.action - place)[:2] <= np.abs(velocity)[:2] * 0.1 + 1e-9).all()
        self.watchdog.see(command, ticks)
        if command.state is not GateState.LATCHED or any(self.watchdog.velocity):
            self._moved_ns = self._last_ns

    def _has_held_ns(self) -> int:
        return self._last_ns - self._moved_ns

    def _do(self, act: str) -> None:
        gate = self.driver.gate
        before = gate.state
        if act == "latch":
            gate.latch(Reason.OPERATOR)
            assert (gate.state is GateState.LATCHED) == (before is not GateState.DISARMED)
        if act == "disarm":
            gate.disarm()
            assert gate.state is (GateState.LATCHED if before is GateState.LATCHED else GateState.DISARMED)
        if act == "arm":
            try:
                self.driver.arm(self.watchdog.position)
            except InvalidValue:
                assert not gate.is_at_rest
                assert gate.state is before
            else:
                self._last_ns = self.driver.now_ns - TICK_NS
                self.watchdog.restart(self.watchdog.position)
                self._seen.append(self.watchdog.position)
                assert (gate.state, gate.fault) == (GateState.ARMED, None)

    def _measured(self, kind: str) -> Sample | None:
        place = self.watchdog.position
        states = {
            "there": place,
            "missing": None,
            "old": place,
            "short": place[:2],
            "not finite": [nan, 0.0, 0.0],
            "off": np.add(place, [0.15, 0.0, 0.0]),
            "far off": np.add(place, [0.0, -0.5, 0.0]),
            "stuck": ORIGIN,
        }
        if states[kind] is None:
            return None
        return self.driver.measured(states[kind], age_ns=400 * MS if kind == "old" else 0)
