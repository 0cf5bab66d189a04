"""A small arm for the tests of the safety gate: two joints [rad] and a gripper [m] at 10 Hz, and who drives it."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from armature.control.limits import RequestLimits, SafetyLimits, WatchLimits
from armature.control.safety_gate import MotionGuard, SafetyGate
from armature.spec import GRIPPER_OPENING, JOINT_POSITION, TCP_DELTA, ActionSpec, ArraySpec
from armature.types import Command, Sample, Tick

TICK_NS = 100_000_000
TICK_S = 0.1
ORIGIN = (0.0, 0.0, 0.04)

GRIPPER = ArraySpec(GRIPPER_OPENING, (1,), "float32", "m", low=(0.0,), high=(0.08,), labels=("gripper",))
JOINTS = ArraySpec(JOINT_POSITION, (2,), "float32", "rad", low=(-1.0, -2.0), high=(1.0, 2.0), labels=("a", "b"))
SPEC = ActionSpec("joint_position", (JOINTS, GRIPPER), 10.0)
DELTA = ArraySpec(TCP_DELTA, (2,), "float32", "m", "base", (-0.05, -0.05), (0.05, 0.05), ("x", "y"))
DELTA_SPEC = ActionSpec("tcp_delta", (DELTA, GRIPPER), 10.0)

WATCH = WatchLimits(
    state_hold_s=0.25,
    state_latch_s=0.55,
    tracking_hold=0.1,
    tracking_hold_s=0.2,
    tracking_latch=0.3,
    frozen_motion=0.05,
    frozen_s=0.2,
    overspeed_factor=1.5,
)
REQUEST = RequestLimits(
    jump_s=2.0,
    first_command_s=1.0,
    chunk_age_max_s=1.0,
    refusals_max=3,
    range_excess_max=0.25,
    residual_share=0.5,
    residual_limited_max=4,
)
# In a tick of 0.1 s, a moves at most 0.1 rad, 0.02 more or less than in the tick before; b 0.4 rad, and 0.1.
LIMITS = SafetyLimits(
    position_low=(-1.0, -2.0, 0.0),
    position_high=(1.0, 2.0, 0.08),
    velocity_max=(1.0, 4.0, inf),
    acceleration_max=(2.0, 10.0, inf),
    watch=WATCH,
    request=REQUEST,
)
DELTA_LIMITS = SafetyLimits((-0.05, -0.05, 0.0), (0.05, 0.05, 0.08), (inf,) * 3, (inf,) * 3, WATCH, REQUEST)


class Driver:
    """A gate, ticked at its period, with an arm that is where it was commanded to be unless told otherwise.

    Steady time starts at 0, the stamps at `epoch_ns`.
    """

    def __init__(
        self,
        start: Sequence[float] | None = ORIGIN,
        limits: SafetyLimits = LIMITS,
        spec: ActionSpec = SPEC,
        period_ns: int = TICK_NS,
        guard: MotionGuard | None = None,
        epoch_ns: int = 1_700_000_000_000_000_000,
    ) -> None:
        """Make a gate, armed at `start`, or disarmed without one."""
        self.gate = SafetyGate(spec, limits, period_ns, guard)
        self.period_ns, self.epoch_ns, self.now_ns = period_ns, epoch_ns, 0
        self.arm_is_at: NDArray[np.float64] | None = None
        if start is not None:
            self.arm(start)

    @property
    def tick(self) -> Tick:
        """Return the present moment."""
        return Tick(self.epoch_ns + self.now_ns, self.now_ns)

    def arm(self, state: Sequence[float]) -> None:
        """Arm with the arm at `state`, just measured."""
        self.arm_is_at = np.array(state, dtype=np.float64)
        self.gate.arm(self.tick, self.measured())

    def measured(self, state: Sequence[float] | None = None, age_ns: int = 0) -> Sample:
        """Return a measured state: where the arm is, now, unless told otherwise."""
        value = self.arm_is_at if state is None else np.array(state, dtype=np.float64)
        assert value is not None
        return Sample(self.epoch_ns + self.now_ns - age_ns, self.now_ns - age_ns, value)

    def ask(
        self,
        requested: Sequence[float] | NDArray | None,
        measured: Sample | str | None = "where it is",
        base: Sequence[float] | None = None,
        chunk_age_ns: int = 0,
        ticks: float = 1,
    ) -> Command:
        """Ask for a command now; then let `ticks` periods pass and the arm move to what was commanded."""
        request = None if requested is None else np.asarray(requested)
        sample = self.measured() if isinstance(measured, str) else measured
        stamp_ns = self.tick.stamp_ns - chunk_age_ns
        command = self.gate.check(self.tick, request, sample, stamp_ns, None if base is None else np.asarray(base))
        self.arm_is_at = np.array(command.action)
        self.now_ns += round(ticks * self.period_ns)
        return command

    def reach(self, goal: Sequence[float], ticks: int = 200) -> Command:
        """Ask for `goal` until it is reached and the arm has come to rest there."""
        for _ in range(ticks):
            command = self.ask(goal)
            if not command.reasons and self.gate.is_at_rest:
                return command
        raise AssertionError(f"{goal} not reached, at {command.action}: {command.reasons}")
