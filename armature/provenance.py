"""Where a result comes from: the commit, the versions and the machine that made it."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path


def git_commit() -> str:
    """Return the commit of this source, with `-dirty` when files differ from it; "unknown" outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of `packages`."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def processor() -> str:
    """Return the processor's model, or at least its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
