"""The summary of a run: what `summary.json` holds, and the same on the terminal."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from armature.provenance import processor, versions
from armature_ros.measurements import Measurements
from data_collection.store import Dataset
from data_collection.streams import ACTION_EXECUTED, ACTION_REQUESTED
from sim.intervals import wilson_interval

PACKAGES = ("numpy", "torch", "diffusers", "ros-rclpy", "mujoco", "robosuite", "zarr", "opencv-python", "av")
LOCKSTEP_NOTE = (
    "The graph ran in lockstep: the simulator waits for every command, so a tick takes as long as this machine needs "
    "for physics, rendering and policy. Camera to command is the time from the publication of frames that the policy "
    "answers to the arrival of the first command computed from them."
)


def build_summary(
    measurements: Measurements, dataset: Dataset, phases_s: Mapping[str, float], peak_bytes: int, **about: Any
) -> dict[str, Any]:
    """Put a run's figures together; `about` holds title, description and provenance."""
    successes, episodes = measurements.successes, len(measurements.episodes)
    return {
        **about,
        "success": {
            "successes": successes,
            "episodes": episodes,
            "rate": successes / episodes,
            "interval_95": list(wilson_interval(successes, episodes)),
        },
        "latency_ms": {
            "chunk": _distribution(measurements.chunk_latency_s, "p50", "p99"),
            "camera_to_command": _distribution(measurements.command_latency_s, "p50", "p99"),
        },
        "control_tick_ms": _distribution(measurements.tick_period_s, "mean", "std", "p50", "p99"),
        "timing_note": LOCKSTEP_NOTE,
        "robot_rate_hz": dataset.spec.action.rate_hz,
        "gate": _gate_counts(dataset),
        "streams": {name: asdict(totals) for name, totals in measurements.streams.items()},
        "phases_s": {name: round(seconds, 2) for name, seconds in phases_s.items()},
        "peak_memory_gb": round(peak_bytes / 1e9, 3),
        "seeds": [episode["seed"] for episode in measurements.episodes],
        "episodes": measurements.episodes,
        "machine": {"cores": os.cpu_count(), "processor": processor(), "system": platform.platform()},
        "versions": versions(PACKAGES),
    }


def _gate_counts(dataset: Dataset) -> dict[str, int]:
    """Compare what was asked for with what was sent: held is a command without a request, limited one that differs."""
    held = limited = commands = 0
    for episode in filter(lambda e: e.is_complete, dataset.episodes):
        requested, executed = episode.read(ACTION_REQUESTED)[2], episode.read(ACTION_EXECUTED)[2]
        absent = np.isnan(requested).any(axis=1)
        held += int(absent.sum())
        limited += int((~absent & (requested != executed).any(axis=1)).sum())
        commands += len(executed)
    return {"commands": commands, "held": held, "limited": limited}


def _distribution(values_s: Sequence[float], *wanted: str) -> dict[str, float | int | None]:
    """Return the wanted figures [ms] and the count; None for each when nothing was measured."""
    values = 1e3 * np.asarray(values_s)
    measures = {"mean": np.mean, "std": np.std, "p50": np.median, "p99": lambda v: np.percentile(v, 99)}
    figures = {name: round(float(measures[name](values)), 3) if len(values) else None for name in wanted}
    return {**figures, "count": len(values)}


def key_figures(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Word the figures that matter most as (name, value, detail); the terminal and the report show the same."""
    success, streams = summary["success"], summary["streams"].values()
    low, high = success["interval_95"]
    dropped, recorded = (sum(stream[key] for stream in streams) for key in ("dropped", "recorded"))
    chunk, command = summary["latency_ms"]["chunk"], summary["latency_ms"]["camera_to_command"]
    tick, gate = summary["control_tick_ms"], summary["gate"]
    return [
        (
            "Success",
            f"{success['successes']}/{success['episodes']}",
            f"95 % interval {100 * low:.0f}-{100 * high:.0f} %",
        ),
        ("Chunk latency", _ms(chunk["p50"]), f"p99 {_ms(chunk['p99'])}"),
        ("Camera to command", _ms(command["p50"]), f"p99 {_ms(command['p99'])}"),
        ("Control tick", _ms(tick["mean"]), f"std {_ms(tick['std'])}, p99 {_ms(tick['p99'])}"),
        ("Safety gate", f"{gate['limited'] + gate['held']:,}", f"of {gate['commands']:,} commands limited or held"),
        ("Samples dropped", f"{dropped:,}", f"of {dropped + recorded:,} in {len(streams)} streams"),
        ("Peak memory", f"{summary['peak_memory_gb']:.2f} GB", "all processes together"),
        ("Time", duration_text(sum(summary["phases_s"].values())), f"in {len(summary['phases_s'])} phases"),
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def duration_text(seconds: float) -> str:
    """Word a duration: "0.4 s", "93 s", "4 min 07 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """Print what summary.json holds: key figures, counts per stream, seconds per phase."""
    figures = Table(show_header=False, box=None, padding=(0, 3, 0, 0))
    for name, value, detail in key_figures(summary):
        figures.add_row(name, f"[bold]{value}[/]", f"[dim]{detail}[/]")
    streams = _right_aligned("stream", "published", "received", "recorded", "dropped")
    for name, counts in summary["streams"].items():
        streams.add_row(name, *("-" if value is None else f"{value:,}" for value in counts.values()))
    phases = _right_aligned("phase", "time")
    for name, seconds in summary["phases_s"].items():
        phases.add_row(name, duration_text(seconds))
    for table in (figures, streams, phases):
        console.print()
        console.print(table)


def _right_aligned(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
