"""Push-T: push a T-shaped block onto its mark with a round finger, in the plane."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from armature.spec import AGENT_POSITION, CAMERA_SCENE, OBJECT_KEYPOINTS, OBJECT_POSE
from sim.spaces import action_space, observation_space, require_action
from sim.tasks import PUSHT_IMAGE_SIZE, PUSHT_KEYPOINTS_PX, SimConfig, horizon_steps, robot_spec

# Read by pygame when it is imported: no window, no greeting.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


class PushTEnv(gymnasium.Env[dict[str, NDArray[Any]], NDArray[np.float32]]):
    """gym-pusht in pixels of its 512 px square; success is a coverage of the mark above 95 %."""

    def __init__(self, config: SimConfig) -> None:
        """Build the world."""
        # Imported here, after the environment variables above.
        from gym_pusht.envs.pusht import PushTEnv as World

        self.config = config
        self.robot_spec = robot_spec(config)
        self.observation_space = observation_space(self.robot_spec.observation)
        self.action_space = action_space(self.robot_spec.action)
        self._horizon_steps = horizon_steps(config)
        self._steps = 0
        self._world = World(obs_type="state", observation_width=PUSHT_IMAGE_SIZE, observation_height=PUSHT_IMAGE_SIZE)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Begin an episode; the seed fixes where finger and block start."""
        super().reset(seed=seed)
        self._steps = 0
        state, _ = self._world.reset(seed=int(self.np_random.integers(2**31)))
        return self._observe(state), {"success": False}

    def step(self, action: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Move the finger towards `action` (2,) [px] for one period; raise InvalidValue when it is malformed."""
        state, _, success, _, info = self._world.step(require_action(self.robot_spec.action, action))
        self._steps += 1
        truncated = self._steps >= self._horizon_steps and not success
        result = {"success": bool(success), "coverage": float(info["coverage"])}
        return self._observe(state), float(success), bool(success), truncated, result

    def measured_action(self) -> NDArray[np.float64]:
        """Return where the finger is, (2,) [px]."""
        return np.array(self._world.agent.position, dtype=np.float64)

    def close(self) -> None:
        """Release the drawing surface."""
        self._world.close()

    def _observe(self, state: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        observation: dict[str, NDArray[Any]] = {}
        if self.config.cameras:
            observation[CAMERA_SCENE] = self._world._render()
        observation[AGENT_POSITION] = state[:2].astype(np.float32)
        if self.config.privileged:
            observation[OBJECT_POSE] = state[2:].astype(np.float32)
            observation[OBJECT_KEYPOINTS] = keypoints(state[2:]).astype(np.float32)
        return observation


def keypoints(pose: NDArray[Any]) -> NDArray[np.float64]:
    """Return where the block's nine points lie, (18,) [px]: unlike its angle they make no jump at a full turn.

    `pose` is x, y [px] and angle [rad].
    """
    x, y, angle = pose
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (np.array(PUSHT_KEYPOINTS_PX) @ turn.T + (x, y)).ravel()
