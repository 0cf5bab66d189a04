"""The audit as one self-contained HTML page: findings, figures, and the episodes themselves, worst first."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from armature.errors import DatasetError
from data_collection.audit import figures
from data_collection.audit.dataset_audit import DatasetAudit
from data_collection.audit.episode_audit import EpisodeAudit
from data_collection.audit.findings import KINDS
from data_collection.store import Dataset, Episode
from data_collection.streams import ACTION_EXECUTED

TEMPLATE = Path(__file__).with_name("report_template.html")
SHOWN_MAX = 12
LISTED_MAX = 200
FRAMES = 8
FRAME_PX = 144
BINS = 40
UNKNOWN = "\N{EN DASH}"


def write_report(audit: DatasetAudit, dataset: Dataset, path: Path) -> None:
    """Write the page; raise DatasetError where the file cannot be written."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**_content(audit, dataset))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written: {error.strerror}") from error


def _content(audit: DatasetAudit, dataset: Dataset) -> dict[str, Any]:
    shown = shown_episodes(audit)
    findings = sorted(audit.findings, key=lambda f: f.severity)
    rates = _rates(audit)
    return {
        "a": audit,
        "cards": _cards(audit),
        "faulty": sum(any(f.severity == "fault" for f in e.findings) for e in audit.episodes),
        "kinds": _kinds(audit),
        "findings": findings[:LISTED_MAX],
        "findings_total": len(findings),
        "streams": _streams(audit),
        "rates_svg": figures.styled(lambda: figures.rates(rates)) if rates else "",
        "histograms_svg": _histograms(dataset, audit),
        "shown": [_shown(dataset, episode, audit) for episode in shown],
        "frames": FRAMES,
        "limits": asdict(audit.config),
    }


def shown_episodes(audit: DatasetAudit) -> list[EpisodeAudit]:
    """Choose the episodes to show: those with faults, then with notes, then the others; each in order of number."""

    def rank(episode: EpisodeAudit) -> tuple[int, int]:
        severities = {finding.severity for finding in episode.findings}
        return (0 if "fault" in severities else 1 if severities else 2, episode.index)

    return sorted(audit.episodes, key=rank)[:SHOWN_MAX]


def _cards(audit: DatasetAudit) -> list[tuple[str, str, str]]:
    outcomes = Counter(episode.outcome or "not given" for episode in audit.episodes)
    duration_s = sum(episode.duration_s for episode in audit.episodes)
    steps = sum(episode.steps for episode in audit.episodes)
    faults = len(audit.faults)
    cards = [
        ("Episodes", str(len(audit.episodes)), ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items()))),
        (
            "Recorded",
            f"{duration_s / 60:.1f} min" if duration_s >= 120 else f"{duration_s:.1f} s",
            f"{steps:,} commands",
        ),
        ("Faults", str(faults), "recordings that are not what happened"),
        ("Notes", str(len(audit.findings) - faults), "worth knowing"),
    ]
    if audit.coverage is not None:
        c = audit.coverage
        tq_detail = (
            c.tq_reason
            or f"returns: own {c.mean_return:.3g}, random {c.random_return:.3g}, reference {c.reference_return:.3g}"
        )
        saco_detail = (
            c.saco_reason or f"{c.unique_pairs:,} unique of {c.pairs:,} pairs, reference {c.reference_unique_pairs:,}"
        )
        cards.append(("Trajectory quality (TQ)", UNKNOWN if c.tq is None else f"{c.tq:.2f}", tq_detail))
        cards.append(("Coverage (SACo)", UNKNOWN if c.saco is None else f"{c.saco:.2f}", saco_detail))
    return cards


def _kinds(audit: DatasetAudit) -> list[dict[str, Any]]:
    counts = Counter(finding.kind for finding in audit.findings)
    episodes = {kind: {f.episode for f in audit.findings if f.kind == kind} for kind in counts}
    return [
        {
            "kind": kind,
            "severity": severity,
            "meaning": text,
            "count": counts[kind],
            "episodes": len(episodes.get(kind, ())),
        }
        for kind, (severity, text) in KINDS.items()
    ]


def _rates(audit: DatasetAudit) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for episode in audit.episodes:
        for name, stream in episode.streams.items():
            if stream.timing.rate_hz > 0:
                found.setdefault(name, []).append((episode.index, stream.timing.rate_hz))
    return found


def _streams(audit: DatasetAudit) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for episode in audit.episodes for name in episode.streams)
    return [_stream_row(audit, name) for name in names]


def _stream_row(audit: DatasetAudit, name: str) -> dict[str, Any]:
    found = [episode.streams[name] for episode in audit.episodes if name in episode.streams]
    timings = [stream.timing for stream in found if stream.timing.samples > 1]
    lag = audit.lags_s.get(name)
    return {
        "name": name,
        "samples": sum(stream.timing.samples for stream in found),
        "rate_hz": float(np.median([t.rate_hz for t in timings])) if timings else None,
        "jitter_ms": 1e3 * max((t.jitter_s for t in timings), default=0.0),
        "gap_ms": 1e3 * max((t.gap_s for t in timings), default=0.0),
        "repeated": sum(stream.repeated for stream in found),
        "dropped": sum(stream.dropped for stream in found),
        "lag": None if lag is None else {"ms": 1e3 * lag[0], "episodes": lag[1]},
        "is_camera": any(name in episode.lags for episode in audit.episodes),
    }


def _histograms(dataset: Dataset, audit: DatasetAudit) -> str:
    readable = {episode.index for episode in audit.episodes if episode.commands_hash}
    episodes = [episode for episode in dataset.episodes if episode.index in readable]
    if not episodes:
        return ""
    edges, counts = action_histograms(episodes, dataset.spec.action.dim)
    action = dataset.spec.action
    labels = action.labels if len(action.labels) == action.dim else [f"element {k}" for k in range(action.dim)]
    return figures.styled(lambda: figures.histograms(labels, edges, counts, action.low, action.high))


def action_histograms(episodes: list[Episode], dim: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Count the executed commands in equal bins: edges (dim, BINS + 1) and counts (dim, BINS), block by block."""
    low, high = np.full(dim, np.inf), np.full(dim, -np.inf)
    for episode in episodes:
        for _, _, data in episode.blocks(ACTION_EXECUTED):
            finite = np.where(np.isfinite(data), data, np.nan)
            low, high = np.fmin(low, np.fmin.reduce(finite)), np.fmax(high, np.fmax.reduce(finite))
    low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0)
    edges = np.linspace(low, np.where(high > low, high, low + 1e-6), BINS + 1, axis=1)
    counts = np.zeros((dim, BINS), np.int64)
    for episode in episodes:
        for _, _, data in episode.blocks(ACTION_EXECUTED):
            for k in range(dim):
                counts[k] += np.histogram(data[np.isfinite(data[:, k]), k], bins=edges[k])[0]
    return edges, counts


def _shown(dataset: Dataset, episode: EpisodeAudit, audit: DatasetAudit) -> dict[str, Any]:
    recorded = dataset.episode(episode.index)
    readable = [name for name, stream in episode.streams.items() if stream.timing.samples]
    content: dict[str, Any] = {
        "e": episode,
        "seed": recorded.metadata.get("seed"),
        "sheets": [],
        "timeline": "",
        "curves": "",
    }
    if ACTION_EXECUTED not in readable:
        return content
    stamps = {name: recorded.read_stamps(name)[0] for name in readable}
    begin_ns = int(stamps[ACTION_EXECUTED][0])
    vectors = [dataset.streams[name] for name in readable if not dataset.streams[name].is_image]
    content["timeline"] = figures.styled(lambda: figures.timeline(stamps, episode.findings, begin_ns, audit.config))
    content["curves"] = figures.styled(lambda: figures.curves(recorded, vectors, episode.findings, begin_ns))
    content["sheets"] = [_sheet(recorded, n, stamps[n], begin_ns) for n in readable if dataset.streams[n].is_image]
    return content


def _sheet(episode: Episode, camera: str, stamps_ns: NDArray[np.int64], begin_ns: int) -> dict[str, Any]:
    rows = np.unique(np.linspace(0, len(stamps_ns) - 1, FRAMES).round().astype(int))
    images = episode.read_rows(camera, rows)
    frames = [
        {"uri": figures.jpeg_uri(image, FRAME_PX), "at_s": (int(stamps_ns[row]) - begin_ns) / 1e9}
        for row, image in zip(rows, images, strict=True)
    ]
    return {"camera": camera, "frames": frames}
