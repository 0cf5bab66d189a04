"""How far corrections have led an arm off its plan: a correction is a motion, and motions add up until the next plan.

A chunk says where to go from where the arm was seen. What a residual adds to an action of it would be taken back by the
next one, which knows nothing of it: to lead the arm a centimetre aside it would have to say so again at every step. So
it says by how much to go further aside in this step, as published residuals do, whose actions are displacements: what
is one already does not add up here. What was added by the time of the next observation is in what the policy sees, and
no longer counts. (A gripper's opening, which plans name by itself, begins anew with every plan as well.)
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from policies.action_frame import ActionFrame

KEPT_STEPS = 1000
"""A plan is executed within so many steps of its observation."""


class Detour:
    """The distance (D,) from the plan in force, in physical units. Used by one thread.

    Times are integers that grow: stamps [ns], or the numbers of steps.
    """

    def __init__(self, frame: ActionFrame) -> None:
        self._low, self._high, self._adds_up = frame.low, frame.high, ~frame.is_displacement
        self._max = frame.residual_max * frame.unit
        self.begin()

    def begin(self) -> None:
        """Begin an episode, on the plan."""
        self._led = np.zeros_like(self._max)
        self._led_at_plan = self._led
        self._history: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=KEPT_STEPS)
        self._planned = -1

    @property
    def distance(self) -> NDArray[np.float64]:
        """Return how far the arm has been led off the plan in force (D,)."""
        return np.where(self._adds_up, self._led - self._led_at_plan, 0.0)

    def follow(self, planned: int) -> None:
        """Follow the plan that was made of what was seen at `planned`; one in force, or older, changes nothing."""
        if planned <= self._planned:
            return
        self._planned = planned
        # The motion of a step begins with it: an observation of the same time does not show it.
        seen = (led for time, led in reversed(self._history) if time < planned)
        self._led_at_plan = next(seen, np.zeros_like(self._led))

    def lead(self, now: int, planned_action: NDArray[np.float64], motion: NDArray[np.float64]) -> NDArray[np.float64]:
        """Go `motion` (D,) further in the step of `now`; return the distance from the plan's action (D,) then.

        It is what the gate lets pass at most, and never leads out of the range of the robot's positions.
        """
        distance = np.clip(self.distance + motion, -self._max, self._max)
        low, high = np.minimum(self._low, planned_action), np.maximum(self._high, planned_action)
        distance = np.clip(planned_action + distance, low, high) - planned_action
        self._led = self._led_at_plan + distance
        self._history.append((now, self._led))
        return distance

    def went(self, now: int, distance: NDArray[np.float64]) -> None:
        """Take note that in the newest step, of `now`, the arm went elsewhere: so far off the plan's action (D,)."""
        if self._history and self._history[-1][0] == now:
            self._led = self._led_at_plan + distance
            self._history[-1] = (now, self._led)
