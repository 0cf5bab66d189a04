"""`armature data <command>`: look into datasets."""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from armature.errors import ConfigError, unknown
from data_collection.files import LocalFiles
from data_collection.store import FORMAT_VERSION, Dataset, Episode, open_dataset


@dataclass(frozen=True)
class InfoConfig:
    """Print what a dataset holds."""

    path: Annotated[str, tyro.conf.Positional]
    """The dataset's folder, or a URL that fsspec knows (s3://...)."""


COMMANDS = {
    "info": "data_collection.cli:info",
    "import": "data_collection.converters.cli:import_main",
    "export": "data_collection.converters.cli:export_main",
    "audit": "data_collection.audit.cli:audit_main",
    "plot": "data_collection.audit.cli:plot_main",
    "repair": "data_collection.edit_cli:repair_main",
    "relabel": "data_collection.edit_cli:relabel_main",
    "drop": "data_collection.edit_cli:drop_main",
    "merge": "data_collection.edit_cli:merge_main",
    "split": "data_collection.edit_cli:split_main",
    "migrate": "data_collection.edit_cli:migrate_main",
}
"""Command to `module:function`, imported only when it is called."""


def main(argv: list[str]) -> int:
    """Run `armature data`; raise ArmatureError on a mistake, which the front door prints as one line."""
    command = argv[0] if argv else ""
    if command in ("-h", "--help"):
        print(f"usage: armature data {{{','.join(COMMANDS)}}} ...")
        return 0
    if command not in COMMANDS:
        raise ConfigError(unknown("data command", command, COMMANDS))
    module, function = COMMANDS[command].split(":")
    return getattr(importlib.import_module(module), function)(argv[1:])


def info(argv: list[str]) -> int:
    """Run `armature data info PATH`."""
    config = tyro.cli(InfoConfig, args=argv, prog="armature data info")
    dataset = open_dataset(config.path)
    console = Console()
    console.print(dataset_table(dataset))
    console.print(stream_table(dataset))
    for problem in dataset.problems:
        console.print(f"[red]{problem}[/]: run 'armature data repair'")
    return 1 if dataset.problems else 0


def dataset_table(dataset: Dataset) -> Table:
    """Tabulate the dataset as a whole."""
    episodes = dataset.episodes
    duration_s = sum(episode.duration_s for episode in episodes)
    outcomes = Counter(episode.outcome or "not given" for episode in episodes)
    rows = {
        "task": dataset.task,
        "robot": f"{dataset.spec.name}, {dataset.spec.action.kind} at {dataset.spec.action.rate_hz:g} Hz",
        "episodes": f"{len(episodes)}" + "".join(f", {count} {name}" for name, count in sorted(outcomes.items())),
        "steps": f"{sum(episode.steps for episode in episodes)} in {duration_s:.1f} s",
        "format": f"version {FORMAT_VERSION}" + "".join(f", {n} as {e}" for n, e in sorted(dataset.encodings.items())),
        "size": f"{_size_bytes(dataset.path) / 1e6:.1f} MB" if isinstance(dataset.files, LocalFiles) else "not counted",
        "spec": dataset.spec.fingerprint,
        "fingerprint": dataset.fingerprint,
    }
    table = Table(title=str(dataset.path), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def stream_table(dataset: Dataset) -> Table:
    """Tabulate the streams over all episodes: what a sample is, how many came, how fast, and what was lost."""
    episodes = dataset.episodes
    table = Table(title="streams", title_justify="left")
    for column in ("stream", "sample", "unit", "count", "rate [Hz]", "dropped"):
        table.add_column(column, no_wrap=column in ("stream", "sample"))
    for name, array in dataset.streams.items():
        sample = f"{array.dtype} {'x'.join(map(str, array.shape))}"
        samples = sum(episode.length(name) for episode in episodes)
        table.add_row(name, sample, array.unit, str(samples), _mean_rate(episodes, name), _dropped(episodes, name))
    return table


def _mean_rate(episodes: list[Episode], stream: str) -> str:
    rates = [episode.rate_hz(stream) for episode in episodes if episode.length(stream) > 1]
    return f"{sum(rates) / len(rates):.1f}" if rates else "-"


def _dropped(episodes: list[Episode], stream: str) -> str:
    """Add up the drops by reason; `not counted` where no recorder wrote the episode."""
    counts = [episode.metadata["counts"][stream] for episode in episodes if "counts" in episode.metadata]
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count["dropped"])
    if not counts:
        return "not counted"
    return ", ".join(f"{number} {reason}" for reason, number in sorted(total.items())) or "0"


def _size_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
