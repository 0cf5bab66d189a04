"""Engines: the whole sampling of a chunk as one call, in place of torch's operation by operation.

eager       torch as it is: the reference, and the default; a seed gives the very chunks that the training's checks saw
openvino    a file beside the weights, made by `armature export` or `armature train --export`; CPU only
compiled    torch.compile; on a CPU it needs a C++ compiler and, for ten steps, minutes
cuda_graph  the kernels of a chunk recorded once and replayed; CUDA only
auto        the fastest that is at hand: cuda_graph on a GPU, openvino where its file and package are there, else eager

An engine is taken only after it gave, on this machine, the actions of eager for the same noise to 1e-4 of normalised
units. Eager stays the default because that is close, not equal: over a closed loop differences grow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from armature.errors import CheckpointError, ConfigError, InvalidValue, unknown
from policies import openvino_runtime
from policies.chunk_policy import ChunkPolicy
from policies.engine_file import ENGINE, read_engine
from policies.method import Sampled
from policies.sampling_graph import SamplingGraph, Signature, example_inputs, trace_sampling

ENGINES = ("eager", "auto", "openvino", "compiled", "cuda_graph")
PARITY_N = 1e-4
"""Largest difference from eager, in normalised actions (their range is 2)."""
_WARM_UP = 3


@dataclass(frozen=True)
class GraphEngine:
    """Answers like `ChunkPolicy.sample`, for a batch of one."""

    name: str
    signature: Signature
    run: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    """From the inputs of a SamplingGraph to its outputs."""

    def __call__(
        self, values: Mapping[str, Tensor], noise: Tensor, generator: torch.Generator | None = None
    ) -> Sampled:
        """Sample one chunk; raise InvalidValue on shapes it was not made for, and on a result that is not finite."""
        signature = self.signature
        given = {name: tuple(values[name].shape) for name in signature.observations if name in values}
        if (given, tuple(noise.shape)) != (signature.observations, signature.noise):
            raise InvalidValue(
                f"engine {self.name}: got {given} and noise {tuple(noise.shape)}, "
                f"it was made for {signature.observations} and noise {signature.noise}"
            )
        draws = [torch.randn(shape, generator=generator).to(noise.device) for shape in signature.draws]
        outputs = self.run([*(values[name] for name in signature.observations), noise, *draws])
        actions, diagnostics = outputs[0], dict(zip(signature.diagnostics, outputs[1:], strict=True))
        for what, value in {"actions": actions, **diagnostics}.items():
            if not torch.isfinite(value).all():
                raise InvalidValue(f"engine {self.name}: {what} not finite; weights or observation are not")
        return Sampled(actions, diagnostics)


def require_known(name: str) -> None:
    """Raise ConfigError unless `name` is an engine."""
    if name not in ENGINES:
        raise ConfigError(unknown("engine", name, ENGINES))


def make_engine(name: str, policy: ChunkPolicy, path: Path, sums: Mapping[str, str]) -> GraphEngine | None:
    """Make the engine `name` of the policy of the checkpoint at `path`, whose files have these sha256; None for eager.

    Raises ConfigError for one that does not go with the policy's device or family, CheckpointError for a file that is
    absent, damaged or of other weights, and for an engine whose actions differ from eager's.
    """
    require_known(name)
    device, asked = policy.device.type, name
    name = _fastest(device, path) if name == "auto" else name
    if name == "eager":
        return None
    made_for = {"openvino": "cpu", "cuda_graph": "cuda"}.get(name, device)
    if device != made_for:
        raise ConfigError(f"engine '{name}' computes on {made_for}, the policy is on {device}")
    if name == "openvino":
        engine = GraphEngine(name, read_engine(path, sums), openvino_runtime.load(path / ENGINE))
    else:
        try:
            graph = trace_sampling(policy)
        except ConfigError:
            if asked == "auto":
                # Of such a policy no graph can be made: it does without.
                return None
            raise
        engine = GraphEngine(name, graph.signature, _TORCH_ENGINES[name](graph))
    require_parity(policy, engine)
    return engine


def require_parity(policy: ChunkPolicy, engine: GraphEngine) -> float:
    """Return the largest difference from eager in normalised actions; raise CheckpointError above PARITY_N."""
    worst = max(_difference(policy, engine, seed) for seed in range(_WARM_UP))
    if not worst <= PARITY_N:
        raise CheckpointError(
            f"{policy.policy_id}: engine {engine.name} differs from eager by {worst:.1e} of normalised actions on this "
            f"machine, allowed {PARITY_N:g}"
        )
    return worst


def _difference(policy: ChunkPolicy, engine: GraphEngine, seed: int) -> float:
    inputs = example_inputs(policy, seed)
    eager, other = (each(*inputs, torch.Generator().manual_seed(seed)).actions for each in (policy.sample, engine))
    return ((eager - other) * policy.action_layer.scale).abs().max().item()


def _fastest(device: str, path: Path) -> str:
    if device == "cuda":
        return "cuda_graph"
    return "openvino" if (path / ENGINE).is_dir() and openvino_runtime.is_installed() else "eager"


def _compiled(graph: SamplingGraph) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    on_gpu = graph.example[-1].is_cuda
    function = torch.compile(
        graph.module, fullgraph=True, dynamic=False, mode="reduce-overhead" if on_gpu else "default"
    )

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        # The results are copies: a replayed graph writes over its own.
        with torch.no_grad():
            return [each.clone() for each in function(*inputs)]

    try:
        run(graph.example)
    except torch._inductor.exc.InductorError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"engine 'compiled' cannot be made here: {reason}") from error
    return run


def _cuda_graph(graph: SamplingGraph) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    kept = [each.clone() for each in graph.example]
    recorded, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.no_grad():
        # Libraries choose and load their kernels at first use, which cannot be recorded.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                graph.module(*kept)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(recorded):
            outputs = graph.module(*kept)

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        for mine, given in zip(kept, inputs, strict=True):
            mine.copy_(given)
        recorded.replay()
        return [each.clone() for each in outputs]

    return run


_TORCH_ENGINES: dict[str, Any] = {"compiled": _compiled, "cuda_graph": _cuda_graph}
