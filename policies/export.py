"""`armature export`: write the engine of a checkpoint beside its weights.

`--engine openvino` and `--engine auto` of `armature eval`, and the parameter `engine` of policy_node, then run it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from armature.errors import CheckpointError, ConfigError, InvalidValue
from armature.provenance import versions
from policies import openvino_runtime
from policies.checkpoint import load_policy, read_document
from policies.chunk_policy import ChunkPolicy
from policies.engine import make_engine
from policies.engine_file import write_engine
from policies.sampling_graph import trace_sampling
from policies.signed_folder import SHA256


@dataclass(frozen=True)
class ExportConfig:
    """What to export."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of the checkpoint."""
    threads: int | None = None
    """CPU threads; None leaves torch's own choice. The engine runs with those of the process that loads it."""


def export_engine(path: Path | str) -> Path:
    """Write the engine of the checkpoint at `path`, check it against eager, and return its folder.

    Raises CheckpointError on a bad checkpoint or an engine that is not exact enough, InvalidValue on one whose answers
    are not finite (neither is kept), and ConfigError when the policy cannot be one graph.
    """
    openvino_runtime.require_installed()
    path = Path(path)
    policy, sums = load_policy(path), read_document(path)[SHA256]
    graph = trace_sampling(policy)
    model = openvino_runtime.convert(graph)
    folder = write_engine(path, sums, graph.signature, model, versions(("openvino", "torch")))
    try:
        make_engine("openvino", policy, path, sums)
    except (CheckpointError, InvalidValue):
        shutil.rmtree(folder)
        raise
    return folder


def require_exportable(policy: ChunkPolicy) -> None:
    """Raise ConfigError when OpenVINO is not there, or the sampling of `policy` cannot be one graph."""
    openvino_runtime.require_installed()
    trace_sampling(policy)


def main(argv: list[str]) -> int:
    """Run `armature export` with its arguments; print where the engine lies."""
    config = tyro.cli(ExportConfig, prog="armature export", description=__doc__, args=argv)
    if config.threads is not None:
        if config.threads < 1:
            raise ConfigError(f"threads is {config.threads}, must be at least 1")
        torch.set_num_threads(config.threads)
    console = Console(stderr=True)
    with console.status(f"exporting {config.checkpoint}"):
        folder = export_engine(config.checkpoint)
    console.print(f"engine: {folder}", highlight=False, soft_wrap=True)
    return 0
