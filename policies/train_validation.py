"""Measures on episodes that were kept out of training."""

from __future__ import annotations

import math

import numpy as np
import torch

from policies.chunk_policy import ChunkPolicy
from policies.dataset_torch import WindowTensors
from policies.train_config import TrainConfig
from policies.training_state import seed_draws

_WINDOWS = 1024
"""At most so many, evenly over what was kept out: the same ones whatever the batch size."""


def validate(policy: ChunkPolicy, data: WindowTensors, config: TrainConfig) -> dict[str, float]:
    """Measure on held-out windows, with the same draws every time: loss, and mean absolute error of sampled actions.

    The error is in normalised units: 2 is the whole range of an action in the dataset.
    """
    generator = seed_draws(config.seed, 0)
    every = np.arange(len(data))
    chosen = every[:: math.ceil(len(every) / _WINDOWS)]
    losses, errors, counts = [], [], []
    with torch.no_grad():
        for begin in range(0, len(chosen), config.batch_size):
            batch = data.batch(torch.from_numpy(chosen[begin : begin + config.batch_size]))
            losses.append(policy.loss(batch, generator).item())
            noise = torch.randn(batch["action"].shape, generator=generator).to(batch["action"].device)
            error = (policy.sample(batch, noise, generator).actions - batch["action"]) * policy.action_layer.scale
            errors.append(error.abs().mean().item())
            counts.append(len(error))
    loss, action_error = (float(np.average(values, weights=counts)) for values in (losses, errors))
    return {"validation_loss": loss, "validation_action_error": action_error}
