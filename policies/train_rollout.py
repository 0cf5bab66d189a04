"""Success in simulation while training, and the checkpoint that had most of it.

The simulator is imported with the first evaluation. Episodes are shared out over the processes of the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from armature.config import to_plain
from armature.errors import ConfigError, unknown
from armature.spec import RobotSpec, require_compatible
from policies.checkpoint import DOCUMENT, read_document
from policies.chunk_policy import ChunkPolicy, require_committed_family
from policies.train_config import RolloutConfig
from policies.train_workers import Workers


def require_task(config: RolloutConfig, spec: RobotSpec) -> None:
    """Raise before any training step where the task is unknown or its robot is not that of the dataset."""
    from sim.evaluate import world_for
    from sim.tasks import horizon_steps, robot_spec

    world = world_for(spec, config.task, config.horizon_steps)
    horizon_steps(world)
    require_compatible(spec, robot_spec(world), f"the policy, on rollout.task '{config.task}'")


def require_able(config: RolloutConfig, family: str, goal_steps: int) -> None:
    """Raise ConfigError before any training step where such a policy could not be evaluated in episodes."""
    if goal_steps:
        raise ConfigError(
            f"policy.goal_steps is {goal_steps}, rollout.every_steps {config.every_steps}: no episode gives a goal. "
            "Leave out the goals or the rollouts"
        )
    if config.scheduler.mode == "real_time_chunking":
        require_committed_family(family)


def require_prompt(config: RolloutConfig, prompts: Sequence[str]) -> None:
    """Raise ConfigError before any training step where it is not clear which of the dataset's prompts is told.

    None has to be for a policy that takes none, which has no `prompts`.
    """
    if not prompts:
        if config.prompt:
            raise ConfigError(f"rollout.prompt '{config.prompt}': the policy takes none (policy.text.folder is unset)")
        return
    if config.prompt not in prompts and not (config.prompt == "" and len(prompts) == 1):
        raise ConfigError(unknown("rollout.prompt", config.prompt, prompts))


def measure_success(policy: ChunkPolicy, config: RolloutConfig, workers: Workers) -> dict[str, Any]:
    """Run the episodes and return successes `k` of `n`, their rate and its 95 % Wilson interval."""
    from sim.evaluate import run_episodes, world_for
    from sim.intervals import wilson_interval

    world = world_for(policy.spec, config.task, config.horizon_steps)
    seeds = range(config.seed + workers.index, config.seed + config.episodes, workers.count)
    with _told(policy, config.prompt):
        successes = sum(result.success for result in run_episodes(policy, world, seeds, config.scheduler))
    k, n = workers.total(successes), config.episodes
    low, high = wilson_interval(k, n)
    return {"k": k, "n": n, "rate": k / n, "low": low, "high": high}


@contextmanager
def _told(policy: ChunkPolicy, prompt: str) -> Iterator[None]:
    """Tell a policy that takes prompts one of those that it is trained with, and give it back all of them after."""
    known = policy.prompts
    if known:
        policy.set_prompt(prompt or known[0])
    try:
        yield
    finally:
        if known:
            policy.set_prompts(known)


class Best:
    """The most successful checkpoint of a training; of equals the later."""

    def __init__(self, path: Path, config: RolloutConfig, step: int) -> None:
        """Take over what lies at `path` when it was chosen by the same episodes, not after `step`."""
        self._config = to_plain(config)
        self.successes = -1
        if (path / DOCUMENT).exists():
            training = read_document(path)["provenance"]["training"]
            if training["steps"] <= step and training["config"]["rollout"] == self._config:
                self.successes = training["rollout"]["k"]

    def is_reached(self, successes: int) -> bool:
        """Tell whether so many successes are the best so far, and remember them."""
        is_best = successes >= self.successes
        self.successes = max(self.successes, successes)
        return is_best
