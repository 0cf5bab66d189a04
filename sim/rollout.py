"""One episode without ROS: the same buffer, scheduler, gate and control step as on the robot, in simulated time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from armature.control.chunk_scheduler import ChunkScheduler, SchedulerConfig
from armature.control.control_step import control_step
from armature.control.limits import SafetyLimits
from armature.control.observation_buffer import ObservationBuffer
from armature.control.residual import NoResidual, Residual
from armature.control.safety_gate import SafetyGate
from armature.errors import ConfigError
from armature.policy import Policy
from armature.spec import RobotSpec, require_compatible
from armature.types import ActionChunk, Command, CommittedActions, Observation, Reason, Sample, Tick

OnStep = Callable[[dict[str, NDArray[Any]], Command], None]
"""Called once per tick with the observation before the command, and the command."""


class Needs(Protocol):
    """What an episode has to know of a policy: what it sees and of how many steps."""

    @property
    def spec(self) -> RobotSpec:
        """Return its robot, with the observations that it needs."""
        ...

    @property
    def obs_steps(self) -> int:
        """Return how many steps of history it needs."""
        ...

    @property
    def policy_id(self) -> str:
        """Return its name."""
        ...


@dataclass(frozen=True)
class EpisodeResult:
    """What happened in one episode; `duration_s` is simulated time."""

    seed: int
    success: bool
    steps: int
    duration_s: float
    commands: NDArray[np.float64]
    """What was sent, (steps, dim)."""
    reasons: Counter[Reason]
    """How many commands the gate changed, by reason."""
    maxima: Mapping[str, float] = field(default_factory=dict[str, float])
    """The largest value of each measure that the world's `info` gives as a float, such as Push-T's coverage."""


def rollout(
    env: Any,
    policy: Policy,
    seed: int,
    scheduler_config: SchedulerConfig,
    limits: SafetyLimits,
    on_step: OnStep | None = None,
) -> EpisodeResult:
    """Run one episode of `env` (from `sim.environment.make_env`) to success or its horizon.

    Tick k is at k * period; the policy's answer counts as instantaneous, as in the lockstep graph.
    Raises SpecMismatch when the policy needs what the robot does not offer, ConfigError for a schedule under which its
    chunks grow too old for the gate.
    """
    episode = SimEpisode(env, policy, seed, scheduler_config, limits)
    policy.reset(seed)
    while not episode.is_done:
        observation = episode.observe()
        if observation is not None:
            episode.take(policy.infer(observation, episode.committed))
        episode.step(on_step)
    return episode.result()


class SimEpisode:
    """The robot's side of one episode: per tick `observe`, `take` where it asked for a chunk, and `step`."""

    def __init__(
        self, env: Any, needs: Needs, seed: int, scheduler_config: SchedulerConfig, limits: SafetyLimits
    ) -> None:
        """Begin the episode of `seed` for a policy that needs what `needs` says."""
        require_compatible(needs.spec, env.robot_spec, needs.policy_id)
        self.seed, self.is_done, self.success = seed, False, False
        self._env, self._spec = env, needs.spec.observation
        self._period_ns = env.robot_spec.action.period_ns
        # In lockstep every stream is sampled at every tick: anything older than the tick would be a mistake.
        self._buffer = ObservationBuffer(self._spec, needs.obs_steps, max_age_ns=0)
        self._scheduler = ChunkScheduler(scheduler_config)
        self._gate = SafetyGate(env.robot_spec.action, limits)
        self._chunk_age_max_ns = round(limits.request.chunk_age_max_s * 1e9)
        self._commands: list[NDArray[np.float64]] = []
        self._pending: tuple[ActionChunk, int] | None = None
        self._maxima: dict[str, float] = {}
        self._values, _ = env.reset(seed=seed)
        self._gate.arm(Tick(0, 0), Sample(0, 0, env.measured_action()))

    @property
    def _now_ns(self) -> int:
        return len(self._commands) * self._period_ns

    def observe(self) -> Observation | None:
        """Take in what the world shows; return the observation of this tick when a chunk is due and none on its way."""
        for array in self._spec:
            self._buffer.push(array.name, self._now_ns, self._now_ns, self._values[array.name])
        self._deliver()
        is_due = self._pending is None and self._scheduler.needs_chunk(self._now_ns)
        return self._buffer.latest(self._now_ns) if is_due else None

    @property
    def committed(self) -> CommittedActions | None:
        """Return what is executed while an observation of this tick is answered."""
        return self._scheduler.committed(self._now_ns)

    def take(self, chunk: ActionChunk, delay_ns: int = 0) -> None:
        """Take a policy's answer to this tick, which arrives `delay_ns` later: until then no other is asked for.

        Raises ConfigError where more of it is to be executed than the gate lets through.
        """
        self._require_fresh(chunk)
        self._pending = chunk, self._now_ns + delay_ns
        self._deliver()

    def _require_fresh(self, chunk: ActionChunk) -> None:
        """Refuse a schedule under which the robot, here as anywhere, would stand still at the end of every chunk."""
        steps = min(self._scheduler.config.execute_steps, len(chunk.actions))
        age_ns = chunk.start_ns - chunk.stamp_ns + (steps - 1) * chunk.period_ns
        if age_ns > self._chunk_age_max_ns:
            raise ConfigError(
                f"execute_steps is {self._scheduler.config.execute_steps}: action {steps} of a chunk is executed "
                f"{age_ns / 1e9:g} s after its observation, chunk_age_max_s is {self._chunk_age_max_ns / 1e9:g}"
            )

    def _deliver(self) -> None:
        """Hand the answer on its way to the scheduler once its time has come."""
        if self._pending is not None and self._pending[1] <= self._now_ns:
            chunk, arrival_ns = self._pending
            self._pending = None
            self._scheduler.push(chunk, arrival_ns)

    @property
    def scheduled(self) -> NDArray[np.float64] | None:
        """Return what the policy asks for at this tick (D,), before any correction; None while no chunk covers it."""
        scheduled = self._scheduler.action_at(self._now_ns)
        return None if scheduled is None else scheduled.action

    @property
    def values(self) -> dict[str, NDArray[Any]]:
        """Return what the world shows at this tick."""
        return self._values

    @property
    def measured(self) -> NDArray[np.float64]:
        """Return where the robot is, in the layout of an action (D,)."""
        return self._env.measured_action()

    @property
    def commanded(self) -> NDArray[np.float64]:
        """Return the command of the tick before (D,), at the first tick where the robot is."""
        return self._commands[-1] if self._commands else self.measured

    def step(self, on_step: OnStep | None = None, residual: Residual | None = None) -> Command:
        """Command the world, corrected where there is a `residual`, and let a period pass; return the command."""
        now_ns = self._now_ns
        measured = Sample(now_ns, now_ns, self.measured)
        tick = Tick(now_ns, now_ns)
        command = control_step(tick, measured, self._scheduler, residual or NoResidual(), self._gate)
        if on_step is not None:
            on_step(self._values, command)
        self._commands.append(command.action)
        self._values, _, self.success, truncated, info = self._env.step(command.action)
        for name, value in info.items():
            if isinstance(value, float):
                self._maxima[name] = max(value, self._maxima.get(name, value))
        self.is_done = self.success or truncated
        return command

    def result(self) -> EpisodeResult:
        """Return what has happened so far."""
        steps = len(self._commands)
        duration_s = steps * self._period_ns / 1e9
        commands, reasons = np.stack(self._commands), self._gate.counts
        return EpisodeResult(self.seed, self.success, steps, duration_s, commands, reasons, self._maxima)
