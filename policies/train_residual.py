"""`armature train-residual`: a policy gets better in simulation, by a residual learned from its own successes."""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro

from armature.config import to_plain
from armature.control.limits import SafetyLimits
from armature.normalizer import Normalizer
from armature.spec import require_compatible
from policies.checkpoint import load_policy
from policies.chunk_policy import ChunkPolicy
from policies.replay import Layout, NStep, Replay
from policies.residual_folder import ResidualFolder, ResidualSettings, save_residual
from policies.residual_learner import LearnerConfig, ResidualLearner
from policies.residual_td3 import ResidualTd3
from policies.residual_view import ResidualView
from policies.standing import Standing
from policies.train_online import Episodes, Evaluation, OnlineConfig, OnlineTraining, tell_end
from policies.train_residual_data import demonstration_rows, open_demonstrations, statistics_of
from policies.train_residual_log import ResidualLog, require_new
from policies.train_residual_robots import CorrectedRobots, Style, Transition
from sim.corrected_world import PolicyNeeds
from sim.defaults import limits_for
from sim.evaluate import world_for
from sim.tasks import SimConfig, robot_spec
from sim.world_processes import WorldProcesses


@dataclass(frozen=True, kw_only=True)
class ResidualTrainConfig(OnlineConfig):
    """What is trained on what."""

    base: Path | None
    """Checkpoint of the policy that is to get better; it stays as it is. None: learn without one, from standing still,
    with all of what the limits let the robot do."""
    dataset: Path
    """Successful demonstrations of the task, with the vectors that the residual sees."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)


def train_residual(config: ResidualTrainConfig) -> list[Evaluation]:
    """Learn; return the curve, whose first point is the base alone. Bad input is refused before the first step."""
    torch.set_num_threads(config.threads)
    require_new(config.out)
    base, world, limits = _start(config)
    robot = robot_spec(world)
    require_compatible(base.spec, robot, base.policy_id)
    episodes = open_demonstrations(config.dataset, robot, config.task)
    statistics = statistics_of(episodes, robot)
    view = ResidualView(robot, limits, statistics)
    td3 = ResidualTd3(
        config.learner.td3, view.observation_dim, view.action_dim, config.seed, bound=view.frame.residual_max
    )
    shown = demonstration_rows(episodes, base, view, config.learner.td3, config.scheduler.execute_steps)
    online = Replay(Layout(view.observation_dim, view.action_dim), config.learner.capacity)
    learner = ResidualLearner(config.learner, td3, base.policy_id, online, shown)
    needs = PolicyNeeds(base.spec, base.obs_steps, base.policy_id)
    worlds = WorldProcesses(2 * config.worlds, config.processes, world, needs, config.scheduler, limits)

    def keep(path: Path) -> None:
        _keep(path, config, view, statistics, learner)
        shown.save_to(path / "demonstrations", config.task)

    with worlds, ResidualLog(config.out, config.steps, to_plain(config), keep) as log:
        return _Run(config, base, view, learner, worlds, log).finish()


def _keep(
    path: Path, config: ResidualTrainConfig, view: ResidualView, statistics: Normalizer, learner: ResidualLearner
) -> None:
    """Write the residual as it is to `path`, with what it takes to go on learning."""
    td3 = config.learner.td3
    settings = ResidualSettings(td3.scale, td3.steps, td3.discount, config.learner.noise_memory_steps)
    plain = to_plain(config.learner)
    save_residual(path, ResidualFolder.of(config.task, view, statistics, settings, learner.weights(), plain))


def _start(config: ResidualTrainConfig) -> tuple[ChunkPolicy | Standing, SimConfig, SafetyLimits]:
    """Return what the residual is added to, its world, and the limits of its robot."""
    if config.base is not None:
        base = load_policy(config.base)
        base.reset(0)
        world = world_for(base.spec, config.task, config.horizon_steps)
        return base, world, limits_for(robot_spec(world).action)
    world = SimConfig(config.task, cameras=False, horizon_steps=config.horizon_steps)
    robot = robot_spec(world)
    limits = limits_for(robot.action)
    # All of the motion is the residual's: in its frame, it reaches from -1 to 1.
    everything = replace(limits.request, residual_share=2.0)
    return Standing(robot, limits), world, replace(limits, request=everything)


class _Run:
    """What a training of a residual adds to the loop that all share."""

    def __init__(
        self,
        config: ResidualTrainConfig,
        base: ChunkPolicy | Standing,
        view: ResidualView,
        learner: ResidualLearner,
        worlds: WorldProcesses,
        log: ResidualLog,
    ) -> None:
        self._config, self._learner, self._log = config, learner, log
        self._base, self._view, self._worlds = base, view, worlds
        self._layout = Layout(view.observation_dim, view.action_dim)
        self._nsteps: dict[int, NStep] = {}

    def finish(self) -> list[Evaluation]:
        """Train to the end, or until Ctrl-C; return the curve."""
        warmup_steps = self._config.learner.warmup_steps
        parts = self._learner, self._log, self._robots, self._robots, self._take
        return OnlineTraining(self._config, warmup_steps, *parts).finish(self._styles())

    def _robots(self, numbers: range, episodes: Episodes) -> CorrectedRobots:
        return CorrectedRobots(self._worlds, numbers, self._base, self._view, self._learner.td3, episodes)

    def _take(self, transition: Transition) -> None:
        td3 = self._config.learner.td3
        nstep = self._nsteps.setdefault(transition.seed, NStep(self._layout, td3.steps, td3.discount))
        self._learner.take(
            nstep.add(
                transition.step,
                transition.next_observation,
                transition.next_base,
                terminated=transition.terminated,
                cut=transition.cut,
            )
        )
        if transition.is_last:
            del self._nsteps[transition.seed]

    def _styles(self) -> Iterator[Style]:
        """Return how the episodes to learn from are run, each decided when it begins."""
        learner = self._config.learner
        for k in itertools.count():
            # While the critics get to know the base, half of the episodes show the guard what it can do.
            every = self._config.control_every if self._learner.is_warm else 2
            if k % every == 0:
                yield Style(0.0)
            else:
                yield Style(self._learner.share, learner.noise_std, learner.noise_memory_steps)


def main(argv: list[str]) -> int:
    """Run `armature train-residual`; print how often the task is done at the beginning and at the end."""
    config = tyro.cli(ResidualTrainConfig, prog="armature train-residual", description=__doc__, args=argv)
    begin_s = time.monotonic()
    curve = train_residual(config)
    tell_end(config.out, shlex.join(["armature", "train-residual", *argv]), time.monotonic() - begin_s, curve)
    return 0
