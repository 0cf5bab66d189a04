"""No policy at all: the robot stays where it is. A residual on top of it is reinforcement learning from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from armature.control.limits import SafetyLimits
from armature.spec import RobotSpec
from armature.types import ActionChunk, CommittedActions, Observation
from policies.action_frame import ActionFrame


class Standing:
    """Answers with one action, the zero of its `ActionFrame`: joints where they are, a gripper half open."""

    policy_id = "none"
    obs_steps = 1

    def __init__(self, spec: RobotSpec, limits: SafetyLimits) -> None:
        observed = tuple(array.name for array in spec.action.arrays if array.name in spec.observation.names)
        self.spec = spec.select(observed)
        self._frame = ActionFrame(spec.action, limits)

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """Return (chunk_steps, D)."""
        return 1, self.spec.action.dim

    def begin(self, seed: int) -> Any:
        """Return the state of an episode: there is none."""
        del seed

    def infer_batch(
        self,
        observations: Sequence[Observation],
        episodes: Sequence[Any],
        committed: Sequence[CommittedActions | None] = (),
    ) -> list[ActionChunk]:
        """Answer the observation of each episode."""
        del episodes, committed
        return [self._chunk(observation) for observation in observations]

    def _chunk(self, observation: Observation) -> ActionChunk:
        seen, action = observation.latest(), self.spec.action
        # A displacement is observed by nothing, and its zero is to make none.
        measured = action.join({part.name: seen.get(part.name, np.zeros(part.size)) for part in action.arrays})
        stay = self._frame.decode(np.zeros(action.dim), measured)
        return ActionChunk(observation.stamp_ns, observation.stamp_ns, action.period_ns, stay[None], self.policy_id)
