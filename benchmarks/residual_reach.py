"""How good can a residual of limited reach become? A weak policy, corrected at every step towards the scripted expert.

The correction is what leads to the expert's action, element by element cut to the reach: what a learner of corrections
can hope for with the same. Reach is counted as `residual_share` of the limits: a share of the motion that the gate
allows in one action period.

    python benchmarks/residual_reach.py --base runs/base/checkpoint [--task lift] [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from harness import Arguments, Criterion, at_least, main
from numpy.typing import NDArray
from rich.progress import track

from armature.policy import Policy
from armature.types import Observation
from policies.action_frame import ActionFrame
from policies.checkpoint import load_policy
from policies.chunk_policy import ChunkPolicy
from sim.corrected_world import CorrectedWorld, PolicyNeeds
from sim.defaults import RESIDUAL_SHARE, default_scheduler, limits_for
from sim.evaluate import world_for
from sim.expert import make_expert
from sim.tasks import robot_spec

SUCCESS_MIN = 0.95
FIRST_SEED = 1000
QUICK_EPISODES = 4


@dataclass(frozen=True, kw_only=True)
class ReachArguments(Arguments):
    """What can be asked of this benchmark."""

    base: Path
    """Checkpoint of the weak policy."""
    task: str = "lift"
    shares: tuple[float, ...] = (0.01, 0.3, 0.6, RESIDUAL_SHARE)
    """Reaches to try; the first one stands for none."""
    episodes: int = 24


def measure(arguments: ReachArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Run the episodes of every reach, all from the same starts; the bound is for the simulated robots' own."""
    torch.set_num_threads(1)
    base, episodes = load_policy(arguments.base), QUICK_EPISODES if quick else arguments.episodes
    rates = {share: success_rate(base, arguments.task, share, episodes) for share in arguments.shares}
    for share, rate in rates.items():
        print(f"reach {share:g}: {round(rate * episodes)} of {episodes}")
    found = rates.get(RESIDUAL_SHARE, float("nan"))
    return [at_least(f"{arguments.task}, reach {RESIDUAL_SHARE:g}", found, "of all", SUCCESS_MIN)], {"rates": rates}


def success_rate(base: ChunkPolicy, task: str, share: float, episodes: int) -> float:
    """Return how many of the episodes end well with corrections of a reach."""
    sim = world_for(base.spec, task, None)
    action = robot_spec(sim).action
    known = limits_for(action)
    limits = replace(known, request=replace(known.request, residual_share=share))
    world = CorrectedWorld(sim, PolicyNeeds(base.spec, base.obs_steps, base.policy_id), default_scheduler(), limits)
    frame, expert = ActionFrame(action, limits), make_expert(sim)
    reach = frame.residual_max * frame.unit
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    try:
        return sum(succeeds(world, base, expert, reach, seed) for seed in track(seeds, f"reach {share:g}")) / episodes
    finally:
        world.close()


def succeeds(world: CorrectedWorld, base: ChunkPolicy, expert: Policy, reach: NDArray[np.float64], seed: int) -> bool:
    """Run one episode; return whether the task was done."""
    expert.reset(seed)
    state, moment = base.begin(seed), world.begin(seed)
    while True:
        if moment.question is not None:
            moment = world.take(base.infer_batch([moment.question], [state])[0])
        asked = moment.commanded if moment.base is None else moment.base
        seen = Observation(0, {name: np.asarray(value)[None] for name, value in moment.values.items()})
        wanted = expert.infer(seen).actions[0]
        outcome = world.step(np.clip(wanted - asked, -reach, reach))
        if outcome.is_done:
            return outcome.success
        moment = outcome.then


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(ReachArguments, prog=f"benchmarks/{name}.py", description=__doc__)
    sys.exit(main(name, partial(measure, arguments), arguments))
