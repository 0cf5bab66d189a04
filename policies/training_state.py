"""What changes while a policy is trained, one step of change, and the folder from which training resumes exactly.

The folder holds tensors and JSON only. Random draws are functions of (seed, step), so no generator has to be saved.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from armature.errors import CheckpointError, ConfigError, InvalidValue
from policies.nets.target_network import follow
from policies.tensor_folder import TensorFolder
from policies.train_workers import Workers

_PARTS = ("step", "seconds", "config", "dataset_fingerprint")
_FOLDER = TensorFolder("state.safetensors", "state.json", "armature-training-state", 2, _PARTS)
_ADAM_FIELDS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its learning-rate schedule, and the average of the weights that is deployed."""

    learning_rate: float = 3e-4
    weight_decay: float = 1e-6
    betas: tuple[float, float] = (0.95, 0.999)
    warmup_steps: int = 100
    """Steps of linear rise, before a half cosine falls to zero at the last step."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_power: float = 0.75
    """The average forgets at rate (1 + step)**-power, so it is young at first and long at the end."""
    ema_max: float = 0.999

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("learning_rate", "gradient_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}, must be above 0 and finite")
        for name in ("weight_decay", "warmup_steps", "ema_power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}, must be 0 or more and finite")
        for name, values in (("betas", self.betas), ("ema_max", (self.ema_max,))):
            if not all(0 <= value < 1 for value in values):
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}, must be in [0, 1)")


class NotFinite(InvalidValue):
    """A step's loss or gradient norm is not finite."""

    def __init__(self, what: str, value: float, step: int) -> None:
        self.what, self.value, self.step = what, value, step
        super().__init__(f"training {what} is {value} at step {step}; the weights were left as they were")


class TrainingState:
    """Policy, average of its weights, optimiser, and how many steps and seconds they have seen.

    Every process of a training has one, and all are equal.
    """

    def __init__(self, policy: Any, config: OptimizerConfig, workers: Workers | None = None) -> None:
        """Train `policy` where it is; without `workers` in this process alone."""
        self.policy = policy
        self.average = copy.deepcopy(policy).requires_grad_(False).eval()
        self.workers = Workers(next(policy.parameters()).device.type) if workers is None else workers
        self.config = config
        self.step = 0
        self.seconds = 0.0
        self.optimizer = torch.optim.AdamW(
            dict(self._learned()).values(),
            config.learning_rate,
            config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        # After the copy: what is called in training may be more than the policy.
        self._model = self.workers.wrap(policy)

    def update(self, batch: Mapping[str, Tensor], seed: int, steps: int) -> float:
        """Take one optimiser step of a training of `steps` and return its loss; raise NotFinite where it is not.

        `batch` is this process's share; the loss is the mean over all of them.
        """
        self.policy.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, steps, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._add_gradients(batch, seed)
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.gradient_clip)
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if not torch.isfinite(value):
                raise NotFinite(what, value.item(), self.step)
        self.optimizer.step()
        follow(self.average, self.policy, 1 - ema_decay(self.step, self.config))
        self.step += 1
        return loss.item()

    def save(self, path: Path, config: Mapping[str, Any], dataset_fingerprint: str) -> None:
        """Write the resumable state."""
        document = {
            "step": self.step,
            "seconds": self.seconds,
            "config": dict(config),
            "dataset_fingerprint": dataset_fingerprint,
        }
        _FOLDER.write(path, dict(self._tensors()), document)

    def load(self, path: Path, require_same: Callable[[Mapping[str, Any]], None] = lambda document: None) -> None:
        """Take over a saved state; raise CheckpointError when it does not fit.

        `require_same` is shown its document first, and raises where that is of another training.
        """
        document, tensors = _FOLDER.read(path)
        require_same(document)
        for _, parameter in self._learned():
            moments = {key: torch.zeros_like(parameter) for key in _ADAM_FIELDS[1:]}
            self.optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
        expected = dict(self._tensors())
        if expected.keys() != tensors.keys():
            differing = sorted(expected.keys() ^ tensors.keys())
            raise CheckpointError(f"{path}: does not fit this policy: {len(differing)} tensors, first {differing[0]}")
        for name, tensor in expected.items():
            if tensor.shape != tensors[name].shape:
                found = f"{name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
                raise CheckpointError(f"{path}: does not fit this policy: {found}")
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(tensors[name])
        self.step, self.seconds = int(document["step"]), float(document["seconds"])

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for prefix, module in (("policy", self.policy), ("average", self.average)):
            for name, tensor in module.state_dict().items():
                yield f"{prefix}.{name}", tensor
        for name, parameter in self._learned():
            for key in _ADAM_FIELDS:
                yield f"adamw.{key}.{name}", self.optimizer.state[parameter][key]

    def _add_gradients(self, batch: Mapping[str, Tensor], seed: int) -> Tensor:
        losses = []
        for number, part in self.workers.numbered_parts(batch):
            generator = seed_draws(seed, self.step, number)
            with self.workers.apart(self._model, number):
                loss = self._model(part, generator)
                self.workers.backward(loss)
            losses.append(loss.detach())
        return self.workers.mean(torch.stack(losses).mean())

    def _learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.policy.named_parameters() if p.requires_grad)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Return the rate of step `step` (from 0) of `steps`: linear warm-up, then half a cosine down to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def ema_decay(step: int, config: OptimizerConfig) -> float:
    """Return how much of the average stays at step `step` (from 0): 0 at first, towards `ema_max`."""
    return min(config.ema_max, 1 - (1 + step) ** -config.ema_power)


def seed_draws(seed: int, step: int, part: int = 0) -> torch.Generator:
    """Return a generator for the draws of one part of a step, and seed torch's own, which dropout uses."""
    # A SeedSequence pads with zeros: part 0 draws what a batch in one part does.
    state = int(np.random.SeedSequence((seed, step, part)).generate_state(1, np.uint64)[0]) >> 1
    torch.manual_seed(state)
    return torch.Generator().manual_seed(state)
