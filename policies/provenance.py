"""Where a checkpoint comes from: what is needed to make it again."""

from __future__ import annotations

from typing import Any

from armature.provenance import git_commit, versions


def provenance(dataset_fingerprint: str, command: str) -> dict[str, Any]:
    """Return dataset, commit of this source, command and versions as JSON data."""
    return {
        "dataset_fingerprint": dataset_fingerprint,
        "git_commit": git_commit(),
        "command": command,
        "versions": versions(("torch", "diffusers", "safetensors", "numpy")),
    }
