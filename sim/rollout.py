"""One episode without ROS: the same buffer, scheduler, gate and control step as on the robot, in simulated time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armature.control.chunk_scheduler import ChunkScheduler, SchedulerConfig
from armature.control.control_step import control_step
from armature.control.observation_buffer import ObservationBuffer
from armature.control.residual import NoResidual
from armature.control.safety_gate import SafetyGate, SafetyLimits
from armature.policy import Policy
from armature.spec import require_compatible
from armature.types import Command, Reason, Sample

OnStep = Callable[[dict[str, NDArray[Any]], Command], None]
"""Called once per tick with the observation before the command, and the command."""


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
    Raises SpecMismatch when the policy needs what the robot does not offer.
    """
    require_compatible(policy.spec, env.robot_spec, policy.policy_id)
    arm = _Arm(env, policy, scheduler_config, limits)
    values, _ = env.reset(seed=seed)
    policy.reset(seed)
    commands: list[NDArray[np.float64]] = []
    success = done = False
    while not done:
        command = arm.command(len(commands), values)
        if on_step is not None:
            on_step(values, command)
        commands.append(command.action)
        values, _, success, truncated, _ = env.step(command.action)
        done = success or truncated
    period_s = arm.period_ns / 1e9
    return EpisodeResult(seed, success, len(commands), len(commands) * period_s, np.stack(commands), arm.reasons)


class _Arm:
    """The robot's side of one episode."""

    def __init__(self, env: Any, policy: Policy, scheduler_config: SchedulerConfig, limits: SafetyLimits) -> None:
        self.period_ns = env.robot_spec.action.period_ns
        self._env, self._policy = env, policy
        # In lockstep every stream is sampled at every tick: anything older than the tick would be a mistake.
        self._buffer = ObservationBuffer(policy.spec.observation, policy.obs_steps, max_age_ns=0)
        self._scheduler = ChunkScheduler(scheduler_config)
        self._gate = SafetyGate(env.robot_spec.action, limits)

    @property
    def reasons(self) -> Counter[Reason]:
        return self._gate.counts

    def command(self, tick: int, values: dict[str, NDArray[Any]]) -> Command:
        now_ns = tick * self.period_ns
        for array in self._policy.spec.observation:
            self._buffer.push(array.name, now_ns, now_ns, values[array.name])
        measured = self._env.measured_action()
        if tick == 0:
            self._gate.arm(now_ns, measured)
        if self._scheduler.needs_chunk(now_ns):
            self._infer(now_ns)
        return control_step(now_ns, Sample(now_ns, now_ns, measured), self._scheduler, NoResidual(), self._gate)

    def _infer(self, now_ns: int) -> None:
        observation = self._buffer.latest(now_ns)
        if observation is not None:
            self._scheduler.push(self._policy.infer(observation))
