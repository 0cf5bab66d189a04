"""`armature train-residual`: a policy gets better in simulation, by a residual learned from its own successes."""

from __future__ import annotations

import itertools
import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console

from armature.config import to_plain
from armature.control.chunk_scheduler import SchedulerConfig
from armature.control.limits import SafetyLimits
from armature.errors import ConfigError
from armature.spec import require_compatible
from policies.checkpoint import load_policy
from policies.chunk_policy import ChunkPolicy
from policies.replay import Layout, NStep, Replay
from policies.residual_learner import LearnerConfig, ResidualLearner
from policies.residual_td3 import ResidualTd3
from policies.residual_view import ResidualView
from policies.standing import Standing
from policies.train_log import interruption
from policies.train_residual_data import demonstration_rows, open_demonstrations, statistics_of
from policies.train_residual_log import ResidualLog
from policies.train_residual_robots import CorrectedRobots, Style, Transition, run_all
from sim.corrected_world import PolicyNeeds
from sim.defaults import default_scheduler, limits_for
from sim.evaluate import world_for
from sim.intervals import wilson_interval
from sim.tasks import SimConfig, robot_spec
from sim.world_processes import WorldProcesses

FIRST_SEED, FIRST_TEST_SEED = 500_000, 1000
"""Of the episodes to learn from, and of those to judge by, which are never learned from."""
SEEDS_APART = 1_000_000
"""Between the first seeds of two trainings."""


@dataclass(frozen=True)
class ResidualTrainConfig:
    """What is trained on what."""

    base: Path | None
    """Checkpoint of the policy that is to get better; it stays as it is. None: learn without one, from standing still,
    with all of what the limits let the robot do."""
    task: str
    """Task of the simulated robot."""
    dataset: Path
    """Successful demonstrations of the task, with the vectors that the residual sees."""
    out: Path
    """Folder of what is learned: `actor` (the newest), `best`, curve.json and tensorboard."""
    steps: int = 60_000
    """Environment steps after the warm-up."""
    seed: int = 0
    worlds: int = 4
    """Robots at once."""
    processes: int = 1
    """Processes that simulate them."""
    evaluate_every_steps: int = 5000
    evaluate_episodes: int = 50
    control_every: int = 10
    """Every so manyth episode is run by the base alone, for the guard to compare with."""
    horizon_steps: int | None = None
    """Steps after which an attempt is cut off; the task's own number if unset."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    scheduler: SchedulerConfig = field(default_factory=default_scheduler)
    threads: int = 1
    """CPU threads of torch; the networks are too small for more."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("steps", "worlds", "processes", "evaluate_every_steps", "evaluate_episodes", "control_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")


@dataclass(frozen=True)
class Evaluation:
    """How often the task was done, of the same starts every time."""

    step: int
    """Environment steps after the warm-up."""
    share: float
    successes: int
    episodes: int
    low: float
    high: float
    """95 % Wilson interval."""
    mean_steps: float
    """Of an episode."""


def train_residual(config: ResidualTrainConfig) -> list[Evaluation]:
    """Learn; return the curve, whose first point is the base alone. Bad input is refused before the first step."""
    torch.set_num_threads(config.threads)
    base, world, limits = _start(config)
    robot = robot_spec(world)
    require_compatible(base.spec, robot, base.policy_id)
    episodes = open_demonstrations(config.dataset, robot)
    view = ResidualView(robot, limits, statistics_of(episodes, robot))
    td3 = ResidualTd3(
        config.learner.td3, view.observation_dim, view.action_dim, config.seed, bound=view.frame.residual_max
    )
    shown = demonstration_rows(episodes, base, view, config.learner.td3, config.scheduler.execute_steps)
    online = Replay(Layout(view.observation_dim, view.action_dim), config.learner.capacity)
    learner = ResidualLearner(config.learner, td3, base.policy_id, online, shown)
    needs = PolicyNeeds(base.spec, base.obs_steps, base.policy_id)
    worlds = WorldProcesses(2 * config.worlds, config.processes, world, needs, config.scheduler, limits)
    with worlds, ResidualLog(config.out, config.steps, to_plain(config)) as log:
        return _Run(config, base, view, learner, worlds, log).finish()


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
    """One training from its warm-up to its last evaluation."""

    def __init__(
        self,
        config: ResidualTrainConfig,
        base: ChunkPolicy | Standing,
        view: ResidualView,
        learner: ResidualLearner,
        worlds: WorldProcesses,
        log: ResidualLog,
    ) -> None:
        self.config, self.learner, self.log = config, learner, log
        self._base, self._view, self._worlds = base, view, worlds
        self._nsteps: dict[int, NStep] = {}
        self.curve: list[Evaluation] = []

    @property
    def step(self) -> int:
        """Return the environment steps after the warm-up."""
        return max(0, self.learner.steps - self.config.learner.warmup_steps)

    def finish(self) -> list[Evaluation]:
        """Train to the end, or until Ctrl-C; return the curve."""
        self._evaluate(0.0)
        robots = self._robots(range(self.config.worlds), self._styles())
        with interruption() as interrupted:
            while self.step < self.config.steps and not interrupted.is_set():
                robots.send()
                figures = self._learn()
                for transition in robots.receive():
                    self._take(transition)
                self.log.step(self.step, figures, self.learner)
                if self.step // self.config.evaluate_every_steps >= len(self.curve):
                    self._evaluate(self.learner.share)
        return self.curve

    def _learn(self) -> dict[str, float]:
        """Learn what is due while the worlds step."""
        figures: dict[str, float] = {}
        while self.learner.is_due:
            figures = self.learner.update()
        return figures

    def _take(self, transition: Transition) -> None:
        nstep = self._nsteps.setdefault(transition.seed, self._new_nstep())
        self.learner.take(
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
            self._tell_guard(transition)

    def _tell_guard(self, transition: Transition) -> None:
        style, success = transition.style, transition.terminated
        if style.share == 0.0:
            if style.noise_std == 0.0:
                self.learner.guard.record_base(success=success)
        else:
            self.learner.guard.record(style.share, success=success)
        self.log.episode(self.step, style, success=success, steps=transition.index + 1)

    def _new_nstep(self) -> NStep:
        td3 = self.config.learner.td3
        return NStep(Layout(self._view.observation_dim, self._view.action_dim), td3.steps, td3.discount)

    def _styles(self) -> Iterator[tuple[int, Style]]:
        """Return seeds and styles of the episodes to learn from, each decided when it begins."""
        learner = self.config.learner
        first = FIRST_SEED + self.config.seed * SEEDS_APART
        for k in itertools.count():
            # While the critics get to know the base, half of the episodes show the guard what it can do.
            every = self.config.control_every if self.learner.is_warm else 2
            if k % every == 0:
                yield first + k, Style(0.0)
            else:
                yield first + k, Style(self.learner.share, learner.noise_std, learner.noise_memory_steps)

    def _robots(self, numbers: range, episodes: Iterator[tuple[int, Style]]) -> CorrectedRobots:
        return CorrectedRobots(self._worlds, numbers, self._base, self._view, self.learner.td3, episodes)

    def _evaluate(self, share: float) -> None:
        """Run the same starts without noise, and keep the actor that did best."""
        seeds = range(FIRST_TEST_SEED, FIRST_TEST_SEED + self.config.evaluate_episodes)
        ended: list[Transition] = []
        robots = self._robots(
            range(self.config.worlds, 2 * self.config.worlds), iter([(seed, Style(share)) for seed in seeds])
        )
        run_all(robots, lambda transition: ended.append(transition) if transition.is_last else None)
        k, n = sum(transition.terminated for transition in ended), len(ended)
        mean_steps = sum(transition.index + 1 for transition in ended) / n
        evaluation = Evaluation(self.step, share, k, n, *wilson_interval(k, n), mean_steps)
        self.curve.append(evaluation)
        self.log.evaluation(evaluation, self.learner)


def main(argv: list[str]) -> int:
    """Run `armature train-residual`; print how often the task is done at the beginning and at the end."""
    config = tyro.cli(ResidualTrainConfig, prog="armature train-residual", description=__doc__, args=argv)
    begin_s = time.monotonic()
    curve = train_residual(config)
    first, last = curve[0], curve[-1]
    document = {
        "command": shlex.join(["armature", "train-residual", *argv]),
        "wall_s": time.monotonic() - begin_s,
        "curve": [asdict(each) for each in curve],
    }
    (config.out / "curve.json").write_text(json.dumps(document, indent=1) + "\n")
    said = f"base {first.successes} of {first.episodes}, now {last.successes} of {last.episodes}: {config.out}"
    Console(stderr=True).print(said, highlight=False, soft_wrap=True)
    return 0
