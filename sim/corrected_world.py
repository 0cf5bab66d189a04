"""A simulated robot whose policy somebody corrects step by step: what learning a residual needs of a world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.control.chunk_scheduler import ScheduledAction, SchedulerConfig
from armature.control.limits import SafetyLimits
from armature.errors import ArmatureError
from armature.spec import RobotSpec
from armature.types import ActionChunk, GateState, Observation
from sim.defaults import limits_for
from sim.environment import make_env
from sim.rollout import Needs, SimEpisode
from sim.tasks import SimConfig


@dataclass(frozen=True)
class PolicyNeeds:
    """What an episode has to know of a policy that is in another process."""

    spec: RobotSpec
    obs_steps: int
    policy_id: str


@dataclass(frozen=True)
class Moment:
    """What there is to see and to decide at one tick."""

    values: dict[str, NDArray[Any]]
    """The vectors that the world shows, in physical units, and the images of the cameras that were asked for."""
    measured: NDArray[np.float64]
    """Where the robot is, in the layout of an action (D,)."""
    commanded: NDArray[np.float64]
    """The command of the tick before (D,)."""
    base: NDArray[np.float64] | None
    """What the policy asks for (D,); None where it has to be asked first."""
    question: Observation | None
    """What the policy is to answer before the world goes on; None while its chunk lasts."""


@dataclass(frozen=True)
class Outcome:
    """What a step led to."""

    executed: NDArray[np.float64]
    """What was commanded in the end (D,)."""
    success: bool
    is_latched: bool
    """The gate has stopped the arm for good: nobody is there to arm it anew."""
    is_done: bool
    then: Moment

    @property
    def is_final(self) -> bool:
        """Tell whether nothing can follow, of any value; what a time limit ends would go on."""
        return self.success or self.is_latched


@dataclass(frozen=True)
class Correction:
    """Stands in the slot of the residual for one tick."""

    action: NDArray[np.float64]

    def correct(self, now_ns: int, base: ScheduledAction, measured: NDArray[Any]) -> NDArray[np.float64]:
        """Return the action of `base` with the correction added."""
        return base.action + self.action


class CorrectedWorld:
    """Buffer, scheduler, gate and simulator of one robot; the policy's network and the correction are elsewhere."""

    def __init__(
        self,
        sim: SimConfig,
        needs: Needs,
        scheduler: SchedulerConfig,
        limits: SafetyLimits | None = None,
        cameras: tuple[str, ...] = (),
    ) -> None:
        """Build the world, under the limits of its robot unless told others; its moments show `cameras`."""
        self._env: Any = make_env(sim)
        self._needs, self._scheduler = needs, scheduler
        self._limits = limits or limits_for(self._env.robot_spec.action)
        self._shown = *cameras, *(array.name for array in self._env.robot_spec.observation.vectors)
        self._running: SimEpisode | None = None

    def begin(self, seed: int) -> Moment:
        """Begin the episode of a seed."""
        self._running = SimEpisode(self._env, self._needs, seed, self._scheduler, self._limits)
        return self._moment(self._running)

    def take(self, chunk: ActionChunk) -> Moment:
        """Take the policy's answer; return the same moment, now with its action."""
        episode = self._episode
        episode.take(chunk)
        return self._moment(episode, is_answered=True)

    def step(self, correction: NDArray[np.float64]) -> Outcome:
        """Let a period pass under the policy's action with the correction (D,) added, as far as the gate lets it."""
        episode = self._episode
        command = episode.step(residual=Correction(correction))
        is_latched = command.state is GateState.LATCHED
        is_done = episode.is_done or is_latched
        return Outcome(command.action, episode.success, is_latched, is_done, self._moment(episode))

    def close(self) -> None:
        """Release the simulator."""
        self._env.close()

    @property
    def _episode(self) -> SimEpisode:
        if self._running is None:
            raise ArmatureError("no episode runs: begin one first")
        return self._running

    def _moment(self, episode: SimEpisode, *, is_answered: bool = False) -> Moment:
        question = None if is_answered else episode.observe()
        values = {name: episode.values[name] for name in self._shown}
        base = episode.scheduled if question is None else None
        return Moment(values, episode.measured, episode.commanded, base, question)
