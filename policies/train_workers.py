"""The processes that share a training, through accelerate: this one alone, or those of `accelerate launch` or torchrun.

A step's batch is cut into parts: `accumulate_steps` one after the other in each process. The gradients of all parts are
averaged before the optimiser's step, and every part has random draws of its own, named by its number. So it does not
matter who computes a part: 2 processes learn what one learns with twice the `accumulate_steps`, up to rounding. A batch
in a single part gives another result only by its draws, and by terms of a loss that are no mean over the windows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from armature.errors import ConfigError

Precision = Literal["float32", "bf16"]

_MIXED = {"float32": "no", "bf16": "bf16"}
# The first process alone validates and writes: the others wait for it in the next step.
_PATIENCE = timedelta(hours=2)


class Workers:
    """This process among those that train together."""

    def __init__(self, device: str = "cpu", precision: Precision = "float32", accumulate_steps: int = 1) -> None:
        """Meet the others; raise ConfigError where this machine lacks the device or computes no bf16 on it."""
        kind = torch.device(device).type
        if kind == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise ConfigError(f"precision bf16: {torch.cuda.get_device_name()} does not compute it. Valid: float32")
        # accelerate remembers device and precision for the life of a process, which may train several policies.
        AcceleratorState._reset_state(reset_partial_state=True)
        self._accelerator = Accelerator(
            cpu=kind == "cpu",
            device_placement=False,
            mixed_precision=_MIXED[precision],
            kwargs_handlers=[
                # A method need not use every weight in every part: experts are chosen, conditions are dropped.
                DistributedDataParallelKwargs(find_unused_parameters=True),
                InitProcessGroupKwargs(timeout=_PATIENCE),
            ],
        )
        self.index, self.count = self._accelerator.process_index, self._accelerator.num_processes
        self.accumulate_steps = accumulate_steps
        if self._accelerator.device.type != kind:
            raise ConfigError(f"device '{device}': the processes were started for {self._accelerator.device.type}")
        self.device = self._accelerator.device if self.count > 1 else torch.device(device)

    @property
    def is_main(self) -> bool:
        """Tell whether this process is the one that validates, writes and talks."""
        return self.index == 0

    @property
    def parts(self) -> int:
        """Count the parts of a step's batch over all processes."""
        return self.count * self.accumulate_steps

    def wrap(self, policy: nn.Module) -> nn.Module:
        """Return what is called in place of `policy` in training: in the precision asked for, gradients averaged."""
        return self._accelerator.prepare_model(policy, device_placement=False)

    def share(self, indices: Tensor) -> Tensor:
        """Return the windows that this process computes, of those of a whole step (B,)."""
        return indices.chunk(self.count)[self.index]

    def numbered_parts(self, share: Mapping[str, Tensor]) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Cut this process's share of a batch into its parts, each with its number among all parts of the step."""
        for k in range(self.accumulate_steps):
            part = {name: value.chunk(self.accumulate_steps)[k] for name, value in share.items()}
            yield self.index * self.accumulate_steps + k, part

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a part's loss to that of the step."""
        self._accelerator.backward(loss / self.accumulate_steps if self.accumulate_steps > 1 else loss)

    def apart(self, model: nn.Module, number: int) -> AbstractContextManager[Any]:
        """Return the context of a part: only after the last part of each process do they exchange gradients."""
        is_last = (number + 1) % self.accumulate_steps == 0
        return nullcontext() if is_last else self._accelerator.no_sync(model)

    def mean(self, value: Tensor) -> Tensor:
        """Average over the processes."""
        return value if self.count == 1 else self._reduce(value, "mean")

    def total(self, value: int) -> int:
        """Add up over the processes."""
        return value if self.count == 1 else round(self._reduce(torch.tensor(float(value)), "sum").item())

    def first_here(self) -> AbstractContextManager[Any]:
        """Return a context that the first process of each machine passes before the others."""
        return self._accelerator.local_main_process_first()

    def close(self) -> None:
        """Leave the others."""
        self._accelerator.end_training()

    def _reduce(self, value: Tensor, how: str) -> Tensor:
        reduced = self._accelerator.reduce(value.to(self.device), how)
        if not isinstance(reduced, Tensor):
            raise TypeError(f"accelerate reduced a tensor to {type(reduced).__name__}")
        return reduced


@contextmanager
def open_workers(device: str, precision: Precision, accumulate_steps: int) -> Iterator[Workers]:
    """Meet the other processes for one training."""
    workers = Workers(device, precision, accumulate_steps)
    try:
        with warnings.catch_warnings():
            # Whether a method uses every weight is its own affair.
            warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified")
            yield workers
    finally:
        workers.close()
