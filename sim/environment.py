"""The one door to the simulated worlds."""

from __future__ import annotations

from typing import Any

import gymnasium

from sim.tasks import SimConfig, task_of


def make_env(config: SimConfig) -> gymnasium.Env[Any, Any]:
    """Build the world of a task behind one interface.

    Observations are dicts keyed by the names of `env.robot_spec.observation`, actions are (dim,) in physical units;
    `reward` is 1.0 at success only, success terminates, the horizon truncates, `info["success"]` tells which.
    `reset(seed=...)` determines the whole episode. Raises ConfigError for an unknown task.
    """
    if task_of(config).world == "pusht":
        from sim.pusht_env import PushTEnv

        return PushTEnv(config)
    from sim.arm_env import ArmEnv

    return ArmEnv(config)
