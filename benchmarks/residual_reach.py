"""How good can a residual of limited reach become? A weak policy, corrected at every step towards the scripted expert.

The correction is the motion that leads to the expert's action, element by element cut to the reach: what a learner of
corrections can hope for with the same. Reach is counted as a share of what the gate lets the arm move in one action
period, of the gripper as a share of half its range.

    python benchmarks/residual_reach.py --base runs/base/checkpoint [--task lift] [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from harness import Arguments, Criterion, at_least, main, require_number
from numpy.typing import NDArray
from rich.progress import track

from armature.policy import Policy
from armature.types import Observation
from policies.action_frame import ActionFrame
from policies.checkpoint import load_policy
from policies.chunk_policy import ChunkPolicy
from policies.detour import Detour
from policies.residual_td3 import ResidualConfig
from sim.corrected_world import CorrectedWorld, PolicyNeeds
from sim.defaults import RESIDUAL_SHARE, default_scheduler, limits_for
from sim.evaluate import world_for
from sim.expert import make_expert
from sim.tasks import robot_spec

REACH = RESIDUAL_SHARE * ResidualConfig().scale
SUCCESS_MIN = 0.95
FIRST_SEED = 1000
QUICK_EPISODES = 4


@dataclass(frozen=True, kw_only=True)
class ReachArguments(Arguments):
    """What can be asked of this benchmark."""

    base: Path
    """Checkpoint of the weak policy."""
    task: str = "lift"
    reaches: tuple[float, ...] = (0.0, REACH / 2, REACH, 3 * REACH)
    """Motions per step to try; 0: the policy alone."""
    episodes: int = 24


def measure(arguments: ReachArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Run the episodes of every reach, all from the same starts; the bound is for the simulated robots' own."""
    require_number("episodes", arguments.episodes, 1)
    torch.set_num_threads(1)
    base, episodes = load_policy(arguments.base), QUICK_EPISODES if quick else arguments.episodes
    rates = {reach: success_rate(base, arguments.task, reach, episodes) for reach in arguments.reaches}
    for reach, rate in rates.items():
        print(f"reach {reach:g}: {round(rate * episodes)} of {episodes}")
    found = rates.get(REACH, float("nan"))
    return [at_least(f"{arguments.task}, reach {REACH:g}", found, "of all", SUCCESS_MIN)], {"rates": rates}


def success_rate(base: ChunkPolicy, task: str, reach: float, episodes: int) -> float:
    """Return how many of the episodes end well with corrections of a reach."""
    sim = world_for(base.spec, task, None)
    action = robot_spec(sim).action
    limits = limits_for(action)
    world = CorrectedWorld(sim, PolicyNeeds(base.spec, base.obs_steps, base.policy_id), default_scheduler(), limits)
    frame, expert = ActionFrame(action, limits), make_expert(sim)
    motion_max = reach / RESIDUAL_SHARE * frame.residual_max * frame.unit
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    try:
        outcomes = [succeeds(world, base, expert, frame, motion_max, seed) for seed in track(seeds, f"reach {reach:g}")]
        return sum(outcomes) / episodes
    finally:
        world.close()


def succeeds(
    world: CorrectedWorld,
    base: ChunkPolicy,
    expert: Policy,
    frame: ActionFrame,
    motion_max: NDArray[np.float64],
    seed: int,
) -> bool:
    """Run one episode; return whether the task was done."""
    expert.reset(seed)
    state, moment, detour = base.begin(seed), world.begin(seed), Detour(frame)
    outcome, step = None, 0
    while outcome is None or not outcome.is_done:
        if moment.question is not None:
            moment = world.take(base.infer_batch([moment.question], [state])[0])
            detour.follow(step)
        asked = moment.commanded if moment.base is None else moment.base
        seen = Observation(0, {name: np.asarray(value)[None] for name, value in moment.values.items()})
        wanted = expert.infer(seen).actions[0]
        motion = np.clip(wanted - asked - detour.distance, -motion_max, motion_max)
        outcome = world.step(detour.lead(step, asked, motion))
        moment, step = outcome.then, step + 1
    return outcome.success


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(ReachArguments, prog=f"benchmarks/{name}.py", description=__doc__)
    sys.exit(main(name, partial(measure, arguments), arguments))
