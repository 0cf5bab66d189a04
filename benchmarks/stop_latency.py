"""How long does the arm go on when something dies? Processes are killed and stopped at random moments.

The graph `robot` runs with the stand-in for an arm, a policy that never rests, and the real limits of the Franka arm.
At a random moment one node gets SIGKILL or SIGSTOP. Measured from then on, on this process' steady clock:

- arm side (`mock_arm_node`): the measured state is missing; until the control node says HOLD or LATCHED;
- policy: the chunk in force is still good, so the time is counted from its end; until HOLD;
- control node: nobody commands; until the arm has stopped by its own time-out.

In each case also: until commands (or, without a control node, the arm) stand still. Both idle and with two busy
processes beside it.

    python benchmarks/stop_latency.py [--trials 100] [--quick] [--json FILE]
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from graph_probe import GraphProbe
from harness import Arguments, Criterion, main
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from swinging import swinging_policy

from armature_ros.graph import ONE_THREAD, GraphConfig, NodeSpec, graph_environment, make_graph

TARGETS = ("mock_arm_node", "policy_node", "control_node")
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
LOADS = {"idle": 0, "two busy processes": 2}
HOLD_MAX_MS, ARM_STOPS_MAX_MS = 150.0, 200.0
QUICK_TRIALS = 3
CHUNK_S = 0.8
# After a signal nothing that is measured takes longer.
WATCHED_S = 0.4
# How long the arm may take to move again, and how much longer where that needs another node to be started anew.
PATIENCE_S, GIVE_UP_S = 30.0, 120.0
LOG_SHOWN = 6000
IMPORTED = (*(f"armature_ros.{target}" for target in TARGETS), "policies.checkpoint")


@dataclass(frozen=True)
class StopArguments(Arguments):
    """What can be asked of this benchmark."""

    trials: int = 100
    """Random moments per node, signal and load."""
    seed: int = 0
    domain_id: int = 77


@dataclass(frozen=True)
class Stop:
    """What one signal did; times in milliseconds since it was sent."""

    held_ms: float
    """Until HOLD or LATCHED; of the policy, since its chunk had ended; NaN where the control node was hit."""
    still_ms: float
    """Until the last change of a command, or of the arm where the control node was hit."""


def measure(arguments: StopArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Run all combinations."""
    trials = QUICK_TRIALS if quick else arguments.trials
    with tempfile.TemporaryDirectory() as folder:
        config = GraphConfig(policy=str(swinging_policy(Path(folder))), cameras=False, robot="fer", mock_arm=True,
                             overrides=(f"control_node.flight_folder={folder}/flight",))  # fmt: skip
        nodes = make_graph("robot", config)
        os.environ.update(graph_environment(arguments.domain_id) | ONE_THREAD)
        with Lab(nodes, Path(folder) / "nodes.log") as lab:
            rows = _all_stops(lab, trials, random.Random(arguments.seed))
    Console().print(_table(rows))
    others = Criterion("nodes that died because another one did", len(lab.died), "", "== 0", not lab.died)
    return [*_criteria(rows), others], {
        "trials": trials,
        "rows": {" / ".join(key): _figures(stops) for key, stops in rows.items()},
        "died because another one did": lab.died,
    }


Rows = dict[tuple[str, str, str], list[Stop]]


def _all_stops(lab: Lab, trials: int, rng: random.Random) -> Rows:
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


class Lab:
    """The running nodes, each of which can be hit and put back.

    They are forked from a process that has imported what they need, which is most of the time that a node takes to
    start, and there are hundreds of starts.
    """

    def __init__(self, nodes: tuple[NodeSpec, ...], log: Path) -> None:
        self.died: list[str] = []
        """Nodes that were found dead though nobody had hit them."""
        self._nodes = {node.name: node for node in nodes}
        self._log = log
        self._processes: dict[str, ForkServerProcess] = {}
        self._prepared = multiprocessing.get_context("forkserver")
        self._prepared.set_forkserver_preload([*IMPORTED])

    def __enter__(self) -> Lab:
        for name in self._nodes:
            self._start(name)
        self._probe = GraphProbe()
        return self

    def __exit__(self, *_: object) -> None:
        self._probe.close()
        for process in self._processes.values():
            process.kill()
            process.join()

    def stop(self, target: str, number: int, rng: random.Random) -> Stop:
        """Hit a node at a random moment in motion, see what happens, and put it back."""
        try:
            self._probe.drive(PATIENCE_S)
        except TimeoutError:
            self._revive()
            self._probe.drive(GIVE_UP_S)
        time.sleep(rng.uniform(0.2, 1.0))
        chunk_ends_s = self._probe.chunk_ends_s
        hit_s = time.monotonic()
        self._signal(target, number)
        time.sleep(WATCHED_S if target != "policy_node" else CHUNK_S + WATCHED_S)
        watched = self._probe.states if target == "control_node" else self._probe.commands
        still_s = watched.last_change_s(hit_s)
        held_s = float("nan")
        if target != "control_node":
            since_s = max(hit_s, chunk_ends_s()) if target == "policy_node" else hit_s
            held_s = self._probe.held_since_s(hit_s) - since_s
        self._put_back(target, number)
        return Stop(held_s * 1e3, (still_s - hit_s) * 1e3)

    def _put_back(self, target: str, number: int) -> None:
        if number == signal.SIGSTOP:
            self._signal(target, signal.SIGCONT)
            return
        self._processes[target].join()
        self._start(target)

    def _revive(self) -> None:
        """Start what has died of something else than a signal, and show what the nodes have said."""
        dead = [name for name, process in self._processes.items() if not process.is_alive()]
        shown = self._log.read_bytes()[-LOG_SHOWN:].decode(errors="replace")
        print(f"dead: {dead or 'no node'}; the nodes' last words:\n{shown}", file=sys.stderr)
        for name in dead:
            self.died.append(name)
            self._start(name)

    def _signal(self, target: str, number: int) -> None:
        pid = self._processes[target].pid
        if pid is None:
            raise RuntimeError(f"{target} was never started")
        os.kill(pid, number)

    def _start(self, name: str) -> None:
        node = self._nodes[name]
        arguments = ["--ros-args", "-r", f"__node:={name}", *node.ros_arguments()]
        process = self._prepared.Process(
            target=_run_node, args=(node.executable, arguments, str(self._log)), daemon=True
        )
        process.start()
        self._processes[name] = process


def _run_node(executable: str, arguments: list[str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    sys.exit(importlib.import_module(f"armature_ros.{executable}").main(["node", *arguments]))


def _figures(stops: list[Stop]) -> dict[str, Any]:
    return {
        name: {f"p{q:g}": float(np.percentile(values, q)) for q in (50, 99, 99.9, 100)}
        for name in ("held_ms", "still_ms")
        if not np.isnan(values := [getattr(stop, name) for stop in stops]).all()
    }


def _criteria(rows: Rows) -> list[Criterion]:
    found: list[Criterion] = []
    for (target, name, load), stops in rows.items():
        figures = _figures(stops)
        if target == "control_node":
            value, bound, what = figures["still_ms"]["p100"], ARM_STOPS_MAX_MS, "arm stands still, max"
        else:
            value, bound, what = figures["held_ms"]["p99.9"], HOLD_MAX_MS, "HOLD, p99.9"
        found.append(Criterion(f"{target} {name}, {load}: {what}", value, "ms", f"<= {bound:g}", bool(value <= bound)))
    return found


def _table(rows: Rows) -> Table:
    table = Table(title="After a signal at a random moment [ms]", title_justify="left")
    for heading in ("node", "signal", "load", "HOLD p50", "p99", "max", "still p50", "p99", "max", "trials"):
        table.add_column(heading, justify="left" if heading in ("node", "signal", "load") else "right")
    for key, stops in rows.items():
        figures = _figures(stops)
        cells = [
            f"{figures[name][q]:.0f}" if name in figures else "-"
            for name in ("held_ms", "still_ms")
            for q in ("p50", "p99", "p100")
        ]
        table.add_row(*key, *cells, str(len(stops)))
    return table


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(StopArguments, prog=f"benchmarks/{name}.py", description=__doc__)
    sys.exit(main(name, partial(measure, arguments), arguments))
