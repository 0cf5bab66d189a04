"""The loop that all learning shares: what its guard is told of episodes that run side by side."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
from test_residual_learner import learner_of, rows

from policies.train_online import FIRST_SEED, Episodes, Evaluation, OnlineConfig, OnlineTraining
from policies.train_residual_log import ResidualLog
from policies.train_residual_robots import Style

STEPS_OF = {0: (6, False), 1: (2, True), 2: (2, True), 3: (3, True)}
"""By the number of an episode how long it takes, and whether it succeeds."""


@dataclass(frozen=True)
class Step:
    """One of an episode that goes as it is written."""

    seed: int
    style: Style
    index: int
    success: bool
    is_last: bool


class Robots:
    """Two at a time, which begin the next episode, if there is one, as soon as one has ended."""

    def __init__(self, episodes: Episodes) -> None:
        self._episodes = episodes
        self._under_way: list[tuple[int, Style, int]] = []
        self._begin(2)

    @property
    def is_running(self) -> bool:
        return bool(self._under_way)

    def send(self) -> None:
        """Nothing takes time."""

    def receive(self) -> list[Step]:
        steps = [step_of(*robot) for robot in self._under_way]
        self._under_way = [(step.seed, step.style, step.index + 1) for step in steps if not step.is_last]
        self._begin(2 - len(self._under_way))
        return steps

    def _begin(self, count: int) -> None:
        self._under_way += [(*begun, 0) for begun in islice(self._episodes, count)]


def step_of(seed: int, style: Style, index: int) -> Step:
    length, success = STEPS_OF.get(seed - FIRST_SEED, (2, True))
    is_last = index == length - 1
    return Step(seed, style, index, success and is_last, is_last)


def test_the_guard_hears_of_episodes_in_the_order_in_which_they_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learner, told = learner_of(), list[bool]()
    monkeypatch.setattr(learner.guard, "record_base", lambda *, success: told.append(success))
    config = OnlineConfig(task="lift", out=tmp_path / "out", steps=14, evaluate_episodes=2)

    def robots(_: range, episodes: Episodes) -> Robots:
        return Robots(episodes)

    def take(_: Step) -> None:
        learner.take(rows(1))

    with ResidualLog(config.out, config.steps, {}, lambda path: None) as log:
        OnlineTraining(config, 0, learner, log, robots, robots, take, None).finish(lambda number: Style(0.0))
    # Three that began after the failure had succeeded before it was over.
    assert told == [False, True, True, True]


def test_the_best_is_the_one_that_succeeded_most_often_and_of_equals_the_later(tmp_path: Path):
    learner, kept = learner_of(), list[tuple[str, int]]()
    successes = [3, 5, 4, 5, 2]
    with ResidualLog(tmp_path / "out", 100, {}, lambda path: kept.append((path.name, step))) as log:
        for step, found in enumerate(successes):
            log.evaluation(Evaluation(step, 0.5, found, 10, 0.0, 1.0, 20.0), learner)
    assert [step for name, step in kept if name == "best"] == [0, 1, 3]
    assert [step for name, step in kept if name == "actor"] == [0, 1, 2, 3, 4]
