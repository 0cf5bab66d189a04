"""Scripted experts: they see the simulator's poses and do the task as a person with a joystick might."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from armature.errors import ConfigError, unknown
from armature.policy import Policy
from armature.spec import JOINT_POSITION, RobotSpec
from armature.types import ActionChunk, CommittedActions, Observation
from sim.arms import arm_of
from sim.kinematics import ArmKinematics, rotation_vector
from sim.motion import TcpMotion, Waypoint
from sim.scripts import SCRIPTS, View, draw_style
from sim.tasks import DELTA_MAX, STATE, SimConfig, robot_spec

WAYPOINT_STEPS_MAX = 80
ARRIVAL_LAG_MAX_M = 0.012
WOBBLE_M_S = 0.012
WOBBLE_MEMORY = 0.85


def make_expert(config: SimConfig) -> Policy:
    """Build the scripted expert of a task; raise ConfigError when the task has none."""
    spec = robot_spec(config)
    if config.task not in SCRIPTS:
        raise ConfigError(unknown("task with an expert", config.task, SCRIPTS))
    if not config.privileged:
        raise ConfigError("privileged: false, but the expert needs tcp/pose and object/pose")
    return ScriptedExpert(config.task, spec.select(STATE))


class ScriptedExpert:
    """Follows a task's script with its own variation; answers every observation with one action."""

    obs_steps = 1

    def __init__(self, task: str, spec: RobotSpec) -> None:
        """Serve `task`, one of sim.scripts.SCRIPTS, with the actions of `spec`."""
        self.spec = spec
        self.policy_id = f"expert/{task}"
        self._script = SCRIPTS[task]
        self._arm = arm_of(spec.name)
        self._kinematics = ArmKinematics(self._arm)
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; the seed fixes the way of doing it."""
        self._rng = np.random.default_rng(seed)
        self._motion: TcpMotion | None = None
        self._sequence = 0

    def infer(self, observation: Observation, committed: CommittedActions | None = None) -> ActionChunk:
        """Answer an observation of STATE arrays with a chunk of one action; raise ConfigError on `committed` ones."""
        if committed is not None:
            raise ConfigError(f"{self.policy_id} cannot go on from committed actions: it answers with one action")
        latest = observation.latest()
        self._view = View.of(latest)
        if self._motion is None:
            self._begin(latest[JOINT_POSITION].astype(np.float64))
        waypoint = self._current_waypoint()
        self._motion.advance(waypoint, self._view.tcp_position, self._next_wobble())
        self._sequence += 1
        return ActionChunk(
            stamp_ns=observation.stamp_ns,
            start_ns=observation.stamp_ns,
            period_ns=self.spec.action.period_ns,
            actions=self._action(waypoint)[None],
            policy_id=self.policy_id,
            sequence=self._sequence,
        )

    def _begin(self, joints: NDArray[np.float64]) -> None:
        self._motion = TcpMotion(self._arm, self._kinematics, joints)
        self._waypoints: Iterator[Waypoint] = self._script(lambda: self._view, draw_style(self._rng))
        self._waypoint: Waypoint | None = None
        self._steps_left = self._dwell_left = 0
        self._wobble = np.zeros(3)

    def _current_waypoint(self) -> Waypoint:
        if self._waypoint is None or self._is_done(self._waypoint):
            self._waypoint = next(self._waypoints)
            self._steps_left, self._dwell_left = WAYPOINT_STEPS_MAX, self._waypoint.dwell_steps
        self._steps_left -= 1
        return self._waypoint

    def _is_done(self, waypoint: Waypoint) -> bool:
        lag_m = float(np.linalg.norm(self._motion.position - self._view.tcp_position))
        if self._motion.distance_m(waypoint) < waypoint.tolerance_m and lag_m < max(
            waypoint.tolerance_m, ARRIVAL_LAG_MAX_M
        ):
            self._dwell_left -= 1
        return self._dwell_left < 0 or self._steps_left <= 0

    def _next_wobble(self) -> NDArray[np.float64]:
        fresh = self._rng.normal(0.0, WOBBLE_M_S * np.sqrt(1 - WOBBLE_MEMORY**2), 3)
        self._wobble = WOBBLE_MEMORY * self._wobble + fresh
        return self._wobble

    def _action(self, waypoint: Waypoint) -> NDArray[np.float64]:
        if self.spec.action.kind == "joint_position":
            return np.append(self._motion.joints, waypoint.opening_m)
        turn = rotation_vector(self._motion.rotation @ self._view.tcp_rotation.T)
        delta = np.concatenate((self._motion.position - self._view.tcp_position, turn))
        return np.append(np.clip(delta, np.negative(DELTA_MAX), DELTA_MAX), waypoint.opening_m)
