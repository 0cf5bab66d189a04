"""What `armature doctor` found, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Level = Literal["ok", "warn", "fail"]
_BY_URGENCY: tuple[Level, ...] = ("fail", "warn", "ok")
NAME_WIDTH_MAX = 32
"""A topic such as arm_controller/joint_trajectory stays in one piece."""
_STYLES: Mapping[Level, str] = {"ok": "green", "warn": "bold yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """The result of one check on one subject: a topic, or a part of the host or of the deployment."""

    subject: str
    check: str
    level: Level
    found: str
    remedy: str = ""
    """What to do about it; empty where all is well."""
    commands: tuple[str, ...] = ()
    """Lines for a shell that do it."""


def overall(findings: Sequence[Finding]) -> Level:
    """Return the worst level."""
    levels = {finding.level for finding in findings}
    return next((level for level in _BY_URGENCY if level in levels), _BY_URGENCY[-1])


def to_document(findings: Sequence[Finding], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything as JSON data; `about` says what was looked at."""
    counts = Counter(f.level for f in findings)
    return {
        **about,
        "result": overall(findings),
        "counts": {level: counts[level] for level in _BY_URGENCY},
        "findings": [asdict(finding) for finding in findings],
    }


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print one table, the most urgent first, and a last line that says whether to arm."""
    rows = [(row, f"{row.subject} {row.check}".strip()) for row in _rows(findings)]
    width = min(max((len(name) for _, name in rows), default=0), NAME_WIDTH_MAX)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column("result", no_wrap=True)
    table.add_column("check", width=width, overflow="fold")
    table.add_column("found", ratio=5, overflow="fold")
    table.add_column("to do", ratio=4, overflow="fold")
    for row, name in rows:
        style = _STYLES[row.level]
        table.add_row(f"[{style}]{row.level}[/]", *(escape(text) for text in (name, row.found, row.remedy)))
    console.print(table)
    console.print()
    for command in dict.fromkeys(command for finding in findings for command in finding.commands):
        # Whole lines, so that they can be copied.
        console.print(command, style="cyan", highlight=False, markup=False, soft_wrap=True)
    console.print(f"\n{_verdict(findings)}" if any(f.commands for f in findings) else _verdict(findings))


def _rows(findings: Sequence[Finding]) -> list[Finding]:
    """Return what is wrong one by one, then one row for each subject with all that is well."""
    wrong = [f for level in ("fail", "warn") for f in findings if f.level == level]
    well: dict[str, list[str]] = {}
    for finding in findings:
        if finding.level == "ok":
            well.setdefault(finding.subject, []).append(finding.found)
    return [*wrong, *(Finding(subject, "", "ok", ", ".join(found)) for subject, found in well.items())]


def _verdict(findings: Sequence[Finding]) -> str:
    counts = Counter(f.level for f in findings)
    text = f"{counts['fail']} failed, {_counted(counts['warn'], 'warning')}, {counts['ok']} ok"
    if counts["fail"]:
        return f"[bold red]{text}: do not arm before what failed is mended[/]"
    return f"[bold yellow]{text}[/]" if counts["warn"] else f"[bold green]{text}[/]"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
