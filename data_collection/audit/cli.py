"""`armature data audit DATASET` and `armature data plot DATASET --episode N`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import matplotlib
import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from armature.errors import ConfigError, DatasetError, unknown
from data_collection.audit import figures
from data_collection.audit.config import AuditConfig
from data_collection.audit.coverage import CoverageConfig, measure
from data_collection.audit.dataset_audit import DatasetAudit, audit_dataset
from data_collection.audit.episode_audit import audit_episode
from data_collection.audit.findings import Finding
from data_collection.audit.report import write_report
from data_collection.store import Dataset, open_dataset
from data_collection.streams import ACTION_EXECUTED

PRINTED_MAX = 60
STDOUT = "-"


@dataclass(frozen=True)
class AuditCommand:
    """Look for what is wrong with a dataset. Exit code 1 when there are faults, 0 otherwise."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Folder or URL of the dataset."""
    html: Path | None = None
    """Write a self-contained report here."""
    json: str | None = None
    """Write everything as JSON here; - is standard output."""
    random: str | None = None
    """Dataset of a random policy, for TQ."""
    reference: str | None = None
    """Dataset of the best policy or person known, for TQ and SACo."""
    strict: bool = False
    """Exit with 1 when there are only notes, too."""
    limits: AuditConfig = field(default_factory=AuditConfig)
    """What counts as a finding."""
    coverage: CoverageConfig = field(default_factory=CoverageConfig)
    """How TQ and SACo are computed."""


@dataclass(frozen=True)
class PlotCommand:
    """Plot the streams of one episode with their stamps and what the audit finds."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Folder or URL of the dataset."""
    episode: int
    """Number of the episode."""
    out: Path
    """Image to write; .png, .svg and .pdf are known."""
    streams: tuple[str, ...] = ()
    """Which streams; unset: all that have samples. Of a camera the motion of the picture is drawn."""
    limits: AuditConfig = field(default_factory=AuditConfig)
    """What counts as a finding."""


def audit_main(argv: list[str]) -> int:
    """Run `armature data audit`."""
    command = tyro.cli(AuditCommand, args=argv, prog="armature data audit")
    dataset = open_dataset(command.dataset)
    others = [None if path is None else open_dataset(path) for path in (command.random, command.reference)]
    with _progress() as progress:
        bar = progress.add_task("auditing", total=None)
        audit = audit_dataset(dataset, command.limits, lambda n, total: progress.update(bar, completed=n, total=total))
    _measure_coverage(audit, dataset, others, command.coverage)
    if command.json != STDOUT:
        _print_audit(audit)
    if command.json is not None:
        _write_json(audit, command.json)
    if command.html is not None:
        write_report(audit, dataset, command.html)
        Console(stderr=True).print(f"report: {command.html}", highlight=False)
    return 1 if audit.faults or (command.strict and audit.findings) else 0


def plot_main(argv: list[str]) -> int:
    """Run `armature data plot`."""
    command = tyro.cli(PlotCommand, args=argv, prog="armature data plot")
    if command.out.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"out is {command.out}, must end in .png, .svg or .pdf")
    dataset = open_dataset(command.dataset)
    episode = dataset.episode(command.episode)
    streams = command.streams or tuple(name for name in dataset.streams if episode.length(name))
    for name in streams:
        if name not in dataset.streams:
            raise ConfigError(unknown("stream", name, dataset.streams))
    if not streams or not episode.length(ACTION_EXECUTED):
        raise DatasetError(f"{dataset.path}: episode {episode.index} has no {ACTION_EXECUTED} and cannot be plotted")
    findings = audit_episode(dataset, episode, command.limits).findings
    begin_ns = int(episode.read_stamps(ACTION_EXECUTED)[0][0])
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.curves(episode, [dataset.streams[name] for name in streams], findings, begin_ns)
        figure.suptitle(f"{dataset.task}: episode {episode.index}, {episode.outcome or 'no outcome'}", fontsize=11)
        try:
            figure.savefig(command.out, dpi=120)
        except OSError as error:
            raise DatasetError(f"{command.out}: cannot be written: {error.strerror}") from error
    for finding in findings:
        print(_line(finding))
    return 0


def _measure_coverage(
    audit: DatasetAudit, dataset: Dataset, others: list[Dataset | None], config: CoverageConfig
) -> None:
    if not any(others):
        return
    try:
        audit.coverage = measure(dataset, others[0], others[1], config)
    except DatasetError as error:
        # What lies damaged is already among the findings, or is in a dataset to compare with.
        audit.problems.append(Finding(None, "", "damaged", None, 1, 0, f"TQ and SACo cannot be computed: {error}"))


def _print_audit(audit: DatasetAudit) -> None:
    console = Console(highlight=False)
    console.print(_summary_table(audit))
    findings = sorted(audit.findings, key=lambda f: f.severity)
    for finding in findings[:PRINTED_MAX]:
        colour = "red" if finding.severity == "fault" else "yellow"
        console.print(f"[{colour}]{finding.severity}[/] {escape(_line(finding))}", soft_wrap=True)
    if len(findings) > PRINTED_MAX:
        console.print(f"... and {len(findings) - PRINTED_MAX} more: --json or --html has all of them")


def _line(finding: Finding) -> str:
    return f"{finding.kind}: {finding.where}: {finding.message}"


def _summary_table(audit: DatasetAudit) -> Table:
    counts = Counter(finding.kind for finding in audit.findings)
    faulty = sum(any(f.severity == "fault" for f in episode.findings) for episode in audit.episodes)
    rows = {
        "episodes": f"{len(audit.episodes)}, {faulty} with faults",
        "faults": str(len(audit.faults)),
        "notes": str(len(audit.findings) - len(audit.faults)),
        "kinds": ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "none",
    }
    for camera, (lag_s, episodes) in audit.lags_s.items():
        rows[f"lag of {camera}"] = f"{1e3 * lag_s:+.0f} ms behind the joints, median of {episodes} episodes"
    if audit.coverage is not None:
        c = audit.coverage
        rows["TQ"] = c.tq_reason if c.tq is None else f"{c.tq:.3f}"
        rows["SACo"] = c.saco_reason if c.saco is None else f"{c.saco:.3f} ({c.unique_pairs} unique of {c.pairs} pairs)"
    table = Table(title=escape(audit.path), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _write_json(audit: DatasetAudit, target: str) -> None:
    text = json.dumps(audit.to_json(), indent=1, allow_nan=False)
    if target == STDOUT:
        sys.stdout.write(text + "\n")
        return
    try:
        Path(target).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{target}: cannot be written: {error.strerror}") from error


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                    console=Console(stderr=True), transient=True)  # fmt: skip
