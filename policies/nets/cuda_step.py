"""A step of learning as one CUDA graph: of a small network it is hundreds of kernels, each quicker than its launch.

Recorded is what is launched: what changes from call to call comes in tensors, and nothing is read back on the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[..., Tensor]
_WARM_UP = 3
"""Calls that run as they are: libraries choose their kernels, optimisers make their moments."""


class CudaStep:
    """Calls `step`, a function of tensors that learns and returns figures; on a GPU it is recorded and then replayed.

    There is a recording for each set of shapes. What it writes to, as networks and moments, has to stay in its place.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._calls: Counter[tuple[torch.Size, ...]] = Counter()
        self._recorded: dict[tuple[torch.Size, ...], Step] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Take the step once; the figures are overwritten by the next call."""
        if not inputs[0].is_cuda:
            return self._step(*inputs)
        # Of several GPUs, streams and recordings are those of the current one.
        with torch.cuda.device(inputs[0].device):
            return self._call(inputs)

    def _call(self, inputs: tuple[Tensor, ...]) -> Tensor:
        shapes = tuple(each.shape for each in inputs)
        self._calls[shapes] += 1
        if self._calls[shapes] <= _WARM_UP:
            return _aside(self._step, inputs)
        if shapes not in self._recorded:
            self._recorded[shapes] = _record(self._step, inputs)
        return self._recorded[shapes](*inputs)


def _aside(step: Step, inputs: tuple[Tensor, ...]) -> Tensor:
    """Run on a stream of its own, as torch asks for before it records."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        figures = step(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return figures


def _record(step: Step, inputs: tuple[Tensor, ...]) -> Step:
    kept, graph = [each.clone() for each in inputs], torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        figures = step(*kept)

    def replay(*given: Tensor) -> Tensor:
        torch._foreach_copy_(kept, list(given))
        graph.replay()
        return figures

    return replay
