"""`armature data import FORMAT SOURCE DATASET` and `armature data export FORMAT DATASET TARGET`."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from armature.errors import ConfigError, unknown
from data_collection.converters.importing import import_source

IMPORTERS = {
    "diffusion-policy": "diffusion_policy.importer",
    "robomimic": "robomimic.importer",
    "lerobot": "lerobot.importer",
    "rosbag2": "rosbag2.importer",
}
EXPORTERS = {
    "diffusion-policy": "diffusion_policy.exporter",
    "robomimic": "robomimic.exporter",
    "lerobot": "lerobot.exporter",
    "mcap": "rosbag2.exporter",
}
"""Format to module: an importer has `ImportConfig` and `open_source(config)`, an exporter `ExportConfig` and
`export(config, on_episode)`."""


def import_main(argv: list[str]) -> int:
    """Run `armature data import`."""
    module, rest = _module(argv, IMPORTERS, "import")
    config = tyro.cli(module.ImportConfig, args=rest, prog=f"armature data import {argv[0]}")
    source = module.open_source(config)
    with _progress() as progress:
        bar = progress.add_task("importing", total=len(source.episodes))
        dataset = import_source(source, config.dataset, lambda count: progress.update(bar, completed=count))
    Console().print(f"{dataset.path}: {len(dataset.episodes)} episodes")
    return 0


def export_main(argv: list[str]) -> int:
    """Run `armature data export`."""
    module, rest = _module(argv, EXPORTERS, "export")
    config = tyro.cli(module.ExportConfig, args=rest, prog=f"armature data export {argv[0]}")
    with _progress() as progress:
        bar = progress.add_task("exporting", total=None)
        module.export(config, lambda count, total: progress.update(bar, completed=count, total=total))
    Console().print(f"{config.target}: written")
    return 0


def _module(argv: list[str], formats: dict[str, str], verb: str) -> tuple[ModuleType, list[str]]:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: armature data {verb} {{{','.join(formats)}}} ...", file=sys.stdout if argv else sys.stderr)
        raise SystemExit(0 if argv else 2)
    if argv[0] not in formats:
        raise ConfigError(unknown("format", argv[0], formats))
    return importlib.import_module(f"data_collection.converters.{formats[argv[0]]}"), argv[1:]


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                    console=Console(stderr=True))  # fmt: skip
