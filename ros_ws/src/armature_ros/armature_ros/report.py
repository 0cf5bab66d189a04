"""The report of a run: one self-contained HTML page made from what the run folder holds.

Reads `summary.json`, `measurements.json` and the dataset; the film is linked, everything else is inlined.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from armature_ros.report_figures import curves_svg, histogram_svg, jpeg_uri
from armature_ros.summary import duration_text, key_figures
from data_collection.store import Dataset, Episode, open_dataset

TEMPLATE = Path(__file__).with_name("report_template.html")
HISTOGRAMS = (
    ("chunk_latency_s", "Observation complete → chunk", "policy: inference of one chunk [ms]"),
    ("command_latency_s", "Camera → command", "camera published → command received [ms]"),
    ("tick_period_s", "Control tick", "wall time between two control ticks [ms]"),
)


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder and return its path."""
    summary = json.loads((run / "summary.json").read_text())
    measurements = json.loads((run / "measurements.json").read_text())
    dataset = open_dataset(run / "dataset")
    page = _template().render(
        s=summary,
        figures=key_figures(summary),
        histograms=_histograms(measurements),
        curves=_curves(dataset),
        sheet=_contact_sheet(dataset),
        film="episodes.mp4" if (run / "episodes.mp4").exists() else None,
        phases=_phases(summary["phases_s"]),
    )
    path = run / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _histograms(measurements: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"title": title, "svg": histogram_svg([1e3 * v for v in measurements[key]], label)}
        for key, title, label in HISTOGRAMS
        if measurements[key]
    ]


def _curves(dataset: Dataset) -> dict[str, Any] | None:
    """Plot the first successful episode, or the first one when none was."""
    numbered = _numbered(dataset)
    if not numbered:
        return None
    number, episode = next(((n, e) for n, e in numbered if e.metadata["success"]), numbered[0])
    return {"number": number, "seed": episode.metadata["seed"], "svg": curves_svg(episode, dataset.spec)}


def _contact_sheet(dataset: Dataset) -> list[dict[str, Any]]:
    cameras = [array.name for array in dataset.spec.observation.images]
    return [_contact(n, episode, cameras) for n, episode in _numbered(dataset)] if cameras else []


def _numbered(dataset: Dataset) -> list[tuple[int, Episode]]:
    return list(enumerate((episode for episode in dataset.episodes if episode.is_complete), start=1))


def _contact(number: int, episode: Episode, cameras: Sequence[str]) -> dict[str, Any]:
    stamps_ns, _, frames = episode.read(cameras[0])
    return {
        "number": number,
        "seed": episode.metadata["seed"],
        "success": bool(episode.metadata["success"]),
        "duration_s": (stamps_ns[-1] - stamps_ns[0]) / 1e9,
        "first": jpeg_uri(frames[0]),
        "last": jpeg_uri(frames[-1]),
    }


def _phases(phases_s: dict[str, float]) -> list[dict[str, Any]]:
    total_s = sum(phases_s.values()) or 1.0
    return [
        {"name": name, "text": duration_text(seconds), "percent": 100 * seconds / total_s}
        for name, seconds in phases_s.items()
    ]
