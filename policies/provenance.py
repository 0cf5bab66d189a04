"""Where a checkpoint comes from: what is needed to make it again."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata as packages
from pathlib import Path
from typing import Any


def provenance(dataset_fingerprint: str, command: str) -> dict[str, Any]:
    """Return dataset, commit of this source, command and versions as JSON data."""
    names = ("torch", "diffusers", "safetensors", "numpy")
    versions = {"python": platform.python_version()} | {name: packages.version(name) for name in names}
    return {
        "dataset_fingerprint": dataset_fingerprint,
        "git_commit": _git_commit(),
        "command": command,
        "versions": versions,
    }


def _git_commit() -> str:
    """Return the commit of this source, marked where files differ from it; "unknown" outside a git checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return result.stdout.strip()
