"""Does a weak policy get better by a residual, how soon, and is it ever worse than it was?

A weak base (a diffusion policy or another that has learned for too short) is corrected by `armature train-residual`
from sparse success and the scripted demonstrations. Beside it learn, with as many steps, the same learner without a
base (RLPD-style TD3) and DSRL on the same base. Every curve is of the same 50 starts, which are never learned from.

Demonstrations, bases and trainings are kept under --out and are not repeated: one at a time, and at last the table.

    python benchmarks/residual.py [--tasks lift can] [--methods residual dsrl] [--out runs/residual] [--quick]
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tyro
from harness import ROOT, Arguments, Criterion, at_least, below, main
from kept_training import trained
from rich.console import Console
from rich.table import Table
from tasks import demonstrations_of

from armature.errors import ConfigError, unknown
from policies.dsrl_learner import DsrlLearnerConfig
from policies.presets.catalog import PRESETS
from policies.residual_guard import GuardConfig
from policies.residual_learner import LearnerConfig
from policies.residual_td3 import ResidualConfig
from policies.train_dsrl import DsrlTrainConfig, train_dsrl
from policies.train_residual import ResidualTrainConfig, train_residual

mpl.use("Agg")
import matplotlib.pyplot as plt

SUCCESS_MIN = {"lift": 0.95, "can": 0.95, "square": 0.90}
PAPER_STEPS = {"can": 60_000, "square": 150_000}
"""Environment steps to 90 % as published, with the 10,000 before learning begins (Ankile et al. 2025, fig. 5)."""
DIP_MAX = 0.10
STEPS = {"lift": 30_000, "can": 60_000, "square": 150_000}
BASES = {"lift": ("diffusion", 300), "can": ("diffusion", 2000), "square": ("diffusion", 2500)}
"""Family and training steps of the weak base."""
METHODS = ("residual", "rlpd", "dsrl")
SEEDS = {"lift": (0, 1, 2), "can": (0, 1, 2), "square": (0,)}
LEARNER = LearnerConfig(
    td3=ResidualConfig(critics=5, steps=5, polyak=0.02, actor_lr=1e-4, demonstration_weight=0.3),
    batch_size=128,
    updates_per_step=2.0,
    warmup_steps=2500,
    critic_warmup_updates=3000,
    noise_std=0.15,
)
COLORS = {"residual": "tab:blue", "rlpd": "tab:gray", "dsrl": "tab:orange"}
QUICK_STEPS, QUICK_EPISODES, QUICK_DEMONSTRATIONS, QUICK_BASE_STEPS = 200, 4, 4, 20


@dataclass(frozen=True)
class ResidualArguments(Arguments):
    """What can be asked of this benchmark."""

    tasks: tuple[str, ...] = tuple(SUCCESS_MIN)
    methods: tuple[str, ...] = METHODS
    """residual; rlpd, without a base, and dsrl, both with one seed."""
    seeds: tuple[int, ...] | None = None
    """Of the residual's trainings; unset: 0 1 2 for Lift and Can, 0 for Square."""
    base: tuple[str, int] | None = None
    """Family of the base and its training steps, such as `hrdt 300`; unset: a diffusion policy."""
    out: Path = ROOT / "runs" / "residual"
    """Folder of demonstrations, bases and trainings."""
    processes: int = 1
    """Processes that simulate, for each training."""


@dataclass(frozen=True)
class Curve:
    """One training: what was evaluated when."""

    task: str
    method: str
    seed: int
    points: list[dict[str, Any]]

    @property
    def rates(self) -> list[float]:
        """Return the success of every evaluation."""
        return [point["successes"] / point["episodes"] for point in self.points]

    def steps_to(self, rate: float) -> float:
        """Return after how many environment steps, the warm-up among them, a success was reached; NaN if never."""
        reached = [point["step"] for point, found in zip(self.points, self.rates, strict=True) if found >= rate]
        return reached[0] + LEARNER.warmup_steps if reached else float("nan")


def measure(arguments: ResidualArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Train what is not there yet, then lay all curves side by side."""
    for kind, given, valid in (("task", arguments.tasks, SUCCESS_MIN), ("method", arguments.methods, METHODS)):
        for each in given:
            if each not in valid:
                raise ConfigError(unknown(kind, each, valid))
    curves = [_curve(arguments, quick, *row) for row in _rows(arguments, quick)]
    Console().print(_table(curves))
    _plot(curves, arguments.out / "curves.png")
    details = {"curves": [vars(curve) for curve in curves], "plot": str(arguments.out / "curves.png")}
    return _criteria(curves), details


def _rows(arguments: ResidualArguments, quick: bool) -> list[tuple[str, str, int]]:
    rows: list[tuple[str, str, int]] = []
    for task in arguments.tasks:
        for method in arguments.methods:
            seeds = arguments.seeds or SEEDS[task]
            rows += [(task, method, seed) for seed in (seeds[:1] if quick or method != "residual" else seeds)]
    return rows


def _curve(arguments: ResidualArguments, quick: bool, task: str, method: str, seed: int) -> Curve:
    config = _config(arguments, quick, task, method, seed)
    done = config.out / "done"
    if not done.exists():
        train_dsrl(_steered(config)) if method == "dsrl" else train_residual(config)
        done.touch()
    lines = (config.out / "curve.jsonl").read_text().splitlines()
    return Curve(task, method, seed, [json.loads(line) for line in lines])


def _config(arguments: ResidualArguments, quick: bool, task: str, method: str, seed: int) -> ResidualTrainConfig:
    root = arguments.out / "quick" if quick else arguments.out
    family = (arguments.base or BASES[task])[0]
    name = f"{method}_{seed}" if method == "rlpd" else f"{method}_{family}_{seed}"
    demonstrations, base = weak_base(root, task, arguments.base, quick=quick)
    config = ResidualTrainConfig(
        base=None if method == "rlpd" else base,
        task=task,
        dataset=demonstrations,
        out=root / task / name,
        steps=QUICK_STEPS if quick else STEPS[task],
        seed=seed,
        worlds=6,
        processes=arguments.processes,
        evaluate_every_steps=QUICK_STEPS // 2 if quick else 3000,
        evaluate_episodes=QUICK_EPISODES if quick else 50,
        learner=replace(LEARNER, warmup_steps=100, critic_warmup_updates=20) if quick else LEARNER,
    )
    # Without a base there is nothing to fall back on, and all of the room from the start.
    free = replace(config.learner, guard=GuardConfig(share_first=1.0))
    return replace(config, learner=free) if method == "rlpd" else config


def _steered(config: ResidualTrainConfig) -> DsrlTrainConfig:
    """Return the same training for DSRL: as many steps of the same robots, from the same demonstrations."""
    if config.base is None:
        raise ConfigError("DSRL steers a policy, and there is none")
    names = {each.name for each in fields(DsrlTrainConfig)} - {"learner", "base"}
    shared = {name: getattr(config, name) for name in names}
    learner = DsrlLearnerConfig(warmup_steps=config.learner.warmup_steps)
    return DsrlTrainConfig(base=config.base, learner=learner, **shared)


def weak_base(root: Path, task: str, kind: tuple[str, int] | None = None, *, quick: bool = False) -> tuple[Path, Path]:
    """Return demonstrations, and a policy that has learned from them for too short: `kind` as `base` of the arguments.

    Both are made once.
    """
    family, steps = kind or BASES[task]
    name = f"arm_state_{family}"
    if name not in PRESETS:
        raise ConfigError(unknown("recipe", name, PRESETS))
    demonstrations = demonstrations_of(root / f"{task}_demonstrations", task, QUICK_DEMONSTRATIONS if quick else 200)
    steps = QUICK_BASE_STEPS if quick else steps
    config = PRESETS[name](demonstrations, root / task / f"base_{family}_{steps}")
    return demonstrations, trained(replace(config, steps=steps, threads=1))


def _criteria(curves: list[Curve]) -> list[Criterion]:
    found: list[Criterion] = []
    for task in dict.fromkeys(curve.task for curve in curves):
        ours = [curve for curve in curves if curve.task == task and curve.method == "residual"]
        if not ours:
            continue
        found.append(at_least(f"{task}, success", float(np.mean([c.rates[-1] for c in ours])), "", SUCCESS_MIN[task]))
        dips = [c.points[0]["low"] - min(c.rates) for c in ours]
        found.append(below(f"{task}, deepest below the base's interval", max(dips), "", DIP_MAX))
        if task in PAPER_STEPS:
            steps = float(np.mean([c.steps_to(0.9) for c in ours]))
            found.append(below(f"{task}, steps to 90 %", steps, "steps", PAPER_STEPS[task]))
    return found


def _table(curves: list[Curve]) -> Table:
    table = Table(title="Success of 50 starts while learning", title_justify="left")
    for heading in ("task", "method", "seed", "base", "lowest", "last", "95 % interval", "steps to 90 %"):
        table.add_column(heading, justify="left" if heading in ("task", "method") else "right")
    for curve in curves:
        last = curve.points[-1]
        interval, steps = f"{last['low']:.2f} to {last['high']:.2f}", curve.steps_to(0.9)
        rates = (f"{rate:.2f}" for rate in (curve.rates[0], min(curve.rates), curve.rates[-1]))
        shown = "never" if np.isnan(steps) else f"{steps:,.0f}"
        table.add_row(curve.task, curve.method, str(curve.seed), *rates, interval, shown)
    return table


def _plot(curves: list[Curve], path: Path) -> None:
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    figure, axes = plt.subplots(1, len(tasks), figsize=(5.2 * len(tasks), 3.6), squeeze=False, sharey=True)
    for axis, task in zip(axes[0], tasks, strict=True):
        for curve in curves:
            if curve.task == task:
                steps = [point["step"] + LEARNER.warmup_steps for point in curve.points]
                color = COLORS[curve.method]
                label = curve.method if curve.seed == 0 else None
                axis.plot([0, *steps[1:]], curve.rates, color=color, alpha=0.8, label=label)
        axis.set(title=task, xlabel="environment steps", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right")
    axes[0][0].set_ylabel("success")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(ResidualArguments, prog=f"benchmarks/{name}.py", description=__doc__)
    sys.exit(main(name, partial(measure, arguments), arguments))
