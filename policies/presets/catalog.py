"""All training runs that are known to work, by name; variants are made with `dataclasses.replace`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from policies.presets import arm, bc, diffusion, ebt, hrdt, mode, pusht, score
from policies.presets.lift import lift_pixels, lift_state
from policies.train_config import TrainConfig

SIZES = ("tiny", "small", "paper")
_FAMILIES = {"diffusion": diffusion, "score": score, "ebt": ebt, "mode": mode, "hrdt": hrdt, "bc": bc}
_SMALL = {family: module.small for family, module in _FAMILIES.items()}
_ARM = {
    "state": (arm.STATE, {**_SMALL, "diffusion": diffusion.attentive}),
    # Of 100 starts of Lift the transformer had 74 after as many steps.
    "pixels": (arm.PIXELS, _SMALL),
}

PRESETS: dict[str, Callable[[Path, Path], TrainConfig]] = {
    **{f"{family}_{size}": getattr(module, size) for family, module in _FAMILIES.items() for size in SIZES},
    **{f"pusht_{family}": pusht.adapted(family, small) for family, small in _SMALL.items()},
    **{
        f"arm_{seen}_{family}": arm.adapted(f"arm_{seen}_{family}", policy, small)
        for seen, (policy, sizes) in _ARM.items()
        for family, small in sizes.items()
    },
    "lift_pixels": lift_pixels,
    "lift_state": lift_state,
}
"""`tiny` is for tests, `small` for training on a CPU, `paper` the published size."""
