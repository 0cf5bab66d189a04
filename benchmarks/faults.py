"""Every fault of the matrix that concerns the control path: do its tests pass, and how soon is it named?

1. The tests of the rows A, B, C and E (`docs/fault_matrix.md`) run; a row without a test, or one of whose cases was
   skipped or never reported, does not pass. Results that are given have to be of this commit.
2. Faults are injected into the running graph `robot` with the stand-in for an arm and a policy that never rests.
   Measured is the time until the first status of the control node that names the fault: since the injection, and since
   it was one, for faults that are defined by a duration.
3. Nodes are killed under `armature up`, which has to name them and to end with another exit code than 0.

Every command that is sent meanwhile is judged: finite, in range, within speed and acceleration of the one before.

    python benchmarks/faults.py [--trials 20] [--quick] [--results RESULTS.json] [--json FILE]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import tyro
from fault_injections import FAULTS, Inject, Injected
from fault_lab import GIVE_UP_S, PERIOD_S, FaultLab, violations
from harness import ROOT, Arguments, Criterion, at_least, exactly, main
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from swinging import swinging_policy

from armature.errors import ConfigError
from armature.provenance import git_commit
from armature_ros import control_status
from armature_ros.graph import ONE_THREAD, graph_environment, make_graph
from armature_ros.graph_config import GraphConfig

sys.path.insert(0, str(ROOT / "tests"))
from fault_table import TestResult, by_row, load_groups

GROUPS = ("A", "B", "C", "E")
TRIALS_QUICK = 3
NAMED_MAX_MS = 200.0
NAMED_MIN_MS = -1e3 * (PERIOD_S + control_status.PERIOD_S)
"""A fault is one since a moment that is known to a tick and a status; one that is named earlier was another one."""
PATIENCE_S = 3.0
SETTLE_S = 0.3
ROUNDS_OF_A_GRAPH = 5
"""Then it is started anew. Every fault leaves the arm somewhere else, and before a wall of its workspace commands that
cannot move away from a frozen state make no fault of it."""
NODES = ("control_node", "policy_node", "mock_arm_node")


@dataclass(frozen=True)
class FaultArguments(Arguments):
    """What can be asked of this benchmark."""

    trials: int = 20
    """Injections per fault, and nodes killed."""
    results: Path | None = None
    """Results of `make fault-matrix` (build/fault_matrix.json) to take instead of running its tests."""
    domain_id: int = 78


@dataclass
class Naming:
    """How long it took to name one fault, by trial [ms]; infinite where nobody did."""

    since_injection_ms: list[float] = field(default_factory=list[float])
    since_fault_ms: list[float] = field(default_factory=list[float])
    """Since the fault was one by its definition."""


@dataclass
class Found:
    """What the injections showed."""

    namings: dict[str, Naming] = field(default_factory=dict[str, Naming])
    commands: int = 0
    overruns: int = 0
    """Ticks that the control loop missed meanwhile: without some processor to spare no time here means anything."""
    violations: list[str] = field(default_factory=list[str])
    miscounts: list[str] = field(default_factory=list[str])
    exit_codes: list[int] = field(default_factory=list[int])


def measure(arguments: FaultArguments, quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Run tests and injections."""
    trials = TRIALS_QUICK if quick else arguments.trials
    results, tested = run_tests() if arguments.results is None else (kept_results(arguments.results), [])
    environment = graph_environment(arguments.domain_id) | ONE_THREAD
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        policy = swinging_policy(Path(folder))
        inject_all(policy, environment, trials, found)
        kill_all(policy, environment, trials, found)
    Console().print(_table(found.namings))
    for line in (*found.violations[:10], *found.miscounts[:10]):
        Console().print(line)
    return [*tested, *row_criteria(results), *_criteria(found)], {"trials": trials, **asdict(found)}


def run_tests() -> tuple[dict[str, Any], list[Criterion]]:
    """Run the tests of the rows; return their results by node id, and what is asked of the run itself."""
    marks = " or ".join(f"fault(row={number})" for number in _rows())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        done = subprocess.run([ROOT / ".ci" / "run-tests", marks, f"--fault-matrix={file}"], check=False)
        results = json.loads(file.read_text())["cases"] if file.exists() else {}
    return results, [exactly("tests of the rows: exit code", done.returncode, "", 0)]


def kept_results(file: Path) -> dict[str, Any]:
    """Return results by node id; raise ConfigError where they are of another commit than this source."""
    told, commit = json.loads(file.read_text()), git_commit()
    if told.get("commit") != commit:
        raise ConfigError(f"{file}: results of commit {told.get('commit')}, this source is {commit}; make them again")
    return told["cases"]


def row_criteria(results: dict[str, Any]) -> list[Criterion]:
    """Ask of every row that it has tests and that all their cases passed."""
    found = by_row(results)
    return [_row_criterion(number, fault, found.get(number, {})) for number, fault in _rows().items()]


def _row_criterion(number: int, fault: str, tests: dict[str, TestResult]) -> Criterion:
    outcomes = sum((test.outcomes for test in tests.values()), Counter[str]())
    passed, cases = outcomes["passed"], outcomes.total()
    bound = f"== {cases}" if cases else "a test"
    return Criterion(f"row {number}: {fault}", passed, "cases pass", bound, bool(cases) and passed == cases)


def _rows() -> dict[int, str]:
    groups = [group for group in load_groups() if group["letter"] in GROUPS]
    return {number: row["fault"] for group in groups for number, row in group["rows"].items()}


def inject_all(policy: Path, environment: dict[str, str], trials: int, found: Found) -> None:
    """Inject every fault, one round after the other."""
    config = GraphConfig(policy=str(policy), cameras=False, mock_arm=True, robot="fer",
                         overrides=('control_node.flight_folder=""',))  # fmt: skip
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("faults", total=trials * len(FAULTS))
        for first in range(0, trials, ROUNDS_OF_A_GRAPH):
            with FaultLab(make_graph("robot", config), environment) as lab:
                for _ in range(min(ROUNDS_OF_A_GRAPH, trials - first)):
                    for name, inject in FAULTS.items():
                        _inject(lab, name, inject, found)
                        progress.advance(bar)


def _inject(lab: FaultLab, name: str, inject: Inject, found: Found) -> None:
    lab.drive()
    before, begin = lab.counts(), len(lab.statuses)
    injected_s = time.monotonic()
    injected = inject(lab)
    try:
        named_s = _await_name(lab, injected, begin)
        begins_s = injected_s if injected.begins_s is None else injected.begins_s()
    finally:
        injected.undo()
    time.sleep(SETTLE_S)
    naming = found.namings.setdefault(name, Naming())
    naming.since_injection_ms.append((named_s - injected_s) * 1e3)
    naming.since_fault_ms.append((named_s - begins_s) * 1e3)
    commands, after = list(lab.commands), lab.counts()
    found.commands += len(commands)
    found.violations += [f"{name}: {text}" for text in violations(commands)]
    risen = {key: after[key] - before[key] for key in injected.counted}
    wrong = risen if risen != injected.counted else {}
    fallen = [key for key in before if after[key] < before[key]]
    found.miscounts += [f"{name}: {text}" for text in (wrong, fallen) if text]
    found.overruns += lab.statuses[-1][1]["overruns"] - lab.statuses[0][1]["overruns"]


def _await_name(lab: FaultLab, injected: Injected, begin: int) -> float:
    """Return when the first status came that names the fault, infinite when none did."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        for at_s, status in lab.statuses[begin:]:
            if injected.is_named(status):
                return at_s
        time.sleep(0.002)
    Console(stderr=True).print(f"not named; the last status: {lab.statuses[-1][1]}")
    return float("inf")


def kill_all(policy: Path, environment: dict[str, str], trials: int, found: Found) -> None:
    """Kill one node after the other under `armature up`."""
    command = [sys.executable, "-m", "armature.cli", "up", "robot", "--mock-arm", "--no-cameras", "--policy",
               str(policy), "--overrides", 'control_node.flight_folder=""']  # fmt: skip
    with Progress(console=Console(stderr=True)) as progress:
        for trial in progress.track(range(trials), description="kills"):
            name = NODES[trial % len(NODES)]
            naming = found.namings.setdefault("node killed, named by armature up", Naming())
            named_ms, code = _kill(command, environment, name)
            naming.since_injection_ms.append(named_ms)
            naming.since_fault_ms.append(named_ms)
            found.exit_codes.append(code)


def _kill(command: list[str], environment: dict[str, str], name: str) -> tuple[float, int]:
    """Return how long it took until a killed node was named [ms], and the exit code in the end."""
    with subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as up:
        lines = iter(up.stdout or ())
        ready = {node for node, line in _words(lines, len(NODES)) if line}
        if ready != set(NODES):
            raise RuntimeError(f"only {ready} of the graph came up")
        (node,) = [p for p in psutil.Process(up.pid).children() if f"armature_ros.{name}" in p.cmdline()]
        node.kill()
        killed_s = time.monotonic()
        named = next((line for line in lines if line.startswith(f"armature up: node {name} was killed")), None)
        named_s = time.monotonic() if named else float("inf")
        for _ in lines:
            pass
        return (named_s - killed_s) * 1e3, up.wait(GIVE_UP_S)


def _words(lines: Iterator[str], count: int) -> Iterator[tuple[str, str]]:
    """Yield node and line of the first `count` lines that say that a node is ready."""
    for line in lines:
        if "ready" in line and line.startswith("["):
            yield line[1:].partition("]")[0], line
            count -= 1
        if not count:
            return


def _criteria(found: Found) -> list[Criterion]:
    return [
        *(criterion for name, naming in found.namings.items() for criterion in _named(name, naming.since_fault_ms)),
        exactly(f"violations in {found.commands} commands", len(found.violations), "", 0),
        exactly("counters that do not add up", len(found.miscounts), "", 0),
        exactly("exit codes 0 after a node was killed", found.exit_codes.count(0), "", 0),
    ]


def _named(name: str, times_ms: list[float]) -> list[Criterion]:
    worst = max(times_ms)
    return [
        Criterion(f"{name}: named after, max", worst, "ms", f"<= {NAMED_MAX_MS:g}", bool(worst <= NAMED_MAX_MS)),
        at_least(f"{name}: named after, least", min(times_ms), "ms", NAMED_MIN_MS),
    ]


def _table(namings: dict[str, Naming]) -> Table:
    table = Table(title="Until a fault is named [ms]", title_justify="left")
    for heading in ("fault", "since injection p50", "max", "since it is one p50", "max", "trials"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for name, naming in namings.items():
        columns = (sorted(naming.since_injection_ms), sorted(naming.since_fault_ms))
        cells = [f"{value:.0f}" for times in columns for value in (times[len(times) // 2], times[-1])]
        table.add_row(name, *cells, str(len(naming.since_fault_ms)))
    return table


if __name__ == "__main__":
    name = Path(__file__).stem
    arguments = tyro.cli(FaultArguments, prog=f"benchmarks/{name}.py", description=__doc__)
    sys.exit(main(name, partial(measure, arguments), arguments))
