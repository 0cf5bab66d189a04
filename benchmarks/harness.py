"""What every benchmark shares: criteria with bounds, the table, the JSON file and the exit code.

A benchmark is one function `measure(quick) -> (criteria, details)` handed to `main`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import tyro
from rich.console import Console
from rich.table import Table

from armature.errors import ConfigError
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


def require_number(name: str, value: float, least: float) -> None:
    """Raise ConfigError on an argument that nothing could be measured with."""
    if not value >= least:
        raise ConfigError(f"{name} is {value}, must be at least {least:g}")


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


def main(name: str, measure: Measure, arguments: Arguments | None = None, *, reports_only: bool = False) -> int:
    """Measure, print the table, write the JSON file; return 0 only when criteria were asked for and all are met.

    The file is there from the start, marked as unfinished: 2 is returned at once where it cannot be written. What is
    measured with `reports_only` has no bounds, and ends with 0.
    """
    if arguments is None:
        arguments = tyro.cli(Arguments, prog=f"benchmarks/{name}.py")
    # Told before anything is measured: sources may be edited meanwhile.
    told = {"name": name, "machine": machine(), "commit": git_commit()}
    unfinished: dict[str, Any] = {**told, "criteria": [], "details": {"unfinished": True}}
    try:
        write_result(arguments.json, unfinished)
    except (ConfigError, OSError) as error:
        print(f"benchmarks/{name}.py: --json: {error}", file=sys.stderr)
        return 2
    # What others do on this machine meanwhile belongs to the figures.
    busy_percent = psutil.cpu_percent(interval=1.0)
    try:
        criteria, details = measure(arguments.quick)
    except BaseException as error:
        unfinished["details"]["error"] = f"{type(error).__name__}: {error}"
        write_result(arguments.json, unfinished)
        raise
    details |= {"quick": arguments.quick, "cpu_busy_before_percent": busy_percent}
    if criteria:
        Console().print(_table(name, criteria))
    write_result(arguments.json, {**told, "criteria": [asdict(each) for each in criteria], "details": details})
    if not criteria and not reports_only:
        print("no criterion was asked for by these arguments")
        return 1
    return 0 if all(criterion.ok for criterion in criteria) else 1


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as a whole, where a path is given; raise ConfigError where something else than a file is there."""
    if path is None:
        return
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is no file that a result could replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.write_text(json.dumps(_plain(result), indent=2, allow_nan=False) + "\n")
    os.replace(draft, path)


def _plain(value: Any) -> Any:
    """Return what JSON can hold: numbers that are not finite become null."""
    match value:
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value


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
