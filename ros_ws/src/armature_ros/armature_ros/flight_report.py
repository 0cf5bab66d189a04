"""A dump as one self-contained page: state and reasons over time, positions, velocities, the last commands."""

from __future__ import annotations

import math
from pathlib import Path

import jinja2

from armature_ros.flight_figures import positions_svg, timeline_svg, velocities_svg
from armature_ros.flight_reading import FlightError
from armature_ros.flight_summary import UNKNOWN, FlightSummary

TEMPLATE = Path(__file__).with_name("flight_template.html")
TICKS = 24


def write_report(summary: FlightSummary, name: str, path: Path) -> None:
    """Write the page of the dump `name`; raise FlightError where the file cannot be written."""
    try:
        path.write_text(render(summary, name), encoding="utf-8")
    except OSError as error:
        raise FlightError(f"{path}: cannot be written: {error.strerror}") from error


def render(summary: FlightSummary, name: str) -> str:
    """Return the page; texts of the dump are escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["figure"] = _figure
    has_commands = len(summary.command_s) > 0
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        title=summary.title,
        about=summary.about,
        cards=summary.cards(),
        changes=summary.changes(),
        reasons=summary.reasons(),
        elements=summary.elements(),
        ticks=summary.ticks(TICKS),
        timeline=timeline_svg(summary) if has_commands else "",
        positions=positions_svg(summary),
        velocities=velocities_svg(summary),
    )


def _figure(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
