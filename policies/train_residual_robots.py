"""Robots in simulation that a residual corrects, some of them at once: what happens to them becomes transitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.camera_frames import Frame, frame_of
from policies.chunk_policy import ChunkPolicy
from policies.detour import Detour
from policies.exploration import CorrelatedNoise
from policies.frame_replay import FrameReplay
from policies.pixel_td3 import PixelTd3
from policies.replay import Step, Vector
from policies.residual_td3 import ResidualTd3
from policies.residual_view import ResidualView
from policies.standing import Standing
from sim.corrected_world import Moment, Outcome
from sim.world_processes import WorldProcesses


@dataclass(frozen=True)
class Style:
    """How an episode is run."""

    share: float
    """To which share of its reach the residual is cut; 0: the base alone."""
    noise_std: float = 0.0
    """Of the exploration, as a share of the reach."""
    memory_steps: float = 0.0
    version: int | None = None
    """Of the weights with which it began."""
    is_judged: bool = True
    """Its outcome is compared with that of the base: not where noise of another kind than the actor's own decides."""


@dataclass(frozen=True)
class Transition:
    """One step of one robot, and whether its episode ended with it."""

    seed: int
    style: Style
    step: Step
    next_observation: Vector
    next_base: Vector
    success: bool
    terminated: bool
    """By success, or by a gate that has latched."""
    cut: bool
    index: int
    """Of the step in its episode."""

    @property
    def is_last(self) -> bool:
        """Tell whether the episode ended."""
        return self.terminated or self.cut


@dataclass
class _Robot:
    """One episode under way."""

    world: int
    seed: int
    style: Style
    policy_state: Any
    moment: Moment
    noise: CorrelatedNoise
    detour: Detour
    observation: Vector = field(default_factory=lambda: np.zeros(0, np.float32))
    base: Vector = field(default_factory=lambda: np.zeros(0, np.float32))
    frame: Frame = field(default_factory=lambda: np.zeros(0, np.uint8))
    """What its cameras show, where the residual looks at them."""
    steps: int = 0

    @property
    def planned(self) -> NDArray[np.float64]:
        """Return the action of the plan (D,); before any chunk covers a tick, that is staying."""
        return self.moment.commanded if self.moment.base is None else self.moment.base

    @property
    def asked(self) -> NDArray[np.float64]:
        """Return the base action (D,): the plan's, as far aside as the arm has been led."""
        return self.planned + self.detour.distance

    def led(self, motion: NDArray[np.float64]) -> NDArray[np.float64]:
        """Lead the arm further aside; return the correction of the plan's action (D,)."""
        return self.detour.lead(self.steps, self.planned, motion)


class CorrectedRobots:
    """Runs episode after episode in some of the worlds; `send` and `receive` by turns, time for learning between."""

    def __init__(
        self,
        worlds: WorldProcesses,
        numbers: range,
        base: ChunkPolicy | Standing,
        view: ResidualView,
        td3: ResidualTd3 | PixelTd3,
        episodes: Iterator[tuple[int, Style]],
        kept: FrameReplay | None = None,
    ) -> None:
        """`episodes` are the seeds and styles of the episodes to come; when they end, so do the robots.

        What cameras show goes into `kept`: then the observations of transitions end in the numbers of their frames.
        """
        self._worlds, self._base, self._view, self._td3 = worlds, base, view, td3
        self._kept = kept
        self._episodes = episodes
        self._robots: list[_Robot] = []
        self._begin(list(numbers))

    @property
    def is_running(self) -> bool:
        """Tell whether an episode is under way."""
        return bool(self._robots)

    def send(self) -> None:
        """Decide the corrections of this tick and let the worlds begin their steps."""
        motions = zip(self._robots, self._motions(), strict=True)
        calls = [(robot.world, "step", (robot.led(motion),)) for robot, motion in motions]
        self._worlds.ask(calls)

    def receive(self) -> list[Transition]:
        """Wait for the worlds; return what happened, and begin the next episodes where one has ended."""
        outcomes: list[Outcome] = self._worlds.answers([robot.world for robot in self._robots])
        before = [(robot.observation, robot.base, robot.moment.measured) for robot in self._robots]
        for robot, outcome in zip(self._robots, outcomes, strict=True):
            robot.moment = outcome.then
            robot.steps += 1
        self._look(self._robots)
        transitions = [
            self._transition(robot, seen, outcome)
            for robot, seen, outcome in zip(self._robots, before, outcomes, strict=True)
        ]
        free = [robot.world for robot, outcome in zip(self._robots, outcomes, strict=True) if outcome.is_done]
        self._robots = [r for r, outcome in zip(self._robots, outcomes, strict=True) if not outcome.is_done]
        self._begin(free)
        return transitions

    def _transition(self, robot: _Robot, before: tuple[Vector, Vector, NDArray[Any]], outcome: Outcome) -> Transition:
        observation, base, measured = before
        # What was executed, not what was asked for: the gate has the last word.
        executed = self._view.frame.encode(outcome.executed, measured)
        step = Step(observation, base, executed, float(outcome.success))
        cut = outcome.is_done and not outcome.is_final
        then, ending = (robot.observation, robot.base), (outcome.success, outcome.is_final, cut)
        return Transition(robot.seed, robot.style, step, *then, *ending, robot.steps - 1)

    def _motions(self) -> NDArray[np.float64]:
        """Return how the residual moves the robots in this step (robots, D), in physical units."""
        base = torch.from_numpy(np.stack([robot.base for robot in self._robots]))
        device = self._td3.reach.device
        with torch.no_grad():
            residuals = self._td3.acting(self._seen(), base.to(device)).double().cpu().numpy()
        for residual, robot in zip(residuals, self._robots, strict=True):
            np.clip(residual, -robot.style.share, robot.style.share, out=residual)
            residual += robot.style.noise_std * robot.noise.next()
        reach = self._td3.reach.double().cpu().numpy() * self._view.frame.unit
        return residuals.clip(-1.0, 1.0) * reach

    def _seen(self) -> Tensor:
        """Return what actor and critics see of all robots."""
        vectors = [robot.observation[: self._view.observation_dim] for robot in self._robots]
        device = self._td3.reach.device
        seen = torch.from_numpy(np.stack(vectors)).to(device)
        if not isinstance(self._td3, PixelTd3):
            return seen
        frames = torch.from_numpy(np.stack([robot.frame for robot in self._robots]))
        return self._td3.encoder(seen, frames.to(device))

    def _begin(self, worlds: list[int]) -> None:
        begun: list[tuple[int, int, Style]] = []
        for world in worlds:
            following = next(self._episodes, None)
            if following is not None:
                begun.append((world, *following))
        moments = self._worlds.call([(world, "begin", (seed,)) for world, seed, _ in begun])
        robots: list[_Robot] = []
        for (world, seed, style), moment in zip(begun, moments, strict=True):
            noise = CorrelatedNoise(self._view.action_dim, style.memory_steps, np.random.default_rng(seed))
            robots.append(_Robot(world, seed, style, self._base.begin(seed), moment, noise, Detour(self._view.frame)))
        self._look(robots)
        self._robots = sorted([*self._robots, *robots], key=lambda robot: robot.world)

    def _look(self, robots: list[_Robot]) -> None:
        """Have the base answer what it is asked, and see each robot's moment as the residual does."""
        asking = [robot for robot in robots if robot.moment.question is not None]
        if asking:
            questions = [robot.moment.question for robot in asking]
            chunks = self._base.infer_batch(questions, [robot.policy_state for robot in asking])
            calls = [(robot.world, "take", (chunk,)) for robot, chunk in zip(asking, chunks, strict=True)]
            for robot, moment in zip(asking, self._worlds.call(calls), strict=True):
                robot.moment = moment
                robot.detour.follow(robot.steps)
        for robot in robots:
            moment = robot.moment
            robot.observation = self._view.observe(moment.values, moment.measured, moment.commanded)
            if isinstance(self._td3, PixelTd3):
                robot.frame = frame_of(self._td3.encoder.sight, moment.values)
                if self._kept is not None:
                    robot.observation = self._kept.show(robot.observation, robot.frame)
            robot.base = self._view.frame.encode(robot.asked, moment.measured)
