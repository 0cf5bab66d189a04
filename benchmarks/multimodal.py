"""Does a family keep two ways of doing the same apart? Half of the demonstrations pass on the left, half on the right.

All have the same observation. A chunk follows a half circle of radius 1 around an obstacle, to its left or to its right
with equal chance, and every action is off by normal noise of deviation 0.05. Every registered family learns from 4,096
such chunks at the size of its preset `tiny`, and then answers the observation 1,000 times, each from another noise. An
answer is in a mode when the root mean square of its actions' distances to that half circle is below 0.25; the mean of
all demonstrations, straight through the obstacle, is 0.71 from both.

    python benchmarks/multimodal.py [--quick] [--json FILE]
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Criterion, below, exactly, main
from rich.console import Console
from rich.table import Table
from torch import Tensor

from armature.normalizer import FieldStats, Normalizer
from armature.spec import AGENT_POSITION, ActionSpec, ArraySpec, ObservationSpec, RobotSpec
from policies.chunk_policy import ACTION, ChunkPolicy
from policies.dataset_torch import batch_indices
from policies.presets.catalog import PRESETS
from policies.registry import METHODS
from policies.training_state import OptimizerConfig, TrainingState

DEMONSTRATIONS, NOISE, SAMPLES = 4096, 0.05, 1000
IN_MODE, LOW, HIGH = 0.25, 0.35, 0.65
STEPS, BATCH, SEED = 3000, 32, 0
QUICK_STEPS = 200
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=100)
AVERAGING = ("bc",)
"""Families that answer one observation with one chunk, which has to be the mean; all others are to show both modes."""
_POSITION = ArraySpec(AGENT_POSITION, (2,), "float32", "px", labels=("x", "y"))
_SPEC = RobotSpec("toy", ObservationSpec((_POSITION,), 10.0), ActionSpec("planar_position", (_POSITION,), 10.0))


@dataclass(frozen=True)
class Outcome:
    """What the answers of one family are; `left`, `right` and `neither` are fractions of them."""

    left: float
    right: float
    neither: float
    to_nearest: float
    """Median distance of an answer to the nearer mode."""
    to_mean: float
    """Largest distance of an answer to the mean of the demonstrations."""
    parameters: int
    train_s: float
    sample_ms: float
    """All answers, as one batch."""


def measure(quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Train and ask every family, on one thread."""
    torch.set_num_threads(1)
    outcomes = {family: _outcome(family, QUICK_STEPS if quick else STEPS) for family in METHODS}
    print_outcomes(outcomes)
    criteria = [criterion for family, outcome in outcomes.items() for criterion in _criteria(family, outcome)]
    return criteria, {family: asdict(outcome) for family, outcome in outcomes.items()}


def _criteria(family: str, outcome: Outcome) -> list[Criterion]:
    if family in AVERAGING:
        averages = below(f"{family}: farthest from the mean", outcome.to_mean, "radius", 0.1)
        return [averages, exactly(f"{family}: in neither mode", outcome.neither, "of answers", 1.0)]
    fractions = {"left": outcome.left, "right": outcome.right}
    return [
        Criterion(f"{family}: {side}", value, "of answers", f"{LOW:g} to {HIGH:g}", LOW <= value <= HIGH)
        for side, value in fractions.items()
    ]


def _outcome(family: str, steps: int) -> Outcome:
    begin_s = time.perf_counter()
    policy = learn(family, steps)
    trained_s = time.perf_counter()
    answers = ask(policy)
    asked_s = time.perf_counter()
    left, right = half_circles(policy.config.chunk_steps)
    to_left, to_right = distances(answers, left), distances(answers, right)
    nearest = torch.minimum(to_left, to_right)
    return Outcome(
        left=_fraction(to_left < IN_MODE),
        right=_fraction(to_right < IN_MODE),
        neither=_fraction(nearest >= IN_MODE),
        to_nearest=nearest.median().item(),
        to_mean=distances(answers, (left + right) / 2).max().item(),
        parameters=sum(parameter.numel() for parameter in policy.parameters()),
        train_s=trained_s - begin_s,
        sample_ms=(asked_s - trained_s) * 1e3,
    )


def learn(family: str, steps: int) -> ChunkPolicy:
    """Train the `tiny` policy of a family on the two modes; return the average of its weights."""
    preset = PRESETS[f"{family}_tiny"](Path(), Path())
    config = replace(preset.policy, observations=(AGENT_POSITION,), obs_steps=1)
    data = demonstrations(config.chunk_steps)
    stats = {name: FieldStats.of(values.flatten(0, 1).numpy()) for name, values in data.items()}
    torch.manual_seed(SEED)
    policy = ChunkPolicy(family, config, preset.method, _SPEC, Normalizer(stats, dict.fromkeys(stats, "limits")))
    state = TrainingState(policy, OPTIMIZER)
    for step in range(steps):
        indices = batch_indices(step, BATCH, DEMONSTRATIONS, SEED)
        state.update({name: values[indices] for name, values in data.items()}, SEED, steps)
    return state.average


def demonstrations(chunk_steps: int) -> dict[str, Tensor]:
    """Draw windows: every observation at the origin, chunks on the left or on the right."""
    rng = np.random.default_rng(SEED)
    modes = torch.stack(half_circles(chunk_steps))
    chosen = modes[torch.from_numpy(rng.integers(0, 2, DEMONSTRATIONS))]
    noise = torch.from_numpy(rng.normal(0, NOISE, chosen.shape)).float()
    return {AGENT_POSITION: torch.zeros(DEMONSTRATIONS, 1, 2), ACTION: chosen + noise}


def half_circles(chunk_steps: int) -> tuple[Tensor, Tensor]:
    """Return the ways around the obstacle, left and right, each (chunk_steps, 2) from (0, -1) to (0, 1)."""
    angle = torch.linspace(0, torch.pi, chunk_steps)
    right = torch.stack([angle.sin(), -angle.cos()], dim=-1)
    return right * torch.tensor([-1.0, 1.0]), right


def ask(policy: ChunkPolicy) -> Tensor:
    """Return the answers (SAMPLES, chunk_steps, 2) to the one observation."""
    generator = torch.Generator().manual_seed(SEED + 1)
    noise = torch.randn(SAMPLES, policy.config.chunk_steps, 2, generator=generator)
    return policy.sample({AGENT_POSITION: torch.zeros(SAMPLES, 1, 2)}, noise, generator).actions


def distances(answers: Tensor, way: Tensor) -> Tensor:
    """Return the root mean square (N,) of the distances between actions (N, T, 2) and those of a way (T, 2)."""
    return (answers - way).square().sum(dim=-1).mean(dim=-1).sqrt()


def _fraction(which: Tensor) -> float:
    return which.float().mean().item()


def print_outcomes(outcomes: dict[str, Outcome]) -> None:
    """Show what every family answers."""
    table = Table(title=f"{SAMPLES} answers to one observation with two ways", title_justify="left")
    headings = ("left", "right", "neither", "to nearest mode", "farthest from mean", "parameters", "trained s")
    for heading in ("family", *headings):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    for family, o in outcomes.items():
        fractions = (f"{fraction:.1%}" for fraction in (o.left, o.right, o.neither))
        lengths = (f"{length:.3f}" for length in (o.to_nearest, o.to_mean))
        table.add_row(family, *fractions, *lengths, f"{o.parameters:,}", f"{o.train_s:.1f}")
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main("multimodal", measure))
