"""Chunks that displace the tool, for an arm that takes joint positions: each is converted whole, as it arrives.

So scheduler and safety gate know joints alone, with all their limits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from armature.errors import InvalidValue
from armature.spec import JOINT_POSITION, TCP_DELTA, ActionSpec
from armature.types import ActionChunk


class OutOfReach(InvalidValue):
    """The arm cannot bring its tool where a chunk wants it, within the limits of its joints."""


class ToolPath(Protocol):
    """Inverse kinematics along a path; `sim.differential_ik.TcpDeltaIk` is one."""

    def joint_path(self, joints: NDArray[np.float64], deltas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the joint positions (k, n) [rad] after each of `deltas` (k, 6), from `joints` (n,) on.

        Raises InvalidValue where the arm cannot follow.
        """
        ...


class TcpActions:
    """Makes chunks of joint positions of chunks of displacements."""

    def __init__(self, asked: ActionSpec, taken: ActionSpec, path: ToolPath, period_ns: int, age_max_s: float) -> None:
        """`asked` is what policies say, `taken` what the arm takes every `period_ns`.

        Of a chunk no more is converted than may be executed before its observation is `age_max_s` old.
        """
        self.asked = asked
        self._taken, self._path, self._period_ns = taken, path, period_ns
        self._steps_max = math.ceil(age_max_s * 1e9 / asked.period_ns) + 1
        self._joints = taken.slice_of(JOINT_POSITION)

    def begin_ns(self, chunk: ActionChunk) -> int:
        """Return when the command is sent that the arm has reached as `chunk` starts: one control period before."""
        return chunk.start_ns - self._period_ns

    def convert(self, chunk: ActionChunk, begin: NDArray[np.float64] | None) -> ActionChunk:
        """Return the joint positions that displace the tool as `chunk` says, from the command `begin` (D,) on.

        They begin with `begin`, at `begin_ns`; where a control period is a whole action, as in lockstep, with what
        comes after it. Raises OutOfReach where the arm cannot go there, InvalidValue on other steps than those agreed
        upon, and while it is not known where the arm is.
        """
        if chunk.period_ns != self.asked.period_ns:
            steps = f"chunk has a displacement every {chunk.period_ns / 1e6:g} ms"
            raise InvalidValue(f"{steps}, the contract {self.asked.period_ns / 1e6:g} ms")
        if begin is None:
            raise InvalidValue("chunk displaces a tool whose place was never known")
        parts = self.asked.split(chunk.actions[: self._steps_max])
        try:
            parts[JOINT_POSITION] = self._path.joint_path(begin[self._joints], parts.pop(TCP_DELTA))
        except InvalidValue as error:
            raise OutOfReach(str(error)) from error
        actions = self._taken.join(parts)
        if self._period_ns == chunk.period_ns:
            return replace(chunk, actions=actions)
        return replace(chunk, start_ns=self.begin_ns(chunk), actions=np.vstack((begin, actions)))
