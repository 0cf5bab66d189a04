"""`armature sampler CHECKPOINT OUT [options]`: the same weights, sampled otherwise, as a checkpoint of its own.

The options are the fields of its method, and have the values of CHECKPOINT; `armature sampler CHECKPOINT OUT --help`
lists them. Those that training depends on are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from armature.config import to_plain
from armature.errors import ConfigError
from policies.checkpoint import load_policy, read_checkpoint, save_checkpoint
from policies.chunk_policy import ChunkPolicy
from policies.registry import METHODS, method_class


def resampled(policy: ChunkPolicy, method: Any) -> ChunkPolicy:
    """Return a policy for inference with the weights of `policy` that samples as the config `method` says.

    It has no engine, and prompt and goal have to be told again. Raises ConfigError where that config would have been
    trained otherwise.
    """
    valid = policy.method.sampling_fields
    for name in changes(policy.method_config, method):
        if name not in valid:
            raise ConfigError(f"{policy.family}: {name} is more than sampling, it was trained so. {_valid(policy)}")
    other = ChunkPolicy(policy.family, policy.config, method, policy.spec, policy.normalizer)
    other.load_state_dict(policy.state_dict())
    other.policy_id = f"{policy.policy_id}-resampled"
    return other.requires_grad_(False).eval().to(policy.device)


def changes(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two configs of a method differ, by their dotted names, with both values."""
    old, new = (dict(leaves(to_plain(config))) for config in (before, after))
    return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


def leaves(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a plain config by their dotted names."""
    for name, value in plain.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def write_resampled(checkpoint: Path, out: Path, policy: ChunkPolicy, method: Any) -> dict[str, tuple[Any, Any]]:
    """Write what `resampled` makes of the `policy` of a checkpoint to the new folder `out`; return what changed."""
    if out.exists():
        raise ConfigError(f"{out} exists: choose another folder for the checkpoint")
    document, weights = read_checkpoint(checkpoint)
    told = changes(policy.method_config, method)
    if not told:
        raise ConfigError(f"{checkpoint}: nothing would change. {_valid(policy)}")
    halved = any(tensor.dtype == torch.float16 for tensor in weights.values())
    provenance = _provenance(document["provenance"], policy.policy_id, told)
    save_checkpoint(out, resampled(policy, method), provenance, "float16" if halved else "float32")
    return told


def _provenance(before: Mapping[str, Any], policy_id: str, told: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Add what differs from the sampler of the training; a copy of a copy is one of what was trained, too."""
    provenance = dict(before)
    earlier = provenance.pop("sampler", {"of": policy_id, "changes": {}})
    differs = dict(earlier["changes"])
    for name, (old, new) in told.items():
        trained = differs.pop(name, (old, new))[0]
        if new != trained:
            differs[name] = (trained, new)
    return provenance | {"sampler": {"of": earlier["of"], "changes": differs}} if differs else provenance


def _valid(policy: ChunkPolicy) -> str:
    return f"Valid: {', '.join(policy.method.sampling_fields) or 'none'}"


def main(argv: list[str]) -> int:
    """Run `armature sampler`; print what differs."""
    if argv in (["-h"], ["--help"]):
        fields = {family: ", ".join(method_class(family).sampling_fields) for family in METHODS}
        print(
            __doc__,
            "What can be changed, by family:",
            *(f"  {family}: {names or 'none'}" for family, names in fields.items()),
            sep="\n",
        )
        return 0
    if len(argv) < 2 or any(given.startswith("-") for given in argv[:2]):
        given = " ".join(argv) or "nothing"
        raise ConfigError(f"armature sampler needs CHECKPOINT and OUT first, then options; got {given}")
    (checkpoint, out), options = map(Path, argv[:2]), argv[2:]
    policy = load_policy(checkpoint)
    described = f"{__doc__} {policy.family} can change these. {_valid(policy)}."
    prog = f"armature sampler {checkpoint} {out}"
    before = policy.method_config
    after = tyro.cli(type(before), prog=prog, description=described, args=options, default=before)
    told = write_resampled(checkpoint, out, policy, after)
    said = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in told.items())
    Console(stderr=True).print(f"{out}: {said}", highlight=False, soft_wrap=True)
    return 0
