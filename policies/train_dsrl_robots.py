"""Robots in simulation whose policy is steered by its noise, some of them at once: their chunks become transitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from policies.chunk_policy import EpisodeState
from policies.chunk_replay import ChunkLayout, Outlook, Seen, Vector
from policies.dsrl import Dsrl
from policies.noise_decoder import NoiseDecoder
from policies.train_residual_robots import Style
from sim.corrected_world import Moment, Outcome
from sim.world_processes import WorldProcesses


@dataclass(frozen=True)
class ChunkTransition:
    """What came of one chunk of one robot, and whether its episode ended with it."""

    seed: int
    style: Style
    row: Vector | None
    """As `ChunkLayout.row` makes it. None in an evaluation, and for a chunk that a time limit cut short: nobody has
    seen what the policy would have seen after it."""
    steps: int
    """How many of its actions were executed."""
    success: bool
    terminated: bool
    """By success, or by a gate that has latched."""
    cut: bool
    index: int
    """Of its last step in the episode."""

    @property
    def is_last(self) -> bool:
        """Tell whether the episode ended."""
        return self.terminated or self.cut


@dataclass(frozen=True)
class _Decision:
    """What was seen and chosen at the begin of a chunk; `seen` is None in an evaluation."""

    seen: Seen | None
    action: Vector


@dataclass
class _Robot:
    """One episode under way."""

    world: int
    seed: int
    style: Style
    policy_state: EpisodeState
    moment: Moment
    rng: np.random.Generator
    decision: _Decision | None = None
    rewards: list[float] = field(default_factory=list)
    """Of the steps of the present chunk."""
    steps: int = 0


class SteeredRobots:
    """Runs episode after episode in some of the worlds; `send` and `receive` by turns, time for learning between.

    Of a `Style`, `share` is how likely the actor chooses the noise of a chunk, which otherwise is the policy's own, and
    any `noise_std` lets the actor draw, where without it takes the noise in the middle.
    """

    def __init__(
        self,
        worlds: WorldProcesses,
        numbers: range,
        decoder: NoiseDecoder,
        dsrl: Dsrl,
        episodes: Iterator[tuple[int, Style]],
        layout: ChunkLayout | None = None,
    ) -> None:
        """`episodes` are the seeds and styles of the episodes to come; without a `layout` nothing is kept of them."""
        self._worlds, self._decoder, self._dsrl, self._layout = worlds, decoder, dsrl, layout
        self._episodes = episodes
        self._robots: list[_Robot] = []
        self._still = np.zeros(decoder.policy.spec.action.dim)
        self._begin(list(numbers))

    @property
    def is_running(self) -> bool:
        """Tell whether an episode is under way."""
        return bool(self._robots)

    def send(self) -> None:
        """Let the worlds begin their steps; nobody corrects their actions."""
        self._worlds.ask([(robot.world, "step", (self._still,)) for robot in self._robots])

    def receive(self) -> list[ChunkTransition]:
        """Wait for the worlds; return the chunks that have ended, and begin new ones, and episodes, where they have."""
        outcomes: list[Outcome] = self._worlds.answers([robot.world for robot in self._robots])
        ended: list[tuple[_Robot, Outcome, _Decision | None]] = []
        for robot, outcome in zip(self._robots, outcomes, strict=True):
            robot.moment = outcome.then
            robot.steps += 1
            robot.rewards.append(float(outcome.success))
            if outcome.is_done or outcome.then.question is not None:
                ended.append((robot, outcome, robot.decision))
        over = {robot.world for robot, outcome, _ in ended if outcome.is_done}
        seeing = [robot for robot, outcome, _ in ended if outcome.then.question is not None and not outcome.is_final]
        self._decide(seeing, over)
        transitions = [self._transition(*each) for each in ended]
        self._robots = [robot for robot in self._robots if robot.world not in over]
        self._begin(sorted(over))
        return transitions

    def _transition(self, robot: _Robot, outcome: Outcome, before: _Decision | None) -> ChunkTransition:
        steps, cut = len(robot.rewards), outcome.is_done and not outcome.is_final
        row = self._row(robot, outcome, before)
        robot.rewards.clear()
        ending = outcome.success, outcome.is_final, cut
        return ChunkTransition(robot.seed, robot.style, row, steps, *ending, robot.steps - 1)

    def _row(self, robot: _Robot, outcome: Outcome, before: _Decision | None) -> Vector | None:
        if self._layout is None or before is None or before.seen is None:
            return None
        after = Outlook.of(robot.rewards, self._dsrl.config.discount, terminated=outcome.is_final)
        # After the end there is nothing to see: what it is worth does not count.
        then = before.seen if outcome.is_final else None
        if then is None and outcome.then.question is not None and robot.decision is not None:
            then = robot.decision.seen
        return None if then is None else self._layout.row(before.seen, before.action, after, then)

    def _begin(self, worlds: list[int]) -> None:
        begun: list[tuple[int, int, Style]] = []
        for world in worlds:
            following = next(self._episodes, None)
            if following is not None:
                begun.append((world, *following))
        moments = self._worlds.call([(world, "begin", (seed,)) for world, seed, _ in begun])
        robots = [
            _Robot(world, seed, style, self._decoder.policy.begin(seed), moment, np.random.default_rng(seed))
            for (world, seed, style), moment in zip(begun, moments, strict=True)
        ]
        self._decide(robots, set())
        self._robots = sorted([*self._robots, *robots], key=lambda robot: robot.world)

    def _decide(self, robots: list[_Robot], over: set[int]) -> None:
        """Choose the next chunk of each robot, and hand it to its world unless its episode is `over`."""
        if not robots:
            return
        questions = [robot.moment.question for robot in robots]
        observation = self._decoder.observe([question.values for question in questions])
        is_steered = torch.tensor([robot.rng.random() < robot.style.share for robot in robots])
        noises = self._noises(robots, observation, is_steered)
        own = torch.stack([self._decoder.draw(robot.policy_state) for robot in robots])
        base, chunks = self._decoder.look(observation, own, noises)
        chosen = torch.where(is_steered[:, None, None], chunks[:, 0], base) if chunks.shape[1] else base
        self._remember(robots, observation, base, noises, chunks, chosen)
        answers = self._decoder.policy.answers(
            questions, self._decoder.sampled(chosen), [robot.policy_state for robot in robots]
        )
        pairs = zip(robots, answers, strict=True)
        going_on = [(robot, answer) for robot, answer in pairs if robot.world not in over]
        moments = self._worlds.call([(robot.world, "take", (answer,)) for robot, answer in going_on])
        for (robot, _), moment in zip(going_on, moments, strict=True):
            robot.moment = moment

    def _noises(self, robots: list[_Robot], observation: Tensor, is_steered: Tensor) -> Tensor:
        """Return noises (B, N, W) to be decoded beside the policy's own, the first of them the actor's where it acts.

        Where transitions are kept the others are the policy's, within the bound; elsewhere there are none.
        """
        dim = self._decoder.noise_dim
        if self._layout is None:
            noises = torch.zeros(len(robots), int(is_steered.any()), dim)
        else:
            shape = len(robots), self._layout.draws, dim
            noises = self._dsrl.clip(torch.randn(shape, generator=self._dsrl.generator))
        explores = torch.tensor([robot.style.noise_std > 0 for robot in robots])
        for chosen, explore in ((is_steered & explores, True), (is_steered & ~explores, False)):
            if chosen.any():
                noises[chosen, 0] = self._dsrl.act(observation[chosen], explore=explore)
        return noises

    def _remember(
        self, robots: list[_Robot], observation: Tensor, base: Tensor, noises: Tensor, chunks: Tensor, chosen: Tensor
    ) -> None:
        executed = self._decoder.executed
        decoded = executed(chunks.flatten(0, 1)).unflatten(0, chunks.shape[:2]).numpy() if chunks.numel() else None
        fields = observation.numpy(), executed(base).numpy(), noises.numpy()
        for i, (robot, action) in enumerate(zip(robots, executed(chosen).numpy(), strict=True)):
            seen = None if self._layout is None or decoded is None else Seen(*(f[i] for f in fields), decoded[i])
            robot.decision = _Decision(seen, action)
