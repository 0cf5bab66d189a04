"""The pictures of a report: plots as inline SVG and camera frames as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from armature.spec import RobotSpec
from data_collection.plot_style import BLUE, INK, ORANGE, STYLE, svg_text
from data_collection.store import Episode

EXECUTED, REQUESTED = "action/executed", "action/requested"


def curves_svg(episode: Episode, spec: RobotSpec) -> str:
    """Plot every action element of one episode: measured, requested and sent, over the episode's time [s]."""
    labels = _element_labels(spec)
    rows = -(-len(labels) // 4)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 0.45 + 1.75 * rows), layout="constrained")
        axes = figure.subplots(rows, min(4, len(labels)), squeeze=False, sharex=True).ravel()
        for k, label in enumerate(labels):
            _plot_element(axes[k], episode, spec, k)
            axes[k].set_title(label)
        for ax in axes[len(labels) :]:
            ax.set_axis_off()
        for ax in axes[max(0, len(labels) - 4) : len(labels)]:
            ax.set_xlabel("time [s]")
        handles = {h.get_label(): h for ax in axes for h in ax.get_lines()}
        figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=3)
        return svg_text(figure)


def _plot_element(ax: Axes, episode: Episode, spec: RobotSpec, k: int) -> None:
    begin_ns = episode.read(EXECUTED)[0][0]
    measured = _measured_element(spec, k)
    lines = [(EXECUTED, k, "sent", ORANGE, "-", 1.4), (REQUESTED, k, "requested", INK, ":", 1.1)]
    if measured is not None:
        lines.insert(0, (*measured, "measured", BLUE, "-", 1.8))
    for stream, column, label, colour, style, width in lines:
        stamps_ns, _, data = episode.read(stream)
        time_s = (np.asarray(stamps_ns) - begin_ns) / 1e9
        ax.plot(time_s, data[:, column], style, label=label, color=colour, linewidth=width)


def _element_labels(spec: RobotSpec) -> list[str]:
    units = [array.unit.split(",")[0] for array in spec.action.arrays for _ in range(array.size)]
    return [f"{label} [{unit}]" for label, unit in zip(spec.action.labels, units, strict=True)]


def _measured_element(spec: RobotSpec, k: int) -> tuple[str, int] | None:
    """Find where action element `k` is measured: the observation of the same name, where the robot has one."""
    for array in spec.action.arrays:
        part = spec.action.slice_of(array.name)
        if part.start <= k < part.stop and array.name in spec.observation.names:
            return array.name, k - part.start
    return None


def histogram_svg(values_ms: Sequence[float], label: str) -> str:
    """Plot a distribution [ms] with its median and 99th percentile marked; the axis ends shortly after the latter."""
    values = np.asarray(values_ms)
    p50, p99 = np.percentile(values, (50, 99))
    end_ms = max(1.25 * p99, 1e-3)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.0, 2.3), layout="constrained")
        ax = figure.subplots()
        ax.hist(np.clip(values, 0, end_ms), bins=48, range=(0, end_ms), color=BLUE, alpha=0.85)
        for position, name in ((p50, "p50"), (p99, "p99")):
            ax.axvline(position, color=ORANGE, linewidth=1.3)
            text = f" {name} {position:.3g} ms"
            ax.text(position, 0.97, text, transform=ax.get_xaxis_transform(), color=INK, va="top", fontsize=8.5)
        ax.set_xlim(0, end_ms)
        ax.set_xlabel(label)
        ax.set_ylabel("count")
        return svg_text(figure)


def jpeg_uri(image: NDArray[Any], side_px: int = 256) -> str:
    """Encode an RGB image (H, W, 3) as a JPEG data URI, at most `side_px` wide."""
    width_px = min(side_px, image.shape[1])
    height_px = round(image.shape[0] * width_px / image.shape[1])
    small = cv2.resize(np.asarray(image), (width_px, height_px), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
