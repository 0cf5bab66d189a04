"""How well does each family push the T? Trained on the human demonstrations of Push-T, tried in gym-pusht.

A policy sees two steps of nine keypoints of the block and the finger's place, and predicts 16 targets of the finger, of
which 8 are executed. It learns from nine in ten of the 206 episodes (Chi et al. 2023, Diffusion Policy) and is tried on
50 starts that nobody has demonstrated, for at most 300 steps. An episode counts by its coverage, the largest part of
the mark that the block has lain on at any time; the published score is that part divided by 0.95, at most 1. The
demonstrations themselves have a mean coverage of 0.899.

Trainings are kept under --out and are not repeated: one family at a time, and at last the table of all.

    python benchmarks/pusht.py [--families diffusion bc] [--seeds 0 1] [--out runs/pusht] [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from harness import ROOT, Arguments, Criterion, at_least, main, require_number
from kept_training import trained
from rich.console import Console
from rich.table import Table

from armature.control.observation_buffer import ObservationBuffer
from armature.errors import ConfigError, unknown
from armature.types import Observation
from data_collection.converters.diffusion_policy.importer import ImportConfig, open_source
from data_collection.converters.importing import import_source
from data_collection.converters.source import fingerprint_of
from data_collection.store import open_dataset
from policies.checkpoint import load_policy, read_document
from policies.presets.catalog import PRESETS
from policies.registry import METHODS, compiled_families
from policies.train_config import TrainConfig
from sim.defaults import default_scheduler, limits_for
from sim.environment import make_env
from sim.intervals import mean_interval
from sim.tasks import SimConfig
from sim.vector_rollout import vector_rollout

SHARED = Path(os.environ.get("ARMATURE_SHARED_DATA", ROOT.parent / "shared" / "data"))
WORLD = SimConfig("pusht", cameras=False)
SEED, EPISODES, TOGETHER = 100_000, 50, 50
COVERAGE_OF_SUCCESS = 0.95
PUBLISHED = SHARED / "pusht_human" / "pusht_cchi_v7_replay.zarr"
BEST_OF = ("diffusion", "ebt", "mode", "hrdt")
"""The best of these is bounded; the others are reported beside them."""
DIFFUSION_MIN, BEST_MIN, MINUTES_MAX = 0.85, 0.90, 60.0
QUICK = {"steps": 20, "batch_size": 64, "validate_every_steps": 20}
QUICK_EPISODES = 4
TIMED_CHUNKS = 30


@dataclass(frozen=True)
class PushtArguments(Arguments):
    families: tuple[str, ...] = tuple(METHODS)
    """Which to train, where that has not been done, and to evaluate."""
    seeds: tuple[int, ...] = (0,)
    """Of the trainings of each family; that of 0 is kept in OUT/FAMILY, others in OUT/FAMILY_SEED."""
    out: Path = ROOT / "runs" / "pusht"
    """Folder of the imported dataset and of the trainings."""
    recordings: Path | None = None
    """The human demonstrations, as published; unset: those in the folder of shared data. They are imported once: others
    than those that a dataset in OUT comes from are refused."""
    threads: int = 2
    """CPU threads of torch."""
    device: str = "cpu"
    compiled: bool = False
    """Compile the trainings of families for which that can be done (ebt): needs a C++ compiler."""


@dataclass(frozen=True)
class Score:
    """One line of the table."""

    family: str
    seed: int
    """Of its training."""
    parameters: int
    steps: int
    """Of the sampler, per chunk: how often it evaluates its network."""
    chunk_ms: float
    """Median, one observation at a time."""
    training_minutes: float
    coverage: float
    """Mean over the episodes of the largest coverage."""
    low: float
    high: float
    published_score: float
    """Mean of the largest coverage divided by 0.95, at most 1."""
    successes: int
    coverages: tuple[float, ...]
    provenance: dict[str, Any]


def measure(arguments: PushtArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Train what has not been trained, then evaluate all."""
    for name in ("families", "seeds"):
        require_number(f"number of {name}", len(getattr(arguments, name)), 1)
    torch.set_num_threads(arguments.threads)
    scores = [
        evaluate(family, seed, trained(_config(family, seed, arguments, quick)), arguments, quick)
        for family in arguments.families
        for seed in arguments.seeds
    ]
    Console().print(_table(scores))
    return _criteria(scores), {
        "evaluated with": {"threads": arguments.threads, "device": arguments.device},
        "scores": list(map(asdict, scores)),
    }


def _criteria(scores: list[Score]) -> list[Criterion]:
    by_family: dict[str, list[float]] = {}
    for score in scores:
        by_family.setdefault(score.family, []).append(score.coverage)
    means = {family: float(np.mean(found)) for family, found in by_family.items()}
    found: list[Criterion] = []
    if "diffusion" in means:
        found.append(at_least("diffusion, coverage", means["diffusion"], "", DIFFUSION_MIN))
    if tried := [family for family in BEST_OF if family in means]:
        best = max(means[family] for family in tried)
        found.append(at_least(f"best of {', '.join(tried)}, coverage", best, "", BEST_MIN))
    slowest = max(scores, key=lambda score: score.training_minutes)
    minutes, name = slowest.training_minutes, f"longest training ({slowest.family}, {trained_on(slowest)})"
    return [*found, Criterion(name, minutes, "min", f"<= {MINUTES_MAX:g}", minutes <= MINUTES_MAX)]


def trained_on(score: Score) -> str:
    """Return on what a policy was trained, which need not be what it is evaluated on."""
    config = score.provenance["training"]["config"]
    return f"{config['device']}, threads: {config['threads']}" + (", compiled" if config.get("compiled") else "")


def _config(family: str, seed: int, arguments: PushtArguments, quick: bool) -> TrainConfig:
    if (preset := f"pusht_{family}") not in PRESETS:
        raise ConfigError(unknown("recipe", preset, PRESETS))
    folder = arguments.out / ("quick" if quick else "") / (f"{family}_{seed}" if seed else family)
    compiled = arguments.compiled and family in compiled_families()
    changes = {"seed": seed, "threads": arguments.threads, "device": arguments.device, "compiled": compiled}
    return replace(PRESETS[preset](dataset_of(arguments), folder), **changes, **(QUICK if quick else {}))


def dataset_of(arguments: PushtArguments) -> Path:
    """Import the demonstrations, once; raise ConfigError where others than those asked for are there."""
    path = arguments.out / "dataset"
    config = ImportConfig(arguments.recordings or PUBLISHED, path, mapping="pusht")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        import_source(open_source(config), path)
    elif arguments.recordings is not None:
        wanted, found = fingerprint_of(open_source(config)), open_dataset(path).attributes.get("import_key")
        if found != wanted:
            raise ConfigError(
                f"{path}: was imported from other recordings ({found}) than {arguments.recordings} ({wanted}: place, "
                "sizes and times of its files); remove it, choose another --out or leave --recordings out"
            )
    return path


def evaluate(family: str, seed: int, checkpoint: Path, arguments: PushtArguments, quick: bool) -> Score:
    """Try a policy on the starts that are the same for all."""
    policy, document = load_policy(checkpoint, arguments.device), read_document(checkpoint)
    count = QUICK_EPISODES if quick else EPISODES
    envs = [make_env(WORLD) for _ in range(min(count, TOGETHER))]
    try:
        limits = limits_for(envs[0].robot_spec.action)
        results = vector_rollout(envs, policy, range(SEED, SEED + count), default_scheduler(), limits)
        chunk_ms = _time_chunk(policy, envs[0])
    finally:
        for env in envs:
            env.close()
    coverages = np.array([result.maxima["coverage"] for result in results])
    low, high = mean_interval(coverages)
    return Score(
        family,
        seed,
        document["parameters"],
        _sampling_steps(policy.method_config),
        chunk_ms,
        document["provenance"]["training"]["seconds"] / 60,
        float(coverages.mean()),
        low,
        high,
        float(np.minimum(coverages / COVERAGE_OF_SUCCESS, 1).mean()),
        sum(result.success for result in results),
        tuple(coverages.round(4).tolist()),
        document["provenance"],
    )


def _sampling_steps(method: Any) -> int:
    """Return the steps of a method's sampler, of EBT the most that it takes; 1 where a chunk is one evaluation."""
    return getattr(method, "sampling_steps", None) or getattr(method, "steps_max", 1)


def _time_chunk(policy: Any, env: Any) -> float:
    """Return the median time of a chunk [ms]."""
    observation = _first_observation(policy, env)
    policy.reset(0)
    policy.infer(observation)
    times_s: list[float] = []
    for _ in range(TIMED_CHUNKS):
        begin_s = time.perf_counter()
        policy.infer(observation)
        times_s.append(time.perf_counter() - begin_s)
    return float(np.median(times_s)) * 1e3


def _first_observation(policy: Any, env: Any) -> Observation:
    values, _ = env.reset(seed=SEED)
    buffer = ObservationBuffer(policy.spec.observation, policy.obs_steps, max_age_ns=0)
    for name in policy.spec.observation.names:
        buffer.push(name, 0, 0, values[name])
    observation = buffer.latest(0)
    if observation is None:
        raise ConfigError(f"{WORLD.task}: no observation: {buffer.missing(0)}")
    return observation


def _table(scores: list[Score]) -> Table:
    table = Table(title="Push-T from human demonstrations", title_justify="left")
    headings = ("parameters", "steps", "ms per chunk", "training min", "trained on", "coverage", "95 % interval")
    for heading in ("family", "seed", *headings, "score", "successes"):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    for s in sorted(scores, key=lambda score: -score.coverage):
        table.add_row(
            s.family,
            str(s.seed),
            f"{s.parameters / 1e6:.2f} M",
            str(s.steps),
            f"{s.chunk_ms:.1f}",
            f"{s.training_minutes:.1f}",
            trained_on(s),
            f"{s.coverage:.3f}",
            f"{s.low:.3f} to {s.high:.3f}",
            f"{s.published_score:.3f}",
            f"{s.successes}/{len(s.coverages)}",
        )
    return table


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(PushtArguments, prog=f"benchmarks/{name}.py")
    sys.exit(main(name, partial(measure, arguments), arguments))
