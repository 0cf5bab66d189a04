"""A chunk of lerobot's DiffusionPolicy, for policy_latency.py; runs in a Python that has lerobot.

    python benchmarks/lerobot_latency.py SIZES

SIZES is JSON. Prints how many parameters it has, then, for every line that it reads, the seconds one chunk took.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from lerobot_reading import import_torchvision


def main(sizes: dict[str, Any]) -> None:
    """Answer every line on stdin with the seconds of one chunk."""
    torch.set_num_threads(sizes["threads"])
    model = make_model(sizes).to(sizes["device"]).eval()
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    shape = (1, sizes["obs_steps"])
    state, environment = torch.randn(*shape, 1), torch.randn(*shape, sizes["state_dim"] - 1)
    batch = {"observation.state": state, "observation.environment_state": environment}
    with torch.no_grad():
        for _ in sys.stdin:
            begin_s = time.perf_counter()
            model.generate_actions({name: value.to(sizes["device"]) for name, value in batch.items()}).cpu()
            print(time.perf_counter() - begin_s, flush=True)


def make_model(sizes: dict[str, Any]) -> Any:
    """Return the network and sampler of a DiffusionPolicy that sees states only."""
    import_torchvision()
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel

    # It asks for a picture or a state of the surroundings beside that of the robot: one element and all others.
    seen = {
        "observation.state": PolicyFeature(FeatureType.STATE, (1,)),
        "observation.environment_state": PolicyFeature(FeatureType.ENV, (sizes["state_dim"] - 1,)),
    }
    config = DiffusionConfig(
        device=sizes["device"],
        input_features=seen,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (sizes["action_dim"],))},
        n_obs_steps=sizes["obs_steps"],
        horizon=sizes["chunk_steps"],
        n_action_steps=sizes["chunk_steps"] - sizes["obs_steps"] + 1,
        down_dims=tuple(sizes["dims"]),
        kernel_size=sizes["kernel"],
        n_groups=sizes["groups"],
        diffusion_step_embed_dim=sizes["step_dim"],
        noise_scheduler_type="DDIM",
        num_inference_steps=sizes["sampling_steps"],
    )
    return DiffusionModel(config)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
