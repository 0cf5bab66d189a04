"""The sampling of one chunk as one graph of tensor operations, from observations to actions in physical units.

The encoder, every denoising or refining step and the de-normalisation are in it, so that an engine has no Python left
to run between them. Tracing sees what lies below autograd: the gradients of the energy that a sampler descends become
operations like all others. What depends on no input (noise schedules, embeddings of the step, experts chosen by it) is
computed while tracing and is a constant of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._ops import OpOverload
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode, get_proxy_slot, make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from armature.errors import ConfigError
from armature.testing import random_observation
from policies.chunk_policy import ChunkPolicy
from policies.context import GOAL


@dataclass(frozen=True)
class Signature:
    """What the graph takes, in this order, and what it returns after the actions."""

    observations: dict[str, tuple[int, ...]]
    """Name to shape, (1, obs_steps, *shape)."""
    noise: tuple[int, ...]
    """(1, chunk_steps, D)."""
    draws: tuple[tuple[int, ...], ...]
    """Shapes of the standard normal noise that a stochastic sampler draws on the way."""
    diagnostics: tuple[str, ...]


@dataclass(frozen=True)
class SamplingGraph:
    """One chunk of a policy: `module(*example)` returns (actions, *diagnostics)."""

    module: fx.GraphModule
    signature: Signature
    example: tuple[Tensor, ...]


def trace_sampling(policy: ChunkPolicy) -> SamplingGraph:
    """Trace the sampling of one chunk on the policy's device.

    Raises ConfigError naming the family when its sampling is not a fixed sequence of operations: where the values
    decide how many steps it takes, or where it draws other than by `torch.randn` from the generator.
    """
    if policy.config.takes_prompt:
        raise ConfigError(f"{policy.family}: this policy takes prompts, of which one graph would hold one for ever")
    values, noise = example_inputs(policy)
    signature, draws = _signature(policy, values, noise)
    generator = torch.Generator()

    def sample(*inputs: Tensor) -> tuple[Tensor, ...]:
        observed, (noise, *drawn) = inputs[: len(values)], inputs[len(values) :]
        with _Tracing(drawn):
            sampled = policy.sample(dict(zip(values, observed, strict=True)), noise, generator)
        return sampled.actions, *sampled.diagnostics.values()

    before = _random_states(generator)
    example = (*values.values(), noise, *draws)
    try:
        module = _pure(sample, example)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{policy.family}: its sampling cannot be made one graph: {reason}") from error
    if not all(map(torch.equal, before, _random_states(generator))):
        raise ConfigError(f"{policy.family}: its sampling draws other than by torch.randn from the generator")
    return SamplingGraph(module, signature, example)


def example_inputs(policy: ChunkPolicy, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Draw a valid observation as a batch of one, with a goal where the policy takes one, and noise."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    values = policy.batch_of([random_observation(policy.spec, policy.obs_steps, rng, 0).values])
    if policy.config.goal_steps:
        goal = random_observation(policy.spec, policy.config.goal_steps, rng, 0).values
        names = [array.name for array in policy.spec.observation.vectors]
        values |= {f"{GOAL}{name}": torch.from_numpy(goal[name])[None].to(policy.device) for name in names}
    return values, torch.randn((1, *policy.chunk_shape), generator=generator).to(policy.device)


class _Draws(TorchFunctionMode):
    """Keeps what `torch.randn(..., generator=...)` gives."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _is_draw(func, kwargs):
            self.kept.append(result)
        return result


class _Tracing(TorchFunctionMode):
    """Answers `torch.randn(..., generator=...)` with given tensors, and computes at once what depends on no input."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self._given = iter(given)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_draw(func, kwargs):
            return next(self._given)
        mode = get_proxy_mode()
        if mode is None or any(_depends_on_inputs(leaf, mode.tracer) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        with disable_proxy_modes_tracing():
            return func(*args, **kwargs)


def _depends_on_inputs(leaf: Any, tracer: Any) -> bool:
    if not isinstance(leaf, Tensor):
        return False
    found = get_proxy_slot(leaf, tracer, None)
    return found is not None and found.constant is None


def _is_draw(func: Any, kwargs: Any) -> bool:
    return func is torch.randn and (kwargs or {}).get("generator") is not None


def _signature(policy: ChunkPolicy, values: dict[str, Tensor], noise: Tensor) -> tuple[Signature, list[Tensor]]:
    with _Draws() as draws:
        sampled = policy.sample(values, noise, torch.Generator().manual_seed(0))
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    drawn = tuple(tuple(each.shape) for each in draws.kept)
    return Signature(shapes, tuple(noise.shape), drawn, tuple(sampled.diagnostics)), draws.kept


def _pure(function: Callable[..., Any], example: tuple[Tensor, ...]) -> fx.GraphModule:
    """Trace `function` to a graph in which no operation changes a tensor in place."""
    # What OpenVINO does not know becomes products and sums: the operations of autograd, and this one.
    rules = {op: rule for op, rule in core_aten_decompositions().items() if "backward" in str(op) or "lerp" in str(op)}
    # Those of a CPU know neither fused attention with shared keys nor its gradient; those of a GPU keep torch's own.
    fused = () if example[-1].device.type == "cpu" else (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
    attention = sdpa_kernel([SDPBackend.MATH, *fused])
    with torch.no_grad(), attention, torch.compiler._compile_session_context():
        module = _without_dead_code(make_fx(function, decomposition_table=rules)(*example))
        for node in _in_place(module):
            _spare(node)
        # The general way costs as much as tracing did.
        if _in_place(module):
            module = _without_dead_code(make_fx(functionalize(module))(*example))
    module.recompile()
    return module


def _in_place(module: fx.GraphModule) -> list[fx.Node]:
    operations = [node for node in module.graph.nodes if isinstance(node.target, OpOverload)]
    return [node for node in operations if node.target._schema.is_mutable]


def _spare(node: fx.Node) -> None:
    """Give `node` a result of its own where it writes to one that is fresh and read by nobody else."""
    name, overload = node.target._schema.name.removeprefix("aten::"), node.target._overloadname
    source = node.args[0]
    is_fresh = isinstance(source.target, OpOverload) and all(
        r.alias_info is None for r in source.target._schema.returns
    )
    if is_fresh and len(source.users) == 1 and name.endswith("_"):
        node.target = getattr(getattr(torch.ops.aten, name.removesuffix("_")), overload)


def _without_dead_code(module: fx.GraphModule) -> fx.GraphModule:
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _random_states(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return generator.get_state(), torch.get_rng_state()
