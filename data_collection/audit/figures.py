"""The pictures of an audit: plots as inline SVG, camera frames as data URIs."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from armature.spec import ArraySpec
from data_collection.audit.config import AuditConfig
from data_collection.audit.findings import Finding
from data_collection.audit.timing import Timing, gap_limit_s
from data_collection.audit.traces import ImageTrace, driven_spans, read_trace
from data_collection.plot_style import BLUE, COLOURS, INK, ORANGE, RED, STYLE, svg_text
from data_collection.store import Episode

POINTS_MAX = 600
STAMPS_MAX = 2000
LEGEND_MAX = 8
EXTENDED = ("gap", "frozen", "idle")
"""Kinds whose value is how long it lasted [s]."""


def styled(draw: Callable[[], Figure]) -> str:
    """Draw a figure in the house's style and return it as SVG text."""
    with matplotlib.rc_context(STYLE):
        return svg_text(draw())


def curves(
    episode: Episode, arrays: Sequence[ArraySpec], findings: Sequence[Finding], begin_ns: int, width: float = 11
) -> Figure:
    """Plot streams over the time since the first command: elements of vectors, motion of pictures, stamps, findings.

    Where a person drove in the place of a policy, that is shaded.
    """
    figure = Figure(figsize=(width, 0.5 + 1.55 * len(arrays)), layout="constrained")
    axes = figure.subplots(len(arrays), 1, squeeze=False, sharex=True)[:, 0]
    spans = driven_spans(episode)
    for ax, array in zip(axes, arrays, strict=True):
        _plot_stream(ax, episode, array, begin_ns)
        for first_ns, end_ns in spans:
            ax.axvspan((first_ns - begin_ns) / 1e9, (end_ns - begin_ns) / 1e9, color=BLUE, alpha=0.10, linewidth=0)
    for first_ns, _ in spans:
        _say(axes[0], (first_ns - begin_ns) / 1e9, 0.04, "a person drives", BLUE, va="bottom")
        for finding in findings:
            if finding.at_s is not None and finding.stream in ("", array.name):
                _mark(ax, finding)
    axes[-1].set_xlabel("time since the first command [s]")
    return figure


def _plot_stream(ax: Axes, episode: Episode, array: ArraySpec, begin_ns: int) -> None:
    trace = read_trace(episode, array.name, array.is_image)
    time_s = (trace.stamps_ns - begin_ns) / 1e9
    values = trace.motion[:, None] if isinstance(trace, ImageTrace) else trace.values
    labels = array.labels if len(array.labels) == values.shape[1] else ()
    for k in range(values.shape[1]):
        label = labels[k] if labels and len(labels) <= LEGEND_MAX else None
        x, y = thinned(time_s, np.asarray(values[:, k], np.float64))
        ax.plot(x, y, color=COLOURS[k % len(COLOURS)], linewidth=1.2, label=label)
    unit = "motion of the picture [grey levels]" if array.is_image else f"[{array.unit}]"
    ax.set_title(f"{array.name}  {unit}" if len(time_s) else f"{array.name}  no samples")
    if len(time_s):
        rug = time_s[:: -(-len(time_s) // STAMPS_MAX)]
        ax.plot(rug, np.zeros(len(rug)), "|", color=INK, alpha=0.5, markersize=5, transform=ax.get_xaxis_transform())
    if labels and len(labels) <= LEGEND_MAX and len(time_s):
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5, handlelength=1.2, labelspacing=0.25)


def _mark(ax: Axes, finding: Finding) -> None:
    colour = RED if finding.severity == "fault" else ORANGE
    if finding.kind in EXTENDED:
        ax.axvspan(finding.at_s, finding.at_s + finding.value, color=colour, alpha=0.13, linewidth=0)
    ax.axvline(finding.at_s, color=colour, linewidth=1.1)
    _say(ax, finding.at_s, 0.97, finding.kind, colour, va="top")


def _say(ax: Axes, at_s: float, height: float, text: str, colour: str, va: str) -> None:
    ax.text(at_s, height, f" {text}", transform=ax.get_xaxis_transform(), color=colour, va=va, fontsize=8)


def thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keep at most 2 * POINTS_MAX points, the extremes of every stretch, so that no leap disappears."""
    if len(x) <= 2 * POINTS_MAX:
        return x, y
    edges = np.linspace(0, len(x), POINTS_MAX + 1).astype(int)
    kept = []
    for begin, end in itertools.pairwise(edges):
        part = np.nan_to_num(y[begin:end])
        kept += sorted({begin + int(part.argmin()), begin + int(part.argmax())})
    return x[kept], y[kept]


def timeline(
    stamps: dict[str, NDArray[np.int64]], findings: Sequence[Finding], begin_ns: int, config: AuditConfig
) -> Figure:
    """Draw for every stream when it had samples; silence is a hole, findings are marked."""
    figure = Figure(figsize=(11, 0.75 + 0.26 * len(stamps)), layout="constrained")
    ax = figure.subplots()
    for row, (name, stamps_ns) in enumerate(stamps.items()):
        bars = [(a, max(b - a, 1e-3)) for a, b in _covered(stamps_ns, begin_ns, config)]
        ax.broken_barh(bars, (row - 0.28, 0.56), color=BLUE, alpha=0.75, linewidth=0)
        for finding in findings:
            if finding.stream == name and finding.at_s is not None:
                colour = RED if finding.severity == "fault" else ORANGE
                if finding.kind in EXTENDED:
                    ax.broken_barh([(finding.at_s, finding.value)], (row - 0.28, 0.56), color=colour, alpha=0.45)
                ax.plot(finding.at_s, row, "|", color=colour, markersize=13, markeredgewidth=2.4)
                ax.text(finding.at_s, row - 0.3, f" {finding.kind}", color=colour, fontsize=8, va="bottom")
    ax.set_yticks(range(len(stamps)), list(stamps))
    ax.set_ylim(len(stamps) - 0.4, -0.75)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("time since the first command [s]")
    return figure


def _covered(stamps_ns: NDArray[np.int64], begin_ns: int, config: AuditConfig) -> list[tuple[float, float]]:
    if len(stamps_ns) == 0:
        return []
    limit_s = gap_limit_s(Timing.of(stamps_ns), config)
    breaks = np.flatnonzero(np.diff(stamps_ns) > limit_s * 1e9)
    firsts, lasts = np.concatenate(([0], breaks + 1)), np.concatenate((breaks, [len(stamps_ns) - 1]))
    time_s = (stamps_ns - begin_ns) / 1e9
    return list(zip(time_s[firsts].tolist(), time_s[lasts].tolist(), strict=True))


def rates(per_stream: dict[str, list[tuple[int, float]]]) -> Figure:
    """Plot the rate of every stream in every episode (index, Hz)."""
    columns = min(3, len(per_stream))
    rows = -(-len(per_stream) // columns)
    figure = Figure(figsize=(11, 0.3 + 1.35 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, points) in zip(axes, per_stream.items(), strict=False):
        index, rate_hz = zip(*points, strict=True)
        ax.plot(index, rate_hz, ".", color=BLUE, markersize=5)
        ax.set_title(f"{name}  [Hz]")
        ax.set_ylim(0, 1.25 * max(rate_hz))
        ax.xaxis.get_major_locator().set_params(integer=True)
    for ax in axes[len(per_stream) :]:
        ax.set_axis_off()
    for ax in axes[max(0, len(per_stream) - columns) : len(per_stream)]:
        ax.set_xlabel("episode")
    return figure


def histograms(labels: Sequence[str], edges: NDArray, counts: NDArray, low: NDArray, high: NDArray) -> Figure:
    """Draw the distribution of every element of the executed commands, with its bounds where they are near."""
    columns = min(4, len(labels))
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(11, 0.2 + 1.35 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for k, (ax, label) in enumerate(zip(axes, labels, strict=False)):
        ax.bar(edges[k, :-1], counts[k], np.diff(edges[k]), align="edge", color=BLUE, alpha=0.85)
        margin = 0.1 * (edges[k, -1] - edges[k, 0])
        for bound in (low[k], high[k]):
            if edges[k, 0] - margin <= bound <= edges[k, -1] + margin:
                ax.axvline(bound, color=ORANGE, linewidth=1.3)
        ax.set_title(label)
        ax.set_yticks([])
    for ax in axes[len(labels) :]:
        ax.set_axis_off()
    return figure


def jpeg_uri(image: NDArray[Any], side_px: int) -> str:
    """Encode an RGB image (H, W, 3) as a JPEG data URI, at most `side_px` wide."""
    width_px = min(side_px, image.shape[1])
    height_px = max(1, round(image.shape[0] * width_px / image.shape[1]))
    small = cv2.resize(np.asarray(image), (width_px, height_px), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
