"""What happens between two chunks when a policy takes its time? Lift from pixels with the embedded checkpoint.

Episodes run in simulated time, without ROS: a chunk that was asked for at t reaches the scheduler at t + delay, drawn
evenly within 20 % around its nominal value. Each way of scheduling sees the same worlds and the same delays. `naive` is
what a queue of actions does: the new chunk begins with its first action when it comes, whatever the time.

A border is the first tick of a new chunk. The jump there is how far the action lies from where the last two lead, the
jerk the largest third difference across it, both of the joint for which it is largest: of what was requested, and of
what the gate made of it. Then Lift is run on more worlds with real-time chunking at 200 ms, and without any delay.

    python benchmarks/chunk_continuity.py [--checkpoint DIR] [--pairs N] [--quick] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from harness import ROOT, Arguments, Criterion, at_least, below, main
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from armature.control.chunk_scheduler import SchedulerConfig
from armature.spec import JOINT_POSITION
from armature.types import ActionChunk, Command
from policies.checkpoint import load_policy
from policies.chunk_policy import ChunkPolicy
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.evaluate import world_for
from sim.intervals import wilson_interval
from sim.rollout import SimEpisode

DELAYS_MS = (0, 50, 100, 200, 300)
JITTER = 0.2
"""Half the width of the delays' spread, relative to their nominal value."""
EPISODES, PAIRS = 5, 100
QUICK_DELAYS_MS, QUICK_EPISODES, QUICK_PAIRS = (0, 200), 1, 4
FIRST_SEED, FIRST_PAIR_SEED = 3000, 1000
PAIRED_DELAY_MS, POINTS_MAX = 200, 5.0
NAIVE, PAIRED_WAY = "naive", "real_time_chunking"
WAYS = {
    NAIVE: SchedulerConfig("receding_horizon", 8),
    "receding_horizon": SchedulerConfig("receding_horizon", 8),
    "temporal_ensemble": SchedulerConfig("temporal_ensemble", 1),
    "blend": SchedulerConfig("blend", 8),
    "real_time_chunking": SchedulerConfig("real_time_chunking", 8),
    "the same, no blend": SchedulerConfig("real_time_chunking", 8, blend_s=0.0),
}
CONTINUOUS = ("blend", "real_time_chunking")
"""Ways that have to beat naive replacement, once there is a delay."""


@dataclass(frozen=True)
class ContinuityArguments(Arguments):
    """What can be asked of this benchmark."""

    checkpoint: Path = ROOT / "policies" / "pretrained" / "lift_pixels"
    """A policy for Lift whose family can be guided."""
    episodes: int = EPISODES
    """Per way of scheduling and delay."""
    pairs: int = PAIRS
    """Worlds on which success with and without delay is compared."""
    threads: int = 1
    """CPU threads of torch."""


@dataclass(frozen=True)
class Episode:
    """One tick per row; requested actions are NaN where nothing was due."""

    success: bool
    requested: NDArray[np.float64]
    commanded: NDArray[np.float64]
    borders: tuple[int, ...]
    """Ticks at which a chunk took over from another one."""


@dataclass(frozen=True)
class Row:
    """What the episodes of one way of scheduling came to at one delay."""

    way: str
    delay_ms: int
    borders: int
    jump_rad: float
    """Largest, of what was requested."""
    jump_mean_rad: float
    jerk_rad_s3: float
    commanded_jump_rad: float
    commanded_jerk_rad_s3: float
    successes: int
    episodes: int


class Bench:
    """One policy in one world, which every episode uses again."""

    def __init__(self, checkpoint: Path) -> None:
        self.policy: ChunkPolicy = load_policy(checkpoint)
        self.env = make_env(world_for(self.policy.spec, "lift", render_profile="fast"))
        self.period_ns = self.policy.spec.action.period_ns
        self._limits = limits_for(self.env.robot_spec.action)
        self._joints = self.policy.spec.action.slice_of(JOINT_POSITION)

    def run(self, way: str, scheduler: SchedulerConfig, seed: int, delay_ms: int) -> Episode:
        """Run one episode."""
        episode = SimEpisode(self.env, self.policy, seed, scheduler, self._limits)
        commands: list[Command] = []
        delays_ns = draw_delays(seed, delay_ms)
        self.policy.reset(seed)
        while not episode.is_done:
            observation = episode.observe()
            if observation is not None:
                chunk = self.policy.infer(observation, episode.committed)
                delay_ns = next(delays_ns)
                episode.take(self._as_if_new(chunk, delay_ns) if way == NAIVE else chunk, delay_ns)
            episode.step(lambda _, command: commands.append(command))
        return self._told(episode.result().success, commands)

    def _as_if_new(self, chunk: ActionChunk, delay_ns: int) -> ActionChunk:
        """Let a chunk begin with its first action at the tick at which it is there."""
        return replace(chunk, start_ns=chunk.start_ns - -delay_ns // self.period_ns * self.period_ns)

    def _told(self, success: bool, commands: Sequence[Command]) -> Episode:
        nothing = np.full(self.policy.spec.action.dim, np.nan)
        requested = [nothing if command.requested is None else command.requested for command in commands]
        stamps = [command.chunk_stamp_ns for command in commands]
        borders = [k for k in range(1, len(stamps)) if None not in stamps[k - 1 : k + 1] and stamps[k] != stamps[k - 1]]
        commanded = [command.action for command in commands]
        joints = (np.stack(each)[:, self._joints] for each in (requested, commanded))
        return Episode(success, *joints, tuple(borders))


def draw_delays(seed: int, delay_ms: int) -> Iterator[int]:
    """Draw one delay after another [ns]; the same for every way of scheduling."""
    rng = np.random.default_rng((seed, delay_ms))
    while True:
        yield round(1e6 * delay_ms * rng.uniform(1 - JITTER, 1 + JITTER))


def jumps(actions: NDArray[np.float64], borders: Sequence[int]) -> NDArray[np.float64]:
    """Return by border how far the action is from where the two before it lead, of the worst joint [rad]."""
    bends = np.abs(np.diff(actions, 2, axis=0)).max(axis=1)
    return finite([bends[k - 2] for k in borders if k >= 2])


def jerks(actions: NDArray[np.float64], borders: Sequence[int], period_s: float) -> NDArray[np.float64]:
    """Return by border the largest third difference that spans it, of the worst joint [rad/s^3]."""
    thirds = np.abs(np.diff(actions, 3, axis=0)).max(axis=1) / period_s**3
    spans = [thirds[max(k - 3, 0) : k] for k in borders]
    return finite([span.max() for span in spans if len(span)])


def finite(values: Sequence[float]) -> NDArray[np.float64]:
    """Leave out what spans a tick at which nothing was due."""
    array = np.array(values, dtype=np.float64)
    return array[np.isfinite(array)]


def row_of(way: str, delay_ms: int, episodes: Sequence[Episode], period_s: float) -> Row:
    """Put together what the episodes came to."""
    requested = np.concatenate([jumps(e.requested, e.borders) for e in episodes])
    return Row(
        way,
        delay_ms,
        borders=sum(len(e.borders) for e in episodes),
        jump_rad=float(requested.max()),
        jump_mean_rad=float(requested.mean()),
        jerk_rad_s3=max(float(jerks(e.requested, e.borders, period_s).max(initial=0.0)) for e in episodes),
        commanded_jump_rad=max(float(jumps(e.commanded, e.borders).max(initial=0.0)) for e in episodes),
        commanded_jerk_rad_s3=max(float(jerks(e.commanded, e.borders, period_s).max(initial=0.0)) for e in episodes),
        successes=sum(e.success for e in episodes),
        episodes=len(episodes),
    )


def measure(arguments: ContinuityArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Measure continuity for every way and delay, then success in pairs."""
    torch.set_num_threads(arguments.threads)
    delays_ms = QUICK_DELAYS_MS if quick else DELAYS_MS
    episodes, pairs = (QUICK_EPISODES, QUICK_PAIRS) if quick else (arguments.episodes, arguments.pairs)
    bench = Bench(arguments.checkpoint)
    try:
        rows = [continuity(bench, way, delay_ms, episodes) for delay_ms in delays_ms for way in WAYS]
        success = paired_success(bench, pairs)
    finally:
        bench.env.close()
    console = Console()
    console.print(_table(rows))
    console.print(_sentence(success), highlight=False)
    details = {"policy": bench.policy.policy_id, "jitter": JITTER, "rows": [*map(asdict, rows)], "success": success}
    return [*_continuity_criteria(rows), _success_criterion(success)], details


def continuity(bench: Bench, way: str, delay_ms: int, episodes: int) -> Row:
    """Run the episodes of one way and delay."""
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    return row_of(way, delay_ms, [bench.run(way, WAYS[way], seed, delay_ms) for seed in seeds], bench.period_ns / 1e9)


def paired_success(bench: Bench, pairs: int) -> dict[str, Any]:
    """Run the same worlds with real-time chunking under a delay, and as usual without."""
    seeds = range(FIRST_PAIR_SEED, FIRST_PAIR_SEED + pairs)
    prompt = [bench.run("receding_horizon", default_scheduler(), seed, 0).success for seed in seeds]
    delayed = [bench.run(PAIRED_WAY, WAYS[PAIRED_WAY], seed, PAIRED_DELAY_MS).success for seed in seeds]
    return {
        "seeds": list(seeds),
        "no_delay": prompt,
        "delayed": delayed,
        "no_delay_interval": wilson_interval(sum(prompt), pairs, 0.95),
        "delayed_interval": wilson_interval(sum(delayed), pairs, 0.95),
        "lost": sum(a and not b for a, b in zip(prompt, delayed, strict=True)),
        "won": sum(b and not a for a, b in zip(prompt, delayed, strict=True)),
    }


def _continuity_criteria(rows: Sequence[Row]) -> list[Criterion]:
    of = {(row.way, row.delay_ms): row for row in rows}
    found: list[Criterion] = []
    for (way, delay_ms), row in of.items():
        if way in CONTINUOUS and delay_ms > 0:
            naive, name = of[NAIVE, delay_ms], f"{way} against naive, {delay_ms} ms"
            found.append(below(f"{name}: jump", row.jump_rad / naive.jump_rad, "x", 1.0))
            found.append(below(f"{name}: jerk", row.jerk_rad_s3 / naive.jerk_rad_s3, "x", 1.0))
    return found


def _success_criterion(success: dict[str, Any]) -> Criterion:
    pairs = len(success["seeds"])
    points = 100 * (sum(success["delayed"]) - sum(success["no_delay"])) / pairs
    name = f"Lift, {PAIRED_WAY} at {PAIRED_DELAY_MS} ms against no delay, {pairs} pairs"
    return at_least(name, points, "points", -POINTS_MAX)


def _sentence(success: dict[str, Any]) -> str:
    pairs = len(success["seeds"])
    told: list[str] = []
    for key, what in (("no_delay", "no delay"), ("delayed", f"{PAIRED_WAY} at {PAIRED_DELAY_MS} ms")):
        low, high = success[f"{key}_interval"]
        told.append(f"{what} {sum(success[key])}/{pairs} ({low:.3f} to {high:.3f})")
    return f"Lift: {', '.join(told)}; lost {success['lost']}, won {success['won']}"


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="At the borders of chunks, largest of all", title_justify="left")
    headings = ("delay ms", "way", "borders", "jump rad", "mean", "jerk rad/s³", "gate: jump", "gate: jerk", "lifted")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for row in rows:
        table.add_row(
            str(row.delay_ms),
            row.way,
            str(row.borders),
            f"{row.jump_rad:.4f}",
            f"{row.jump_mean_rad:.4f}",
            f"{row.jerk_rad_s3:.0f}",
            f"{row.commanded_jump_rad:.4f}",
            f"{row.commanded_jerk_rad_s3:.0f}",
            f"{row.successes}/{row.episodes}",
        )
    return table


if __name__ == "__main__":
    name = Path(__file__).stem
    chosen = tyro.cli(ContinuityArguments, prog=f"benchmarks/{name}.py")
    raise SystemExit(main(name, partial(measure, chosen), chosen))
