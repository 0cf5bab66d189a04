"""What belongs to one step of a corrected robot comes on ways of its own; here it is put together, in order.

A step begins with what the residual saw and the base action. What was executed and the reward come later, and what was
seen after it comes with the next step. A step of which something is missing or not finite breaks the episode off: what
was before it counts, and the next one begins anew.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.errors import InvalidValue
from policies.action_frame import ActionFrame
from policies.step_log import CORRECTED, CUT, ENDED, FIRST, HELPED, HUMAN, LATCHED, TERMINATED, Vector

GAP_PERIODS = 1.5
"""Base actions further apart than so many periods are not of consecutive steps."""
REWARD_MAX = 1e6
"""A larger one is a mistake of its sender; sums of these stay numbers in a log of single precision."""
Fields = dict[str, Any]


@dataclass
class Step:
    """A step that has begun."""

    stamp_ns: int
    observation: Vector
    base: Vector
    """Normalised (D,)."""
    measured: NDArray[np.float64]
    """(D,) in the layout of the action."""
    begun_s: float
    """On the steady clock."""
    flags: int = 0
    action: Vector | None = None
    is_latched: bool = False
    rewards: list[float] = field(default_factory=list[float])
    void: str = ""
    """Why nothing can be learned of it."""


class StepAssembly:
    """The steps of one robot, episode by episode, until they are records. Used by one thread.

    Rewards are matched by their stamps: in lockstep the one of the very step, else the sum of those from a step's stamp
    until the next one's, complete once a later one has come.
    """

    def __init__(
        self,
        frame: ActionFrame,
        period_ns: int,
        write: Callable[[Fields], object],
        *,
        is_rewarded: bool,
        lockstep: bool,
        patience_s: float = 1.0,
    ) -> None:
        """`write` gets the fields of each record; `is_rewarded`: a topic tells rewards, else the end alone does.

        What has not come `patience_s` after a step was over counts as missing.
        """
        self.dropped: Counter[str] = Counter()
        """Steps of which nothing is learned, by reason."""
        self._frame, self._gap_ns = frame, round(GAP_PERIODS * period_ns)
        self._write, self._is_rewarded, self._lockstep = write, is_rewarded, lockstep
        self._patience_s = patience_s
        self._steps: deque[Step] = deque()
        self._held: Fields | None = None
        self._marks: Fields = {}
        self._ends = False
        self._success = False
        self._is_first = True
        self._has_begun = self._is_helped = False
        self._reward_ns = -1
        self._end_ns = 0

    @property
    def has_begun(self) -> bool:
        """Tell whether a step of the episode has begun."""
        return self._has_begun

    def begin(self, **marks: Any) -> None:
        """Begin an episode, whose records carry `marks` as well; one that is still open is broken off."""
        self.break_off("a new episode began")
        self._marks, self._reward_ns = marks, -1
        self._ends, self._is_first, self._has_begun, self._is_helped = False, True, False, False

    def begin_step(self, step: Step) -> None:
        """Take what was seen and asked for at the beginning of a step."""
        if self._ends:
            return
        before = self._steps[-1] if self._steps else None
        if before is not None and not 0 < step.stamp_ns - before.stamp_ns <= self._gap_ns:
            before.void = before.void or "no step followed"
        if not _is_known(step):
            step.void = "what was seen or asked for is not finite"
        self._steps.append(step)
        self._has_begun = True
        self._advance(step.begun_s)

    def executed(
        self,
        stamp_ns: int,
        action: NDArray[np.float64],
        now_s: float,
        *,
        is_corrected: bool,
        is_human: bool = False,
        is_latched: bool = False,
    ) -> None:
        """Take what became of a base action, (D,) in physical units, who had a part in it, and if the gate latched."""
        self._is_helped = self._is_helped or is_human
        for step in self._steps:
            if step.stamp_ns == stamp_ns:
                step.action = self._frame.encode(action, step.measured)
                step.flags |= (CORRECTED if is_corrected else 0) | (HUMAN if is_human else 0)
                step.is_latched = is_latched
                if not np.isfinite(step.action).all():
                    step.void = "executed action is not finite"
        self._advance(now_s)

    def reward(self, stamp_ns: int, value: float, now_s: float) -> None:
        """Take a reward; raise InvalidValue beyond REWARD_MAX or where it is none: the episode is broken off there."""
        step = self._step_of(stamp_ns)
        self._reward_ns = max(self._reward_ns, stamp_ns)
        is_valid = abs(value) <= REWARD_MAX
        if step is not None and is_valid:
            step.rewards.append(value)
        elif step is not None:
            step.void = "reward is out of range"
        self._advance(now_s)
        if not is_valid:
            raise InvalidValue(
                f"reward of {stamp_ns} ns is {value}, allowed +-{REWARD_MAX:g}: the episode is broken off there"
            )

    def end(self, end_ns: int | None, now_s: float, *, success: bool) -> None:
        """Take note that the episode ended with the step of `end_ns`, None: the newest that is known of, and how."""
        newest_ns = self._steps[-1].stamp_ns if self._steps else 0
        known_ns = self._reward_ns if self._is_rewarded else newest_ns
        self._ends, self._success, self._end_ns = True, success, known_ns if end_ns is None else end_ns
        while self._steps and self._steps[-1].stamp_ns > self._end_ns:
            self._steps.pop()
        self._advance(now_s)

    def look(self, now_s: float) -> None:
        """Give up what is overdue."""
        self._advance(now_s)

    def break_off(self, why: str) -> None:
        """End the episode here, whatever is still to come of it."""
        for step in self._steps:
            self.dropped[step.void or why] += 1
        self._steps.clear()
        self._flush(CUT)

    def _step_of(self, stamp_ns: int) -> Step | None:
        """Return the step to which a reward belongs."""
        begun = [step for step in self._steps if step.stamp_ns <= stamp_ns]
        if not begun or (self._lockstep and begun[-1].stamp_ns != stamp_ns):
            return None
        return begun[-1]

    def _advance(self, now_s: float) -> None:
        """Make records of all steps whose parts are all here."""
        while len(self._steps) > 1 and self._is_settled(self._steps[0], self._steps[1].stamp_ns, now_s):
            self._make_record(self._steps.popleft(), self._steps[0])
        if self._ends and len(self._steps) == 1 and self._is_settled(self._steps[0], self._end_ns, now_s):
            self._make_last(self._steps.popleft())
        if self._ends and not self._steps:
            self._flush(CUT | ENDED)

    def _is_settled(self, step: Step, until_ns: int, now_s: float) -> bool:
        """Tell whether nothing more is to come of a step, which is void where it should have."""
        if step.void:
            return True
        missing = "" if step.action is not None else "what was executed did not come"
        if self._is_rewarded and not self._has_reward(step, until_ns):
            missing = missing or "the reward did not come"
        if missing and now_s - step.begun_s > self._patience_s:
            step.void = missing
        return not missing or bool(step.void)

    def _has_reward(self, step: Step, until_ns: int) -> bool:
        return bool(step.rewards) if self._lockstep else self._reward_ns >= until_ns

    def _make_record(self, step: Step, following: Step) -> None:
        if not step.void and not _is_known(following):
            step.void = "what followed is not known"
        if step.void:
            self._drop(step, step.void)
            return
        self._hold(step, sum(step.rewards), following.observation, following.base, 0)

    def _make_last(self, step: Step) -> None:
        """Nothing was seen after the last step: where something could have followed, its value cannot be estimated."""
        if step.void:
            self._drop(step, step.void)
            return
        if not self._success and not step.is_latched:
            self.dropped["last of its episode"] += 1
            return
        reward = sum(step.rewards) if self._is_rewarded else float(self._success)
        ending = TERMINATED if self._success else LATCHED | CUT
        self._hold(step, reward, step.observation, step.base, ending | ENDED)
        self._flush(0)

    def _drop(self, step: Step, why: str) -> None:
        self.dropped[why] += 1
        self._flush(CUT)
        self._is_first = True

    def _hold(self, step: Step, reward: float, next_observation: Vector, next_base: Vector, flags: int) -> None:
        """Keep a record until it is known whether the episode is broken off after it."""
        self._flush(0)
        flags |= step.flags | self._marks.get("flags", 0) | (FIRST if self._is_first else 0)
        self._is_first = False
        self._held = {
            **self._marks,
            "stamp_ns": step.stamp_ns,
            "flags": flags,
            "observation": step.observation,
            "base": step.base,
            "action": step.action,
            "reward": reward,
            "next_observation": next_observation,
            "next_base": next_base,
        }

    def _flush(self, flags: int) -> None:
        held, self._held = self._held, None
        if held is not None:
            flags |= held["flags"]
            self._write({**held, "flags": flags | (HELPED if flags & ENDED and self._is_helped else 0)})


def _is_known(step: Step) -> bool:
    return bool(np.isfinite(step.observation).all() and np.isfinite(step.base).all())
