"""What every benchmark shares: criteria with bounds, the table, the JSON file and the exit code.

A benchmark is one function `measure(quick) -> (criteria, details)` handed to `main`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import tyro
from rich.console import Console
from rich.table import Table

from armature.provenance import git_commit, processor

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Criterion:
    """One figure that the benchmark has to meet: its value, and the bound in words."""

    name: str
    value: float
    unit: str
    bound: str
    ok: bool


def below(name: str, value: float, unit: str, limit: float) -> Criterion:
    """Ask for `value` < `limit`; NaN (nothing was measured) does not meet it."""
    return Criterion(name, value, unit, f"< {limit:g}", bool(value < limit))


def at_least(name: str, value: float, unit: str, limit: float) -> Criterion:
    """Ask for `value` >= `limit`; NaN does not meet it."""
    return Criterion(name, value, unit, f">= {limit:g}", bool(value >= limit))


def exactly(name: str, value: float, unit: str, wanted: float) -> Criterion:
    """Ask for `value` == `wanted`."""
    return Criterion(name, value, unit, f"== {wanted:g}", bool(value == wanted))


def within(name: str, value: float, unit: str, low: float, high: float) -> Criterion:
    """Ask for `low` <= `value` <= `high`; NaN does not meet it."""
    return Criterion(name, value, unit, f"{low:g} to {high:g}", bool(low <= value <= high))


Measure = Callable[[bool], tuple[list[Criterion], dict[str, Any]]]


@dataclass(frozen=True)
class Arguments:
    """What every benchmark takes; one with arguments of its own extends it."""

    json: Path | None = None
    """Where to write the result; not written when left out."""
    quick: bool = False
    """Measure for a short time: for a look, not for a figure to quote."""


def main(name: str, measure: Measure, arguments: Arguments | None = None) -> int:
    """Measure, print the table, write the JSON file; return 0 only when every criterion is met."""
    if arguments is None:
        arguments = tyro.cli(Arguments, prog=f"benchmarks/{name}.py")
    console = Console()
    # What others do on this machine meanwhile belongs to the figures.
    busy_percent = psutil.cpu_percent(interval=1.0)
    criteria, details = measure(arguments.quick)
    details |= {"quick": arguments.quick, "cpu_busy_before_percent": busy_percent}
    console.print(_table(name, criteria))
    if arguments.json is not None:
        result = _result(name, criteria, details)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(criterion.ok for criterion in criteria) else 1


def _result(name: str, criteria: list[Criterion], details: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "machine": machine(),
        "commit": git_commit(),
        "criteria": [asdict(criterion) for criterion in criteria],
        "details": details,
    }


def machine() -> dict[str, Any]:
    """Describe the machine as far as a figure depends on it."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "gpu": gpu(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def gpu() -> str | None:
    """Return the names of the GPUs, as their driver tells them; None without one."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    told = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return None if told.returncode else ", ".join(told.stdout.split("\n")[:-1])


def _table(name: str, criteria: list[Criterion]) -> Table:
    table = Table(title=name, title_justify="left")
    for heading in ("criterion", "value", "bound", "unit", ""):
        table.add_column(heading, justify="right" if heading in ("value", "bound") else "left")
    for c in criteria:
        verdict = "[green]met[/]" if c.ok else "[red]missed[/]"
        table.add_row(c.name, f"{c.value:.4g}", c.bound, c.unit, verdict)
    return table
