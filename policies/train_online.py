"""Learning from a robot that acts meanwhile, whatever is learned: episodes, updates and evaluations by turns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from armature.control.chunk_scheduler import SchedulerConfig
from armature.errors import ConfigError
from policies.episode_order import EpisodeOrder
from policies.online_learner import OnlineLearner
from policies.online_state import Before, OnlineState
from policies.train_log import interruption
from policies.train_residual_log import ResidualLog
from policies.train_residual_robots import Style
from sim.defaults import default_scheduler
from sim.intervals import wilson_interval

FIRST_SEED, FIRST_TEST_SEED = 500_000, 1000
"""Of the episodes to learn from, and of those to judge by, which are never learned from."""
SEEDS_APART = 1_000_000
"""Between the first seeds of two trainings."""


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """What a robot learns while it acts, how long, and how often it is judged."""

    task: str
    """Task of the simulated robot."""
    out: Path
    """Folder of what is learned: `actor` (the newest) and `best`, the curve and tensorboard."""
    steps: int = 60_000
    """Environment steps after the warm-up; 0: only judge the base and write what does nothing yet."""
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
    scheduler: SchedulerConfig = field(default_factory=default_scheduler)
    threads: int = 1
    """CPU threads of torch; the networks are too small for more."""
    resume: bool = False
    """Go on from `out`/state, with more steps if you like."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("steps", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be 0 or more")
        for name in ("worlds", "processes", "evaluate_every_steps", "evaluate_episodes", "control_every", "threads"):
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


class Robots(Protocol):
    """What acts: its transitions tell `seed`, `style`, `terminated`, `is_last` and `index`."""

    is_running: bool

    def send(self) -> None:
        """Let the worlds begin their steps."""
        ...

    def receive(self) -> list[Any]:
        """Return the transitions that they led to."""
        ...


Episodes = Iterator[tuple[int, Style]]


class OnlineTraining:
    """One training from its warm-up to its last evaluation."""

    def __init__(
        self,
        config: OnlineConfig,
        warmup_steps: int,
        learner: OnlineLearner,
        log: ResidualLog,
        learning_robots: Callable[[range, Episodes], Robots],
        judged_robots: Callable[[range, Episodes], Robots],
        take: Callable[[Any], None],
        state: OnlineState | None,
        begun: int = 0,
    ) -> None:
        """`take` hands a transition to the learner; robots are made of the numbers of their worlds and episodes.

        `state` is what it can be gone on from; `begun` episodes, and the log's curve, there were before.
        """
        self._config, self._warmup_steps, self._learner, self._log = config, warmup_steps, learner, log
        self._learning_robots, self._judged_robots, self._take = learning_robots, judged_robots, take
        self._state, self._begun = state, begun
        self._order = EpisodeOrder()
        names = {field.name for field in fields(Evaluation)}
        self.curve = [Evaluation(**{name: point[name] for name in names}) for point in log.curve]

    @property
    def step(self) -> int:
        """Return the environment steps after the warm-up."""
        return max(0, self._learner.steps - self._warmup_steps)

    def finish(self, style_of: Callable[[int], Style]) -> list[Evaluation]:
        """Train to the end, or until Ctrl-C; return the curve. `style_of` says how an episode to learn from is run."""
        config = self._config
        if not self.curve:
            self._evaluate(0.0)
        robots = self._learning_robots(range(config.worlds), self._episodes(style_of))
        with interruption() as interrupted:
            while self.step < config.steps and not interrupted.is_set():
                robots.send()
                figures = self._learn()
                for transition in robots.receive():
                    self._take(transition)
                    if transition.is_last:
                        self._tell_end(transition)
                self._log.step(self.step, figures, self._learner)
                if self.step // config.evaluate_every_steps > self.curve[-1].step // config.evaluate_every_steps:
                    self._evaluate(self._learner.share)
            self._conclude(interrupted.is_set())
        return self.curve

    def _episodes(self, style_of: Callable[[int], Style]) -> Episodes:
        first = FIRST_SEED + self._config.seed * SEEDS_APART
        while True:
            number, self._begun = self._begun, self._begun + 1
            self._order.begin(first + number)
            yield first + number, style_of(number)

    def _conclude(self, is_interrupted: bool) -> None:
        """Keep what was learned since the last evaluation, and judge it, for which who interrupts does not wait."""
        if is_interrupted or self.step > self.curve[-1].step:
            self._log.keep_newest()
            self._save()
        if self.step > self.curve[-1].step and not is_interrupted:
            self._evaluate(self._learner.share)

    def _learn(self) -> dict[str, float]:
        """Learn what is due while the worlds step."""
        figures: dict[str, float] = {}
        while self._learner.is_due:
            figures |= self._learner.update()
        return figures

    def _tell_end(self, transition: Any) -> None:
        self._log.episode(self.step, transition.style, success=transition.success, steps=transition.index + 1)
        for ended in self._order.end(transition.seed, transition):
            self._judge(ended.style, success=ended.success)

    def _judge(self, style: Style, *, success: bool) -> None:
        if style.is_judged and style.share > 0:
            self._learner.judge(style.share, success=success, version=style.version)
        elif style.share == 0 and style.noise_std == 0:
            self._learner.guard.record_base(success=success)

    def _evaluate(self, share: float) -> None:
        """Run the same starts without noise, and keep what did best."""
        config = self._config
        seeds = range(FIRST_TEST_SEED, FIRST_TEST_SEED + config.evaluate_episodes)
        robots = self._judged_robots(
            range(config.worlds, 2 * config.worlds), iter([(seed, Style(share)) for seed in seeds])
        )
        ended: list[Any] = []
        while robots.is_running:
            robots.send()
            ended += [transition for transition in robots.receive() if transition.is_last]
        k, n = sum(transition.success for transition in ended), len(ended)
        mean_steps = sum(transition.index + 1 for transition in ended) / n
        evaluation = Evaluation(self.step, share, k, n, *wilson_interval(k, n), mean_steps)
        self.curve.append(evaluation)
        self._log.evaluation(evaluation, self._learner)
        self._save()

    def _save(self) -> None:
        if self._state is not None:
            self._state.save(self._learner, Before(self._begun, tuple(self._log.curve)))


def tell_end(out: Path, command: str, wall_s: float, curve: list[Evaluation]) -> None:
    """Write the curve with the command that it came from, and say where it began and ended."""
    document = {"command": command, "wall_s": wall_s, "curve": [asdict(each) for each in curve]}
    (out / "curve.json").write_text(json.dumps(document, indent=1) + "\n")
    first, last = curve[0], curve[-1]
    said = f"base {first.successes} of {first.episodes}, now {last.successes} of {last.episodes}: {out}"
    Console(stderr=True).print(said, highlight=False, soft_wrap=True)
