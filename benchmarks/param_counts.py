"""How large is the preset `paper` of every family? Counted on the meta device, as the papers count.

Counted are the parameters that are trained: the method's and those of its image networks; frozen towers for images and
text are left out. What each published policy sees is in `PUBLISHED`, the rest is the preset. `active` leaves out the
experts that do not serve a sample. Families without a published count are listed for state-based Push-T.

    python benchmarks/param_counts.py [--json FILE]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import Criterion, main, within
from rich.console import Console
from rich.table import Table
from torch import nn

from armature.normalizer import FieldStats, Normalizer
from armature.spec import ArraySpec, ObservationSpec
from policies.context import ContextSpec
from policies.nets.observation import ObservationEncoder
from policies.nets.prompts import PromptShape
from policies.policy_config import PolicyConfig
from policies.presets.catalog import PRESETS
from policies.registry import METHODS, method_class

MILLION = 1e6
_RATE_HZ = 20.0


@dataclass(frozen=True)
class Published:
    """What a published policy sees and does, and how many parameters are reported for it."""

    action_dim: int
    state_dim: int = 0
    cameras: int = 0
    image_side_px: int = 0
    prompt: PromptShape | None = None
    frozen_tokens: tuple[int, int] = (0, 0)
    """Of frozen image towers: tokens of all cameras, and their size. These towers are not built."""
    idle: int = 0
    """Parameters of layers that the released code makes and never uses; its counts contain them, ours do not."""
    total: tuple[float, float] | None = None
    """Least and largest count that agrees with the published one."""
    active: tuple[float, float] | None = None


PUSHT = Published(action_dim=2, state_dim=20)
PUBLISHED = {
    # 7-D Cartesian actions from two cameras, without proprioception; CLIP ViT-B/32 embeds the prompt. Pretrained model:
    # 740 M, 436 M of them active, by the paper; 740.7 M and 438.6 M counted after its released code, which has a second
    # projection of images for a gripper state that it does not use.
    "mode": Published(7, 0, 2, 224, PromptShape(1, 512), idle=2048 * 1024, total=(740.6e6, 740.8e6),
                      active=(438.5e6, 438.7e6)),
    # Pretraining on human hands: one camera, DINOv2 beside SigLIP at 384 px, T5-v1.1-XXL. "2B"; 2.06 B counted.
    "hrdt": Published(48, 48, 1, 384, PromptShape(1024, 4096), (27 * 27, 1024 + 1152), total=(2.0394e9, 2.0806e9)),
    # robomimic: TCP pose 7, fingers 2, object 14 (Can, Square); two cameras of 84 px. 30 to 31 M, rounded to 0.1 M.
    "ebt": Published(7, 23, 2, 84, total=(29.95e6, 31.05e6)),
}  # fmt: skip


def measure(quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
    """Count every family; criteria are about the published ones."""
    counts = {family: count(family, PUBLISHED.get(family, PUSHT)) for family in METHODS}
    show(counts)
    criteria = [
        criterion(f"{family}, {what}", counts[family][what], published.idle, bounds)
        for family, published in PUBLISHED.items()
        for what, bounds in (("total", published.total), ("active", published.active))
        if bounds is not None
    ]
    return criteria, {"parameters": counts}


def criterion(name: str, found: int, idle: int, bounds: tuple[float, float]) -> Criterion:
    """Compare a count, with what the released code has beyond it."""
    words = f"{name}, with {idle / MILLION:.1f} M idle" if idle else name
    return within(words, (found + idle) / MILLION, "M", *(bound / MILLION for bound in bounds))


def count(family: str, published: Published) -> dict[str, int]:
    """Build the family's networks on the meta device and count the trained parameters of each part."""
    preset = PRESETS[f"{family}_paper"](Path(), Path())
    with torch.device("meta"):
        images, context = _image_networks(preset.policy, published)
        method = method_class(family)(preset.method, published.action_dim, preset.policy.chunk_steps, context)
    parts = {"images": _trained(images), "method": _trained(method)}
    active = method.active_parameters() if hasattr(method, "active_parameters") else parts["method"]
    total = sum(parts.values())
    return {**parts, "total": total, "active": parts["images"] + active}


def _image_networks(policy: PolicyConfig, published: Published) -> tuple[nn.Module, ContextSpec]:
    """Return what learns to see, and what the method gets of it."""
    if policy.vision.network == "pretrained":
        sizes = (policy.obs_steps, published.state_dim, *published.frozen_tokens, *(published.prompt or ()))
        return nn.Identity(), ContextSpec(*sizes)
    side = published.image_side_px
    cameras = [ArraySpec(f"camera/{i}", (side, side, 3), "uint8", "rgb8") for i in range(published.cameras)]
    state = [ArraySpec("state", (published.state_dim,), "float32", "")] if published.state_dim else []
    spec = ObservationSpec((*cameras, *state), _RATE_HZ)
    fields = {"state": FieldStats.of(torch.zeros(2, published.state_dim, device="cpu").numpy())} if state else {}
    normalizer = Normalizer(fields, dict.fromkeys(fields, "limits"))
    encoder = ObservationEncoder(spec, policy.obs_steps, policy.vision, normalizer, prompt=published.prompt)
    return encoder, encoder.context_spec


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def show(counts: dict[str, dict[str, int]]) -> None:
    """Print the parts of every family."""
    table = Table(title="preset paper, millions of trained parameters", title_justify="left")
    table.add_column("family")
    for heading in ("images", "method", "total", "active"):
        table.add_column(heading, justify="right")
    for family, parts in counts.items():
        table.add_row(
            family, *(f"{parts[column] / MILLION:,.2f}" for column in ("images", "method", "total", "active"))
        )
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main("param_counts", measure))
