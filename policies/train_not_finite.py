"""What is left of a training whose loss or gradient is no number any more: one folder, and a way to run it again.

out/not_finite/tensors.safetensors   the whole batch of the step and the weights it met
out/not_finite/report.json           step, seed, config, norm of every parameter

`python -m policies.train_not_finite out/not_finite` computes the step again and names the first module whose output is
not finite, and the weights without a finite gradient.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from armature.errors import ArmatureError
from policies.checkpoint import build_policy, describe
from policies.chunk_policy import ChunkPolicy
from policies.tensor_folder import TensorFolder
from policies.training_state import NotFinite, TrainingState, seed_draws

FOLDER = "not_finite"
_KEYS = ("family", "policy", "method", "spec", "normalizer", "what", "value", "step", "seed", "parts", "precision")
_FOLDER = TensorFolder(
    "tensors.safetensors",
    "report.json",
    "armature-not-finite",
    2,
    (*_KEYS, "prompts", "parameter_norms", "config"),
    is_finite=False,
)


def write_not_finite(
    path: Path, error: NotFinite, state: TrainingState, batch: Mapping[str, Tensor], config: Mapping[str, Any]
) -> None:
    """Write the folder of the step at which `error` was raised; `batch` is that of all processes."""
    norms = {name: _json_number(parameter.norm().item()) for name, parameter in state.policy.named_parameters()}
    document = {
        **describe(state.policy),
        **{"what": error.what, "value": _json_number(error.value), "step": error.step, "parts": state.workers.parts},
        **{"seed": config["seed"], "precision": config["precision"], "parameter_norms": norms, "config": dict(config)},
        "prompts": list(state.policy.prompts),
    }
    tensors = {f"policy.{name}": tensor for name, tensor in state.policy.state_dict().items()}
    _FOLDER.write(path, tensors | {f"batch.{name}": tensor for name, tensor in batch.items()}, document)


def replay(path: Path) -> list[str]:
    """Compute the step of the folder again, on the CPU, and say where numbers stop being finite, one line each."""
    document, tensors = _FOLDER.read(path)
    policy = build_policy(path / _FOLDER.document_name, document)
    policy.load_state_dict(_under("policy.", tensors))
    if document["prompts"]:
        policy.set_prompts(document["prompts"])
    batch = _under("batch.", tensors)
    lines = [f"step {document['step']}: training {document['what']} was {document['value']}"]
    lines += [f"{kind} {name} is not finite" for kind, name in _not_finite(batch, dict(policy.named_parameters()))]
    for number in range(document["parts"]):
        part = {name: value.chunk(document["parts"])[number] for name, value in batch.items()}
        generator = seed_draws(document["seed"], document["step"], number)
        lines += _replay_part(policy, part, generator, number, document)
    gradients = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    wrong = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    return [*lines, f"gradient norm {norm}, not finite in {len(wrong)} of {len(gradients)} weights", *wrong[:20]]


def _replay_part(
    policy: ChunkPolicy,
    batch: Mapping[str, Tensor],
    generator: torch.Generator,
    number: int,
    document: Mapping[str, Any],
) -> list[str]:
    found: list[str] = []
    hooks = [
        module.register_forward_hook(partial(_note_output, name, found)) for name, module in policy.named_modules()
    ]
    policy.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=document["precision"] == "bf16"):
        loss = policy(batch, generator)
    for hook in hooks:
        hook.remove()
    # As the training does, whose gradient is the mean over the parts.
    (loss / document["parts"]).backward()
    first = f", first not finite in the output of {found[0]}" if found else ""
    return [f"part {number}: loss {loss.item()}{first}"]


def _note_output(name: str, found: list[str], _module: nn.Module, _inputs: Any, output: Any) -> None:
    outputs = output if isinstance(output, tuple) else (output,)
    if any(isinstance(o, Tensor) and not torch.isfinite(o).all() for o in outputs):
        found.append(name or "the policy")


def _not_finite(batch: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    named = [*(("batch", *item) for item in batch.items()), *(("weight", *item) for item in weights.items())]
    return [(kind, name) for kind, name, value in named if not torch.isfinite(value).all()]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def main(argv: list[str] | None = None) -> int:
    """Print what `replay` finds; 2 for a folder that is none."""
    parser = argparse.ArgumentParser(prog="python -m policies.train_not_finite", description=__doc__)
    parser.add_argument("folder", type=Path)
    try:
        print("\n".join(replay(parser.parse_args(argv).folder)))
    except ArmatureError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
