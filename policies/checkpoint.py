"""Checkpoints of policies: `save_checkpoint` writes one, `load_policy` is the only door back.

A checkpoint is a folder: weights.safetensors, and policy.json with everything else that the policy is made of (family,
config, spec, normaliser) and where it comes from (dataset fingerprint, git commit, command, versions, training).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from armature.config import from_plain, to_plain
from armature.errors import CheckpointError, ConfigError, SpecMismatch
from armature.normalizer import Normalizer
from armature.spec import RobotSpec
from policies.chunk_policy import ACTION, ChunkPolicy
from policies.device import require_device
from policies.policy_config import PolicyConfig
from policies.registry import method_class
from policies.signed_folder import SHA256, digest
from policies.tensor_folder import TensorFolder

WEIGHTS, DOCUMENT = "weights.safetensors", "policy.json"
_PARTS = ("family", "policy", "method", "spec", "normalizer", "parameters", "provenance")
_FOLDER = TensorFolder(WEIGHTS, DOCUMENT, "armature-policy", 2, _PARTS)

SaveDtype = Literal["float32", "float16"]


def save_checkpoint(
    path: Path | str, policy: ChunkPolicy, provenance: Mapping[str, Any], save_dtype: SaveDtype = "float32"
) -> Path:
    """Write a policy of a registered family; half precision halves the file and is float32 again once loaded."""
    weights = {name: tensor.detach().to(getattr(torch, save_dtype)) for name, tensor in policy.state_dict().items()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: not saved: {name} is not finite as {save_dtype}")
    document = {
        **describe(policy),
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "provenance": dict(provenance),
    }
    _FOLDER.write(Path(path), weights, document)
    return Path(path)


def load_policy(path: Path | str, device: str = "cpu", prompt: str | None = None, engine: str = "eager") -> ChunkPolicy:
    """Build the policy of a checkpoint, ready for inference; one that is told what to do is told `prompt`.

    `engine` is one of `policies.engine`. Raises CheckpointError when the folder is absent, damaged, of an unknown
    family or does not fit the code, and MissingStatistics when its normaliser lacks a field that the policy needs.
    Folders of pretrained encoders must be those it was trained with. Raises ConfigError for a prompt that the policy
    does not take, and for a device that is not there. What an engine may raise says `policies.engine.make_engine`.
    """
    path = Path(path)
    require_device(device)
    if engine != "eager":
        # Tracing and compiling need much that eager policies do without.
        from policies.engine import make_engine, require_known

        require_known(engine)
    document, weights = _FOLDER.read(path)
    policy = build_policy(path / DOCUMENT, document)
    _load_weights(path / WEIGHTS, policy, weights)
    policy.policy_id = _identity(policy, document)
    if prompt is not None:
        policy.set_prompt(prompt)
    policy.requires_grad_(False).eval().to(device)
    if engine != "eager":
        policy.engine = make_engine(engine, policy, path, document[SHA256])
    return policy


def read_checkpoint(path: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what policy.json says and the weights, after the same checks as `load_policy`."""
    return _FOLDER.read(Path(path))


def read_document(path: Path | str) -> dict[str, Any]:
    """Return what policy.json says, after the same checks as `load_policy`: provenance for reports."""
    return read_checkpoint(path)[0]


def require_prompted(path: Path, prompt: str) -> str:
    """Return the family of a checkpoint; raise ConfigError where it takes no prompt and has one, or lacks one."""
    document = read_document(path)
    takes = from_plain(PolicyConfig, document["policy"]).takes_prompt
    if prompt and not takes:
        raise ConfigError(f"prompt '{prompt}': {path} takes none")
    if takes and not prompt:
        raise ConfigError(f"{path} takes a prompt and has none: say --prompt, what it is to do")
    return document["family"]


def describe(policy: ChunkPolicy) -> dict[str, Any]:
    """Return all that a policy is made of but its weights, as JSON data; inverse of `build_policy`."""
    return {
        "family": policy.family,
        "policy": to_plain(policy.config),
        "method": to_plain(policy.method_config),
        "spec": policy.spec.to_json(),
        "normalizer": policy.normalizer.to_json(),
    }


def build_policy(file: Path, document: Mapping[str, Any]) -> ChunkPolicy:
    """Make the policy that `file` describes, with weights of its own; raise CheckpointError where it cannot be."""
    try:
        family = document["family"]
        config = from_plain(PolicyConfig, document["policy"])
        method = from_plain(method_class(family).Config, document["method"])
        spec = RobotSpec.from_json(document["spec"])
        normalizer = Normalizer.from_json(document["normalizer"])
        _require_statistics(config.seen(spec), normalizer)
        return ChunkPolicy(family, config, method, spec, normalizer)
    except (ConfigError, SpecMismatch) as error:
        raise CheckpointError(f"{file}: {error}") from error


def _identity(policy: ChunkPolicy, document: Mapping[str, Any]) -> str:
    """Return a name by the weights, and by the sampler too where that is not the one they were trained for."""
    by_weights = f"{policy.family}-{document[SHA256][WEIGHTS][:12]}"
    if "sampler" not in document["provenance"]:
        return by_weights
    return f"{by_weights}-{digest(document['method'])[:6]}"


def _require_statistics(seen: RobotSpec, normalizer: Normalizer) -> None:
    """Raise MissingStatistics, or SpecMismatch where they are those of another robot."""
    sizes = {**{array.name: array.size for array in seen.observation.vectors}, ACTION: seen.action.dim}
    for name, size in sizes.items():
        if (found := len(normalizer.affine(name).scale)) != size:
            raise SpecMismatch(f"normaliser statistics of {name} are of {found} elements, {seen.name} has {size}")


def _load_weights(file: Path, policy: nn.Module, weights: Mapping[str, Tensor]) -> None:
    expected = policy.state_dict()
    differing = [
        *(f"lacks {name}" for name in sorted(expected.keys() - weights.keys())),
        *(f"has an unknown {name}" for name in sorted(weights.keys() - expected.keys())),
        *(
            f"{name} is {tuple(weights[name].shape)}, expected {tuple(expected[name].shape)}"
            for name in sorted(expected.keys() & weights.keys())
            if weights[name].shape != expected[name].shape
        ),
    ]
    if differing:
        shown = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise CheckpointError(f"{file}: does not fit its config: {shown}")
    policy.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
