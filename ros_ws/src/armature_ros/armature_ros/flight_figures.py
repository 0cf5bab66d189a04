"""The pictures of a dump as inline SVG: what the gate did, where the arm was, how fast it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from armature_ros.flight_summary import FlightSummary
from data_collection.plot_style import BLUE, INK, ORANGE, RED, STYLE, svg_text

GREEN, GREY, AMBER = "#1e9e62", "#a3abb9", "#e0a100"
STATE_COLOURS = {"armed": GREEN, "hold": AMBER, "latched": RED, "disarmed": GREY}
COLUMNS = 4
TIME = "time before the end of the record [s]"

# Labels come from a file: no dollar sign in them is to be taken for a formula.
_STYLE = {**STYLE, "text.parse_math": False}

Line = tuple[NDArray[np.float64], NDArray[np.float64], str, str, str, float]
"""Times, values, label, colour, style and width."""


def timeline_svg(summary: FlightSummary) -> str:
    """Draw the state of the gate and its reasons over time, and when states and chunks came."""
    rows = [row.reason for row in summary.reasons()]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 1.25 + 0.28 * (len(rows) + 3)), layout="constrained")
        ax = figure.subplots()
        _draw_gate(ax, summary, rows)
        _draw_arrivals(ax, summary, len(rows) + 1)
        ax.set_yticks(range(len(rows) + 3), ["state of the gate", *rows, "chunks", "measured states"])
        ax.set_ylim(len(rows) + 2.6, -0.6)
        ax.set_xlim(*_span(summary))
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(TIME)
        handles = {handle.get_label(): handle for handle in ax.get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=6, handlelength=1.2)
        return svg_text(figure)


def positions_svg(summary: FlightSummary) -> str:
    """Draw what was asked for, sent and measured of every element, with its range where that is near."""
    commands, states, limits = summary.flight.commands, summary.flight.states, summary.flight.limits

    def lines(k: int) -> list[Line]:
        return [
            (summary.state_s, states.value[:, k], "measured", BLUE, "-", 1.9),
            (summary.command_s, commands.action[:, k], "commanded", ORANGE, "-", 1.3),
            (summary.command_s, commands.requested[:, k], "requested", INK, ":", 1.2),
        ]

    bounds = np.stack((limits.position_low, limits.position_high), axis=1)
    return _grid(summary, lines, bounds, "{label}  [{unit}]", "limit of the range")


def velocities_svg(summary: FlightSummary) -> str:
    """Draw how fast every element was commanded and measured to move, with its limit where that is near."""
    limit = summary.flight.limits.velocity_max

    def lines(k: int) -> list[Line]:
        return [
            (summary.state_s, summary.measured_velocity[:, k], "measured", BLUE, "-", 1.4),
            (summary.command_s, summary.commanded_velocity[:, k], "commanded", ORANGE, "-", 1.3),
        ]

    return _grid(summary, lines, np.stack((-limit, limit), axis=1), "{label}  [{unit}/s]", "velocity limit")


def _draw_gate(ax: Axes, summary: FlightSummary, reasons: Sequence[str]) -> None:
    commands, about = summary.flight.commands, summary.about
    for number, state in enumerate(about.states):
        is_in = commands.state == number
        if is_in.any():
            colour = STATE_COLOURS.get(state, INK)
            ax.broken_barh(summary.stretches(is_in), (-0.3, 0.6), color=colour, linewidth=0, label=state)
            for row, reason in enumerate(reasons, start=1):
                bars = summary.stretches(is_in & commands.reasons[:, about.reasons.index(reason)])
                ax.broken_barh(bars, (row - 0.22, 0.44), color=colour, linewidth=0.8)


def _draw_arrivals(ax: Axes, summary: FlightSummary, row: int) -> None:
    was_taken = summary.flight.chunks.was_taken
    taken, refused = summary.chunk_s[was_taken], summary.chunk_s[~was_taken]
    ax.plot(taken, np.full(len(taken), row), "|", color=BLUE, markersize=11, markeredgewidth=1.8)
    if len(refused):
        ax.plot(refused, np.full(len(refused), row), "x", color=RED, markersize=6, label="chunk of no use")
    ax.plot(summary.state_s, np.full(len(summary.state_s), row + 1), "|", color=BLUE, markersize=7, alpha=0.5)


def _grid(
    summary: FlightSummary,
    lines: Callable[[int], list[Line]],
    bounds: NDArray[np.float64],
    title: str,
    bound_label: str,
) -> str:
    """Draw one plot per element, with `bounds` (D, 2) where they are near what is drawn."""
    names = list(zip(summary.about.labels, summary.about.units, strict=True))
    rows = -(-len(names) // COLUMNS)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 0.6 + 1.75 * rows), layout="constrained")
        axes = figure.subplots(rows, min(COLUMNS, len(names)), squeeze=False, sharex=True).ravel()
        for k, (ax, (label, unit)) in enumerate(zip(axes, names, strict=False)):
            _draw_element(ax, summary, lines(k), bounds[k], bound_label)
            ax.set_title(title.format(label=label, unit=unit))
        for ax in axes[len(names) :]:
            ax.set_axis_off()
        for ax in axes[max(0, len(names) - COLUMNS) : len(names)]:
            ax.xaxis.set_tick_params(labelbottom=True)
        figure.supxlabel(TIME, fontsize=9, color=INK)
        handles = {h.get_label(): h for ax in axes for h in ax.get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=6, handlelength=1.6)
        return svg_text(figure)


def _draw_element(
    ax: Axes, summary: FlightSummary, lines: Sequence[Line], bounds: NDArray[np.float64], bound_label: str
) -> None:
    for number, state in enumerate(summary.about.states):
        if state in ("hold", "latched"):
            for begin_s, duration_s in summary.stretches(summary.flight.commands.state == number):
                ax.axvspan(begin_s, begin_s + duration_s, color=STATE_COLOURS[state], alpha=0.13, linewidth=0)
    for x, y, label, colour, style, width in lines:
        ax.plot(x, y, style, label=label, color=colour, linewidth=width)
    low, high = _frame([y for _, y, *_ in lines])
    for bound in bounds:
        if low - 0.6 * (high - low) <= bound <= high + 0.6 * (high - low):
            ax.axhline(bound, color=RED, linewidth=1.1, linestyle=(0, (4, 2)), label=bound_label)
            low, high = min(low, bound), max(high, bound)
    margin = 0.08 * (high - low)
    ax.set_ylim(low - margin, high + margin)
    ax.set_xlim(*_span(summary))


def _frame(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return what the axis has to show: everything finite, and more than rounding."""
    finite = np.concatenate([y[np.isfinite(y)] for y in values])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-3)
    return middle - half, middle + half


def _span(summary: FlightSummary) -> tuple[float, float]:
    return summary.begin_s, max(summary.period_s, 1e-3)
