"""How often a policy does its task with a residual, or without one: from starts that nobody has learned from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from armature.config import from_plain
from armature.errors import ConfigError
from policies.chunk_policy import ChunkPolicy
from policies.residual_folder import ResidualFolder
from policies.residual_learner import LearnerConfig
from policies.residual_td3 import ResidualTd3
from policies.train_residual_robots import CorrectedRobots, Style
from sim.corrected_world import PolicyNeeds
from sim.defaults import default_scheduler, limits_for
from sim.evaluate import world_for
from sim.tasks import robot_spec
from sim.world_processes import WorldProcesses

TOGETHER = 10


def learned(folder: ResidualFolder) -> ResidualTd3:
    """Return the networks of a residual, of which those that act are known."""
    config = from_plain(LearnerConfig, folder.learner)
    dim = folder.weights.action_dim
    td3 = ResidualTd3(config.td3, folder.weights.input_dim - dim, dim, bound=np.array(folder.residual_max))
    td3.acting.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in folder.weights.arrays.items()})
    return td3


def successes(
    policy: ChunkPolicy, folder: ResidualFolder, td3: ResidualTd3, share: float, seeds: range
) -> NDArray[np.float64]:
    """Return 1 for every seed (seeds,) from whose start the policy, corrected by `share`, does the task, else 0.

    Raises ConfigError where the residual corrects another policy.
    """
    if folder.base_id != policy.policy_id:
        raise ConfigError(f"the residual corrects policy '{folder.base_id}', to be judged is '{policy.policy_id}'")
    world = world_for(policy.spec, folder.task, None)
    robot = robot_spec(world)
    limits = limits_for(robot.action)
    needs = PolicyNeeds(policy.spec, policy.obs_steps, policy.policy_id)
    ended: dict[int, bool] = {}
    with WorldProcesses(TOGETHER, 1, world, needs, default_scheduler(), limits) as worlds:
        episodes = iter([(seed, Style(share)) for seed in seeds])
        robots = CorrectedRobots(worlds, range(TOGETHER), policy, folder.view(robot, limits), td3, episodes)
        while robots.is_running:
            robots.send()
            ended |= {each.seed: each.success for each in robots.receive() if each.is_last}
    return np.array([ended[seed] for seed in seeds], dtype=np.float64)
