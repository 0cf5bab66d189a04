"""`armature flight FOLDER`: what happened in the last seconds before a fault, in the terminal and as a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from armature_ros.flight_reading import find_dump, read_flight
from armature_ros.flight_report import write_report
from armature_ros.flight_summary import UNKNOWN, FlightSummary, TickRow

_COLOURS = {"armed": "green", "hold": "yellow", "latched": "red", "disarmed": "dim"}


@dataclass(frozen=True)
class FlightCommand:
    """Show a dump of the control node's flight recorder."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A dump, or the folder of all dumps: then the newest."""
    html: Path | None = None
    """Write a self-contained page here."""
    ticks: int = 12
    """How many of the last commands to list."""


def main(argv: list[str]) -> int:
    """Run `armature flight`."""
    command = tyro.cli(FlightCommand, args=argv, prog="armature flight")
    path = find_dump(command.folder)
    summary = FlightSummary(read_flight(path))
    _print(Console(highlight=False), path, summary, command.ticks)
    if command.html is not None:
        write_report(summary, path.name, command.html)
        Console(stderr=True).print(f"page: {command.html}", highlight=False, markup=False)
    return 0


def _print(console: Console, path: Path, summary: FlightSummary, ticks: int) -> None:
    about = summary.about
    console.print(f"[bold]{escape(summary.title)}[/]  {escape(about.utc)}  [dim]{escape(str(path))}[/]")
    for name, figure, detail in summary.cards():
        console.print(f"  {name:16} [bold]{escape(figure)}[/]  [dim]{escape(detail)}[/]")
    tables = (_changes(summary), _reasons(summary), _elements(summary), _ticks(summary.ticks(ticks)))
    for table in tables:
        if table.row_count:
            console.print(table)
    if about.counters:
        counted = ", ".join(f"{name} {count}" for name, count in about.counters.items())
        console.print(f"counted since the start: {escape(counted)}", soft_wrap=True)


def _changes(summary: FlightSummary) -> Table:
    table = _table("State of the gate", "at >", "state", "because")
    for change in summary.changes():
        table.add_row(f"{change.at_s:.3f} s", _state(change.state), escape(", ".join(change.reasons)))
    return table


def _reasons(summary: FlightSummary) -> Table:
    table = _table("Reasons", "reason", "commands >", "first >", "last >")
    for row in summary.reasons():
        table.add_row(escape(row.reason), str(row.commands), f"{row.first_s:.3f} s", f"{row.last_s:.3f} s")
    return table


def _elements(summary: FlightSummary) -> Table:
    table = _table("Extremes", "element", "commanded >", "measured >", "limit >", "cut by >", "behind by >")
    for row in summary.elements():
        speeds = [(x, f"{row.unit}/s") for x in (row.commanded_speed, row.measured_speed, row.velocity_max)]
        figures = [*speeds, (row.cut, row.unit), (row.tracking, row.unit)]
        table.add_row(escape(row.label), *(escape(_figure(value, unit)) for value, unit in figures))
    return table


def _ticks(rows: list[TickRow]) -> Table:
    table = _table(f"Last {len(rows)} commands", "at >", "state", "reasons", "cut by", "behind by", "chunk's age >")
    for row in rows:
        reasons = "; ".join((*row.reasons, *([f"asked for {row.asked}"] if row.asked else [])))
        cut, tracking = _figure(row.cut, row.cut_label), _figure(row.tracking, row.tracking_label)
        age = UNKNOWN if row.chunk_age_s is None else f"{1e3 * row.chunk_age_s:.0f} ms"
        table.add_row(f"{row.at_s:.3f} s", _state(row.state), escape(reasons), escape(cut), escape(tracking), age)
    return table


def _figure(value: float | None, of: str) -> str:
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.3g} {of}"


def _state(state: str) -> str:
    return f"[{_COLOURS.get(state, 'white')}]{escape(state)}[/]"


def _table(title: str, *columns: str) -> Table:
    """Make a table; columns whose name ends in > are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for column in columns:
        table.add_column(column.removesuffix(" >"), justify="right" if column.endswith(">") else "left")
    return table
