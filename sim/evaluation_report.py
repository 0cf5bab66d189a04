"""What `armature eval` tells of its episodes: a table, and a file for other programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from armature.errors import ConfigError


def require_writable(path: Path) -> None:
    """Raise ConfigError where a report could not be written, while there is none yet that would be lost."""
    if os.path.isdir(path):
        raise ConfigError(f"json: {path} is a folder; name a file")
    # Folders that are missing are made with the report.
    place = next(each for each in (path.absolute(), *path.absolute().parents) if os.path.lexists(each))
    if place != path.absolute() and not place.is_dir():
        raise ConfigError(f"json: {path} cannot be written: {place} is no folder")
    if not os.access(place, os.W_OK):
        raise ConfigError(f"json: {path} cannot be written: no permission to write {place}")


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write the result as JSON, in folders that are made; raise ConfigError where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"json: {path} cannot be written: {error.strerror}") from error


def print_report(console: Console, report: dict[str, Any]) -> None:
    """Print the episodes as a table and what they come to."""
    title = f"{report['policy_id']} on {report['task']}"
    table = Table("seed", "success", "steps", "simulated s", "gate interventions", title=title)
    for episode in report["episodes"]:
        table.add_row(
            str(episode["seed"]),
            "[green]yes[/]" if episode["success"] else "[red]no[/]",
            str(episode["steps"]),
            f"{episode['duration_s']:.1f}",
            _counts(episode["interventions"]),
        )
    console.print(table)
    success = report["success"]
    interval = f"95 % interval {success['low']:.3f} to {success['high']:.3f}"
    median = np.median([episode["steps"] for episode in report["episodes"]])
    console.print(f"success {success['k']}/{success['n']} ({interval}), median {median:.0f} steps", highlight=False)
    console.print(f"gate interventions: {_counts(report['interventions'])}; {report['wall_s']:.1f} s", highlight=False)


def _counts(interventions: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in interventions.items()) or "none"
