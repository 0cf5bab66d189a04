"""`armature sampler CHECKPOINT OUT [options]`: the same weights, sampled otherwise, as a checkpoint of its own.

The options are the fields of its method, and have the values of CHECKPOINT; `armature sampler CHECKPOINT OUT --help`
lists them. Those that training depends on are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from armature.config import to_plain
from armature.errors import ConfigError
from policies.checkpoint import load_policy, read_document, save_checkpoint
from policies.chunk_policy import ChunkPolicy


def resampled(policy: ChunkPolicy, method: Any) -> ChunkPolicy:
    """Return a policy for inference with the weights of `policy` that samples as the config `method` says.

    Raises ConfigError where that config would have been trained otherwise.
    """
    valid = policy.method.sampling_fields
    for name in changes(policy.method_config, method):
        if name not in valid:
            fields = ", ".join(valid) or "none"
            raise ConfigError(f"{policy.family}: {name} is more than sampling, it was trained so. Valid: {fields}")
    other = ChunkPolicy(policy.family, policy.config, method, policy.spec, policy.normalizer)
    other.load_state_dict(policy.state_dict())
    return other.requires_grad_(False).eval()


def changes(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two configs of a method differ, by their dotted names, with both values."""
    old, new = (dict(_leaves(to_plain(config))) for config in (before, after))
    return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


def _leaves(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def write_resampled(checkpoint: Path, out: Path, policy: ChunkPolicy, method: Any) -> None:
    """Write what `resampled` makes of the `policy` of a checkpoint to the new folder `out`."""
    if out.exists():
        raise ConfigError(f"{out} exists: choose another folder for the checkpoint")
    told = changes(policy.method_config, method)
    if not told:
        raise ConfigError(f"{checkpoint}: nothing would change. Valid: {', '.join(policy.method.sampling_fields)}")
    provenance = read_document(checkpoint)["provenance"] | {"sampler": {"of": policy.policy_id, "changes": told}}
    save_checkpoint(out, resampled(policy, method), provenance)


def main(argv: list[str]) -> int:
    """Run `armature sampler`; print what differs."""
    if len(argv) < 2 or any(given.startswith("-") for given in argv[:2]):
        asked = bool({"-h", "--help"} & set(argv))
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    checkpoint, out, *options = argv
    policy = load_policy(checkpoint)
    before = policy.method_config
    told = f"{__doc__} What is left of {policy.family}: {', '.join(policy.method.sampling_fields) or 'none'}."
    prog = f"armature sampler {checkpoint} {out}"
    after = tyro.cli(type(before), prog=prog, description=told, args=options, default=before)
    write_resampled(Path(checkpoint), Path(out), policy, after)
    said = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changes(before, after).items())
    Console(stderr=True).print(f"{out}: {said}", highlight=False, soft_wrap=True)
    return 0
