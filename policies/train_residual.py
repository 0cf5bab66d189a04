"""`armature train-residual`: a policy gets better in simulation, by a residual learned from its own successes."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro

from armature.config import to_plain
from armature.control.limits import SafetyLimits
from armature.errors import ConfigError, unknown
from armature.normalizer import Normalizer
from armature.spec import RobotSpec, require_compatible
from policies.checkpoint import load_policy
from policies.chunk_policy import ChunkPolicy
from policies.device import require_device
from policies.exploration import is_judged
from policies.frame_replay import FrameReplay
from policies.online_state import Before, OnlineState, require_state
from policies.pixel_td3 import PixelTd3
from policies.replay import Layout, NStep, Replay
from policies.residual_encoder import ResidualEncoder
from policies.residual_folder import ResidualFolder, ResidualSettings, save_residual
from policies.residual_learner import LearnerConfig, ResidualLearner
from policies.residual_sight import EncoderConfig, Sight
from policies.residual_td3 import ResidualTd3
from policies.residual_view import ResidualView
from policies.standing import Standing
from policies.train_online import Episodes, Evaluation, OnlineConfig, OnlineTraining, tell_end
from policies.train_residual_data import (
    demonstration_rows,
    open_demonstrations,
    origins_of,
    shown_px,
    statistics_of,
)
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
    """Successful demonstrations of the task, with the vectors, and images, that the residual sees."""
    cameras: tuple[str, ...] = ()
    """What it looks at, such as camera/scene camera/wrist; none: it learns from vectors alone."""
    image_px: int = 64
    """Edge of the images that it sees [px]; demonstrations may have larger ones."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """What makes features of the images."""
    vectors: tuple[str, ...] | None = None
    """Which vectors it sees, such as joint/position gripper/opening; unset: all, object poses among them."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        super().__post_init__()
        if self.scheduler.mode != "receding_horizon":
            raise ConfigError(
                f"scheduler.mode is {self.scheduler.mode}: how far a correction has led off a plan can only be told "
                "where chunks are executed as they are. Valid: receding_horizon"
            )
        if self.vectors == ():
            raise ConfigError("vectors names none: an arm has to know at least where it is (joint/position)")
        _ = self.sight
        if self.resume and self.cameras:
            raise ConfigError("resume: a training that looks at cameras keeps nothing that it could go on from")

    @property
    def sight(self) -> Sight | None:
        """Return how it looks at cameras; None where it sees vectors alone."""
        return Sight(self.cameras, self.image_px, self.encoder) if self.cameras else None


def train_residual(config: ResidualTrainConfig) -> list[Evaluation]:
    """Learn; return the curve, whose first point is the base alone. Bad input is refused before the first step."""
    torch.set_num_threads(config.threads)
    (require_state if config.resume else require_new)(config.out)
    require_device(config.learner.device)
    base, world, limits = _start(config)
    robot = robot_spec(world)
    require_compatible(base.spec, robot, base.policy_id)
    view, statistics, shown = _demonstrations(config, base, robot, limits)
    td3, online = _learned(config, view)
    learner = ResidualLearner(config.learner, td3, base.policy_id, online, shown)
    needs = PolicyNeeds(base.spec, base.obs_steps, base.policy_id)
    worlds = WorldProcesses(2 * config.worlds, config.processes, world, needs, config.scheduler, limits, config.cameras)

    demonstrations = shown.files(config.task) if isinstance(shown, Replay) else None

    def keep(path: Path) -> None:
        save_residual(path, _residual(config, view, statistics, learner), demonstrations)

    state = _state(config, base.policy_id, td3, online)
    before = state.load(learner) if state and config.resume else Before()
    with worlds, ResidualLog(config.out, config.steps, to_plain(config), keep, before.curve) as log:
        return _Run(config, base, view, learner, online, worlds, log).finish(state, before.begun)


def _state(
    config: ResidualTrainConfig, base_id: str, td3: ResidualTd3 | PixelTd3, online: Replay | FrameReplay
) -> OnlineState | None:
    """Return what the training is gone on from; None where it looks at cameras."""
    if isinstance(td3, PixelTd3) or isinstance(online, FrameReplay):
        return None
    return OnlineState(config.out, to_plain(config), origins_of(base_id, config.dataset), td3, online)


def _demonstrations(
    config: ResidualTrainConfig, base: ChunkPolicy | Standing, robot: RobotSpec, limits: SafetyLimits
) -> tuple[ResidualView, Normalizer, Replay | FrameReplay]:
    """Return how the residual sees the robot, the statistics of what it sees, and the demonstrations as transitions."""
    vectors, sight, sees = _vectors(config, robot), config.sight, base.spec.observation.names
    needed = _needed(config, robot, {*config.cameras, *vectors, *sees})
    episodes = open_demonstrations(config.dataset, needed, config.task, sight, sees)
    statistics = statistics_of(episodes, robot.select(vectors))
    view = ResidualView(robot, limits, statistics)
    rows = demonstration_rows(episodes, base, view, config.learner.td3, config.scheduler.execute_steps, sight)
    return view, statistics, rows


def _vectors(config: ResidualTrainConfig, robot: RobotSpec) -> tuple[str, ...]:
    """Return the names of the vectors that the residual sees; raise ConfigError where the robot lacks one."""
    valid = tuple(array.name for array in robot.observation.vectors)
    chosen = valid if config.vectors is None else config.vectors
    for name in chosen:
        if name not in valid:
            raise ConfigError(unknown("vector", name, valid))
    return tuple(name for name in valid if name in chosen)


def _needed(config: ResidualTrainConfig, robot: RobotSpec, seen: set[str]) -> RobotSpec:
    """Return what the demonstrations have to hold: what is `seen`, and where the robot was."""
    if not config.cameras and config.vectors is None:
        return robot
    needed = seen | {array.name for array in robot.action.arrays}
    return robot.select(tuple(name for name in robot.observation.names if name in needed))


def _learned(config: ResidualTrainConfig, view: ResidualView) -> tuple[ResidualTd3 | PixelTd3, Replay | FrameReplay]:
    """Return the networks to be learned, and where what happens is kept."""
    settings, sight = config.learner, config.sight
    dim = view.observation_dim + (sight.features if sight else 0)
    bound, device = view.frame.residual_max, settings.device
    td3 = ResidualTd3(settings.td3, dim, view.action_dim, config.seed, bound, device)
    layout = Layout(view.observation_dim, view.action_dim)
    if sight is None:
        return td3, Replay(layout, settings.capacity)
    kept = FrameReplay(layout, settings.capacity, sight.frame_shape)
    return PixelTd3(td3, ResidualEncoder(sight, config.seed).to(device)), kept


def _residual(
    config: ResidualTrainConfig, view: ResidualView, statistics: Normalizer, learner: ResidualLearner
) -> ResidualFolder:
    """Return the residual as it is, with how it is learned."""
    td3 = config.learner.td3
    settings = ResidualSettings(td3.scale, td3.steps, td3.discount, config.learner.noise_memory_steps)
    # Where it was learned, and how, is no part of it: the robot's computer may have neither GPU nor compiler.
    plain = to_plain(replace(config.learner, device="cpu", td3=replace(td3, compiled=False)))
    weights = learner.weights()
    seeing = learner.td3 if isinstance(learner.td3, PixelTd3) else None
    sight, encoder = (seeing.encoder.sight, seeing.encoder.arrays()) if seeing else (None, None)
    return ResidualFolder.of(config.task, view, statistics, settings, weights, plain, sight, encoder)


def _start(config: ResidualTrainConfig) -> tuple[ChunkPolicy | Standing, SimConfig, SafetyLimits]:
    """Return what the residual is added to, its world, and the limits of its robot."""
    if config.base is not None:
        base = load_policy(config.base, config.learner.device)
        base.reset(0)
        world = _shown(world_for(base.spec, config.task, config.horizon_steps), config)
        return base, world, limits_for(robot_spec(world).action)
    world = _shown(SimConfig(config.task, cameras=False, horizon_steps=config.horizon_steps), config)
    robot = robot_spec(world)
    limits = limits_for(robot.action)
    # All of the motion is the residual's: in its frame, each step reaches from -1 to 1.
    everything = replace(limits.request, residual_share=2.0 / config.learner.td3.scale)
    return Standing(robot, limits), world, replace(limits, request=everything)


def _shown(world: SimConfig, config: ResidualTrainConfig) -> SimConfig:
    """Return the world with cameras, if the residual looks at some: unless the base has its own, as demonstrated."""
    if config.sight is None:
        return world
    valid = robot_spec(replace(world, cameras=True)).observation.images
    for name in config.cameras:
        if name not in (names := [image.name for image in valid]):
            raise ConfigError(unknown("camera", name, names))
    size = shown_px(config.dataset, config.sight)
    return world if world.cameras else replace(world, cameras=True, image_size=size)


class _Run:
    """What a training of a residual adds to the loop that all share."""

    def __init__(
        self,
        config: ResidualTrainConfig,
        base: ChunkPolicy | Standing,
        view: ResidualView,
        learner: ResidualLearner,
        online: Replay | FrameReplay,
        worlds: WorldProcesses,
        log: ResidualLog,
    ) -> None:
        self._config, self._learner, self._log = config, learner, log
        self._base, self._view, self._worlds = base, view, worlds
        self._online = online
        self._nsteps: dict[int, NStep] = {}

    def finish(self, state: OnlineState | None, begun: int) -> list[Evaluation]:
        """Train to the end, or until Ctrl-C, after so many episodes that were `begun` before; return the curve."""
        warmup_steps = self._config.learner.warmup_steps
        parts = self._learner, self._log, self._learning_robots, self._robots, self._take, state, begun
        return OnlineTraining(self._config, warmup_steps, *parts).finish(self._style_of)

    def _robots(self, numbers: range, episodes: Episodes, kept: FrameReplay | None = None) -> CorrectedRobots:
        return CorrectedRobots(self._worlds, numbers, self._base, self._view, self._learner.td3, episodes, kept)

    def _learning_robots(self, numbers: range, episodes: Episodes) -> CorrectedRobots:
        kept = self._online if isinstance(self._online, FrameReplay) else None
        return self._robots(numbers, episodes, kept)

    def _take(self, transition: Transition) -> None:
        td3 = self._config.learner.td3
        nstep = self._nsteps.setdefault(transition.seed, NStep(self._online.layout, td3.steps, td3.discount))
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

    def _style_of(self, number: int) -> Style:
        """Return how an episode to learn from is run, decided when it begins."""
        # While the critics get to know the base, half of the episodes show the guard what it can do.
        every = self._config.control_every if self._learner.is_warm else 2
        if number % every == 0:
            return Style(0.0)
        if is_judged(number) and self._learner.is_warm:
            return Style(self._learner.share, version=self._learner.updates)
        memory_steps = self._config.learner.noise_memory_steps
        return Style(self._learner.share, self._learner.noise_std, memory_steps, is_judged=False)


def main(argv: list[str]) -> int:
    """Run `armature train-residual`; print how often the task is done at the beginning and at the end."""
    config = tyro.cli(ResidualTrainConfig, prog="armature train-residual", description=__doc__, args=argv)
    begin_s = time.monotonic()
    curve = train_residual(config)
    tell_end(config.out, shlex.join(["armature", "train-residual", *argv]), time.monotonic() - begin_s, curve)
    return 0
