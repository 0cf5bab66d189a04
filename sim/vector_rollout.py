"""Many episodes at once: all worlds step in turn, and one call of the policy answers all that ask for a chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from armature.control.chunk_scheduler import SchedulerConfig
from armature.control.limits import SafetyLimits
from armature.policy import Policy
from armature.types import ActionChunk, CommittedActions, Observation
from sim.rollout import EpisodeResult, SimEpisode


class BatchPolicy(Policy, Protocol):
    """A policy that answers many episodes in one call, each as if it were the only one."""

    def begin(self, seed: int) -> Any:
        """Return the state of an episode, that `infer_batch` takes and changes: what `reset(seed)` does for `infer`."""
        ...

    def infer_batch(
        self,
        observations: Sequence[Observation],
        episodes: Sequence[Any],
        committed: Sequence[CommittedActions | None] = (),
    ) -> list[ActionChunk]:
        """Answer the observation of each episode, going on from what it executes meanwhile."""
        ...


def vector_rollout(
    envs: Sequence[Any],
    policy: BatchPolicy,
    seeds: Sequence[int],
    scheduler_config: SchedulerConfig,
    limits: SafetyLimits,
    on_episode: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Run the episodes of all `seeds`, as many at a time as there are `envs`; the results are those of `rollout`.

    They are equal as far as the policy's answer does not depend on its batch: a network's may, in the last bits.
    """
    results: list[EpisodeResult] = []
    for begin in range(0, len(seeds), len(envs)):
        group = seeds[begin : begin + len(envs)]
        episodes = [SimEpisode(env, policy, s, scheduler_config, limits) for env, s in zip(envs, group, strict=False)]
        for result in _run(episodes, policy):
            results.append(result)
            if on_episode is not None:
                on_episode(result)
    return results


def _run(episodes: Sequence[SimEpisode], policy: BatchPolicy) -> list[EpisodeResult]:
    states = [policy.begin(episode.seed) for episode in episodes]
    while any(not episode.is_done for episode in episodes):
        running = [(episode, state) for episode, state in zip(episodes, states, strict=True) if not episode.is_done]
        asked = [(episode, state, episode.observe()) for episode, state in running]
        asking = [(episode, state, seen) for episode, state, seen in asked if seen is not None]
        if asking:
            committed = [episode.committed for episode, *_ in asking]
            chunks = policy.infer_batch([seen for *_, seen in asking], [state for _, state, _ in asking], committed)
            for (episode, *_), chunk in zip(asking, chunks, strict=True):
                episode.take(chunk)
        for episode, _ in running:
            episode.step()
    return [episode.result() for episode in episodes]
