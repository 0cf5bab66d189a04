"""How long does the arm go on when something dies? Processes are killed and stopped at random moments.

The graph `residual` runs with the stand-in for an arm, a policy that never rests, a residual that corrects every one of
its actions, and the real limits of the Franka arm; nobody learns. At a random moment one node gets SIGKILL or SIGSTOP.
Measured from then on, on this process' steady clock:

- arm side (`mock_arm_node`): the measured state is missing; until the control node says HOLD or LATCHED;
- policy: the chunk in force is still good, so the time is counted from its end; until HOLD;
- residual: the arm has to go on by the policy alone, so it must not hold, and its commands must not pause. Measured is
  until the last request to the safety gate that is not what a chunk of the policy says for that time;
- control node: nobody commands; until the arm has stopped by its own time-out.

For the others also: until commands (or, without a control node, the arm) stand still. Both idle and with two busy
processes beside it. Every command from a moment before the signal until nothing more is measured is judged: finite, in
range, within speed and acceleration of the one before, so that no correction ends with a jump.

    python benchmarks/stop_latency.py [--trials 100] [--quick] [--json FILE]
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from corrected import restless_residual
from fault_lab import PERIOD_S
from harness import Arguments, Criterion, at_least, exactly, main
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from stop_lab import Stop, StopLab
from swinging import swinging_policy

from armature_ros import control_status
from armature_ros.graph import ONE_THREAD, NodeSpec, graph_environment, make_graph
from armature_ros.graph_config import GraphConfig

TARGETS = ("mock_arm_node", "policy_node", "residual_node", "control_node")
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
LOADS = {"idle": 0, "busy": 2}
HOLD_MAX_MS, ARM_STOPS_MAX_MS = 150.0, 200.0
HOLD_MIN_MS = -1e3 * (PERIOD_S + control_status.PERIOD_S)
"""When a chunk ends is known to a tick and a status; a hold that begins earlier has another cause."""
HELD_BEFORE_MAX = 0.02
"""Of all trials: an arm that holds by itself is not what a signal can stop."""
# A correction counts for one and a half periods of the policy's actions, 75 ms here; then the tick, and the way here.
CORRECTED_MAX_MS, PAUSE_MAX_MS = 150.0, 150.0
BOUNDS: dict[str, tuple[tuple[str, str, float, str], ...]] = {
    "control_node": (("still_ms", "p100", ARM_STOPS_MAX_MS, "arm stands still, max"),),
    "residual_node": (
        ("corrected_ms", "p99.9", CORRECTED_MAX_MS, "last correction, p99.9"),
        ("pause_ms", "p99.9", PAUSE_MAX_MS, "longest pause of the commands, p99.9"),
    ),
}
STOPS = (("held_ms", "p99.9", HOLD_MAX_MS, "HOLD, p99.9"),)
QUICK_TRIALS = 3


@dataclass(frozen=True)
class StopArguments(Arguments):
    """What can be asked of this benchmark."""

    trials: int = 100
    """Random moments per node, signal and load."""
    seed: int = 0
    domain_id: int = 77


def measure(arguments: StopArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Run all combinations."""
    trials = QUICK_TRIALS if quick else arguments.trials
    with tempfile.TemporaryDirectory() as folder:
        nodes = _nodes(Path(folder))
        os.environ.update(graph_environment(arguments.domain_id) | ONE_THREAD)
        with StopLab(nodes, Path(folder) / "nodes.log") as lab:
            begin_s = time.monotonic()
            rows = _all_stops(lab, trials, random.Random(arguments.seed))
            trial_s = (time.monotonic() - begin_s) / (len(rows) * trials)
    Console().print(_table(rows))
    return [*_criteria(rows), *_of_all(lab, len(rows) * trials)], {
        "trials": trials,
        "seconds per trial": trial_s,
        "rows": {" / ".join(key): _figures(stops) for key, stops in rows.items()},
        "died because another one did": lab.died,
        "held before it was hit": lab.held_before,
        "commands judged": lab.judged,
        "violations": lab.violations,
    }


def _nodes(folder: Path) -> list[NodeSpec]:
    checkpoint = swinging_policy(folder)
    overrides = (f"control_node.flight_folder={folder}/flight", "residual_node.reward=label",
                 "residual_node.control_every=0")  # fmt: skip
    config = GraphConfig(policy=str(checkpoint), cameras=False, robot="fer", mock_arm=True, overrides=overrides,
                         residual=str(restless_residual(folder / "residual", checkpoint)))  # fmt: skip
    return [node for node in make_graph("residual", config) if node.name != "learner_node"]


Rows = dict[tuple[str, str, str], list[Stop]]


def _all_stops(lab: StopLab, trials: int, rng: random.Random) -> Rows:
    rows: Rows = {}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("stops", total=len(LOADS) * len(TARGETS) * len(SIGNALS) * trials)
        for load, count in LOADS.items():
            hogs = [multiprocessing.Process(target=_busy, daemon=True) for _ in range(count)]
            for hog in hogs:
                hog.start()
            try:
                for target in TARGETS:
                    for name in SIGNALS:
                        row = rows.setdefault((target, name, load), [])
                        for _ in range(trials):
                            row.append(lab.stop(target, SIGNALS[name], rng))
                            progress.advance(bar)
            finally:
                for hog in hogs:
                    hog.terminate()
    return rows


def _busy() -> None:
    while True:
        pass


def _figures(stops: list[Stop]) -> dict[str, dict[str, float]]:
    times = {name: np.array([getattr(stop, name) for stop in stops]) for name in asdict(stops[0])}
    return {
        name: {f"p{q:g}": float(np.percentile(values, q, method="higher")) for q in (50, 99, 99.9, 100)}
        for name, values in times.items()
        if not np.isnan(values).all()
    }


def _criteria(rows: Rows) -> list[Criterion]:
    found: list[Criterion] = []
    for (target, name, load), stops in rows.items():
        who, figures = f"{target} {name}, {load}", _figures(stops)
        for field, quantile, bound, what in BOUNDS.get(target, STOPS):
            value = figures[field][quantile]
            found.append(Criterion(f"{who}: {what}", value, "ms", f"<= {bound:g}", bool(value <= bound)))
        if target not in BOUNDS:
            least_ms = min(stop.held_ms for stop in stops)
            found.append(at_least(f"{who}: HOLD, least", least_ms, "ms", HOLD_MIN_MS))
        if target == "residual_node":
            held = int(np.isfinite([stop.held_ms for stop in stops]).sum())
            found.append(exactly(f"{who}: times that the arm held", held, "", 0))
    return found


def _of_all(lab: StopLab, trials: int) -> list[Criterion]:
    held = f"holds before the hit, in {trials} trials"
    most = HELD_BEFORE_MAX * trials
    return [
        Criterion(held, lab.held_before, "", f"<= {most:g}", lab.held_before <= most),
        exactly("nodes that died because another one did", len(lab.died), "", 0),
        exactly(f"of {lab.judged} commands those that no arm should be sent", len(lab.violations), "", 0),
    ]


def _table(rows: Rows) -> Table:
    table = Table(title="After a signal at a random moment, ms: p50 / p99 / max", title_justify="left")
    for heading in ("node", "signal", "load"):
        table.add_column(heading)
    for heading in ("HOLD", "still", "last correction", "trials"):
        table.add_column(heading, justify="right")
    for (node, kind, load), stops in rows.items():
        figures = _figures(stops)
        cells = [_cell(figures.get(name)) for name in ("held_ms", "still_ms", "corrected_ms")]
        table.add_row(node, kind, load, *cells, str(len(stops)))
    return table


def _cell(figures: dict[str, float] | None) -> str:
    if figures is None:
        return "-"
    if not math.isfinite(figures["p50"]):
        return "never"
    return " / ".join(f"{figures[q]:.0f}" if math.isfinite(figures[q]) else "never" for q in ("p50", "p99", "p100"))


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(StopArguments, prog=f"benchmarks/{name}.py", description=__doc__)
    sys.exit(main(name, partial(measure, arguments), arguments))
