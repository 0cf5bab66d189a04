"""Measures on episodes that were kept out of training."""

from __future__ import annotations

import numpy as np
import torch

from policies.chunk_policy import ChunkPolicy
from policies.dataset_torch import WindowTensors
from policies.train_config import TrainConfig
from policies.training_state import seed_draws

_BATCHES = 8


def validate(policy: ChunkPolicy, data: WindowTensors, config: TrainConfig) -> dict[str, float]:
    """Measure on held-out windows, with the same draws every time: loss, and mean absolute error of sampled actions.

    The error is in normalised units: 2 is the whole range of an action in the dataset.
    """
    generator = seed_draws(config.seed, 0)
    every = np.arange(len(data))
    chosen = every[:: max(1, len(every) // (_BATCHES * config.batch_size))]
    losses, errors = [], []
    with torch.no_grad():
        for begin in range(0, len(chosen), config.batch_size):
            batch = data.batch(torch.from_numpy(chosen[begin : begin + config.batch_size]))
            losses.append(policy.loss(batch, generator).item())
            noise = torch.randn(batch["action"].shape, generator=generator).to(batch["action"].device)
            error = (policy.sample(batch, noise, generator).actions - batch["action"]) * policy.action_layer.scale
            errors.append(error.abs().mean().item())
    return {"validation_loss": float(np.mean(losses)), "validation_action_error": float(np.mean(errors))}
