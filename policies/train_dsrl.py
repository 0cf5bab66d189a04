"""`armature train-dsrl`: a diffusion or flow policy gets better in simulation by learning its first noise."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from armature.config import to_plain
from armature.errors import ConfigError
from armature.spec import require_compatible
from policies.checkpoint import load_policy
from policies.chunk_replay import ChunkLayout
from policies.dsrl import Dsrl
from policies.dsrl_learner import DsrlLearner, DsrlLearnerConfig
from policies.noise_decoder import NoiseDecoder
from policies.online_state import Before, OnlineState, require_state
from policies.replay import Replay
from policies.train_dsrl_data import demonstration_chunks
from policies.train_dsrl_robots import ChunkTransition, SteeredRobots
from policies.train_online import Episodes, Evaluation, OnlineConfig, OnlineTraining, tell_end
from policies.train_residual_data import open_demonstrations, origins_of
from policies.train_residual_log import ResidualLog, require_new
from policies.train_residual_robots import Style
from sim.corrected_world import PolicyNeeds
from sim.evaluate import world_for
from sim.tasks import robot_spec
from sim.world_processes import WorldProcesses


@dataclass(frozen=True, kw_only=True)
class DsrlTrainConfig(OnlineConfig):
    """What is trained on what."""

    base: Path
    """Checkpoint of the policy that is to get better, diffusion or H-RDT; it stays as it is."""
    dataset: Path | None = None
    """Successful demonstrations of the task, to learn the values of actions from."""
    learner: DsrlLearnerConfig = field(default_factory=DsrlLearnerConfig)

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        super().__post_init__()
        if self.scheduler.mode != "receding_horizon":
            raise ConfigError(
                f"scheduler.mode is {self.scheduler.mode}: what a noise did can only be told where chunks are executed "
                "as they are. Valid: receding_horizon"
            )


def train_dsrl(config: DsrlTrainConfig) -> list[Evaluation]:
    """Learn; return the curve, whose first point is the policy alone. Bad input is refused before the first step."""
    torch.set_num_threads(config.threads)
    (require_state if config.resume else require_new)(config.out)
    base = load_policy(config.base)
    base.reset(0)
    settings = config.learner.dsrl
    decoder = NoiseDecoder(base, config.scheduler.execute_steps, repeat=settings.repeat_noise)
    world = world_for(base.spec, config.task, config.horizon_steps)
    robot = robot_spec(world)
    require_compatible(base.spec, robot, base.policy_id)
    episodes = None if config.dataset is None else open_demonstrations(config.dataset, robot, config.task)
    layout = ChunkLayout(decoder.observation_dim, decoder.action_dim, decoder.noise_dim, settings.draws)
    dsrl = Dsrl(settings, layout, decoder, config.seed)
    shown = None if episodes is None else demonstration_chunks(episodes, decoder, dsrl, layout)
    online = Replay(layout, config.learner.capacity)
    learner = DsrlLearner(config.learner, dsrl, base.policy_id, online, shown)
    needs = PolicyNeeds(base.spec, base.obs_steps, base.policy_id)
    worlds = WorldProcesses(2 * config.worlds, config.processes, world, needs, config.scheduler)

    def keep(path: Path) -> None:
        path.with_suffix(".bin").write_bytes(learner.weights().to_bytes())

    state = OnlineState(config.out, to_plain(config), origins_of(base.policy_id, config.dataset), dsrl, online)
    before = state.load(learner) if config.resume else Before()
    with worlds, ResidualLog(config.out, config.steps, to_plain(config), keep, before.curve) as log:
        return _train(config, decoder, learner, worlds, log, layout, state, before.begun)


def _train(
    config: DsrlTrainConfig,
    decoder: NoiseDecoder,
    learner: DsrlLearner,
    worlds: WorldProcesses,
    log: ResidualLog,
    layout: ChunkLayout,
    state: OnlineState,
    begun: int,
) -> list[Evaluation]:
    def robots(numbers: range, episodes: Episodes, kept: ChunkLayout | None = None) -> SteeredRobots:
        return SteeredRobots(worlds, numbers, decoder, learner.dsrl, episodes, kept)

    def take(transition: ChunkTransition) -> None:
        learner.take(transition.row, transition.steps)

    def learning_robots(numbers: range, episodes: Episodes) -> SteeredRobots:
        return robots(numbers, episodes, layout)

    def style_of(number: int) -> Style:
        """Return how an episode is run, decided when it begins: by the policy alone at first."""
        is_control = not learner.is_warm or number % config.control_every == 0
        return Style(0.0) if is_control else Style(learner.share, noise_std=1.0, version=learner.updates)

    parts = learner, log, learning_robots, robots, take, state, begun
    return OnlineTraining(config, config.learner.warmup_steps, *parts).finish(style_of)


def main(argv: list[str]) -> int:
    """Run `armature train-dsrl`; print how often the task is done at the beginning and at the end."""
    config = tyro.cli(DsrlTrainConfig, prog="armature train-dsrl", description=__doc__, args=argv)
    begin_s = time.monotonic()
    curve = train_dsrl(config)
    tell_end(config.out, shlex.join(["armature", "train-dsrl", *argv]), time.monotonic() - begin_s, curve)
    return 0
