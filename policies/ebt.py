"""EBT-Policy (arXiv 2510.27545), an Energy-Based Transformer (arXiv 2507.02092) over chunks of actions.

A network gives a chunk and the observation one energy. Sampling starts from noise and descends; training compares the
chunk after each step with the recorded one, so the loss differentiates through the gradient of the energy. There is no
time embedding: the landscape is one, however many steps go down it. A step (`refine`) is that of the released code:

    a <- a / rms(a) + s_i * noise                  pre-sample normalisation; annealed noise, in training only
    a' = a + mu * v                                Nesterov's look-ahead
    v <- mu * v - alpha * exp(E(a')) / T * dE/da'  the energy scales the step
    a <- a + v

What differs from the released code, and why:
- rms(a) is that of each sample; theirs runs over the whole batch, which makes a sample depend on its neighbours.
- E is limited to +- `energy_clamp` within exp(E).
- Stopping is decided for each sample, not by the norm over the batch.
- Action token t sees every observation token. Their mask t >= j follows chunks that begin with the oldest observation;
  here they begin with the latest, so that all observations lie before all actions.
- Observation tokens begin with a learned one (`ObservationTokens`), and end with a norm.
- The layer norm between the two layers that read an action is left out: with the zero biases of the start it leaves of
  an action only its direction, and of one with a single element only the sign.
- `train_starts` and `data_starts` are ours, see EbtConfig. With the released recipe noise and recorded chunk are
  independent, and the squared error of any refinement is least at the mean of all chunks that fit an observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from armature.errors import ConfigError, InvalidValue
from policies.context import Context, ContextSpec
from policies.method import Sampled
from policies.nets.energy_transformer import EnergyTransformer, Memory, ObservationTokens

_RMS_EPSILON = 1e-6


@dataclass(frozen=True)
class EbtConfig:
    """The energy network, and how chunks flow down its landscape; the values are those of EBT-Policy-S."""

    width: int = 256
    layers: int = 8
    """Blocks of the energy network."""
    observation_layers: int = 8
    """Blocks that encode the observation, once per chunk."""
    heads: int = 4
    dropout: float = 0.3
    """Of the energy network's attention weights, in training."""
    step_size: float = 1000.0
    """Alpha. It is large because the energy is a mean over a chunk's elements, which makes its gradient small."""
    temperature: float = 1.0
    """T; the released recipe for the hardest task has 9."""
    energy_clamp: float = 5.0
    """Limit of |E| within exp(E)."""
    momentum: float = 0.9
    """Mu."""
    normalise: bool = True
    """Scale every chunk to a root mean square of 1 before each step."""
    train_steps: int = 6
    """Fewest steps in training."""
    train_steps_extra: int = 4
    """As many more at most, drawn for each batch."""
    step_size_spread: float = 1.5
    """In training alpha is drawn for each sample from [alpha / spread, alpha * spread]; 1 keeps alpha. The energy does
    not see it, and with 1.5 fits a step that leads 0.88 of the way: the mean over the mean square of what is drawn."""
    noise_max: float = 0.2
    """Deviation of the noise in the first step of training, from where it falls along half a cosine."""
    noise_min: float = 0.002
    """Where that half cosine ends, one step after the last."""
    detach: bool = True
    """Learn each step for itself; otherwise the loss goes back through the steps before."""
    truncate: bool = False
    """Only the last step has a loss; otherwise it is the mean over the steps."""
    train_starts: int = 1
    """Noises tried for each sample in training: the one that a step brings nearest to the recorded chunk learns, the
    others are left to other chunks (implicit maximum likelihood, Li and Malik 2018)."""
    data_starts: float = 0.0
    """Share of the samples that start in training between noise and the recorded chunk, evenly spread."""
    steps_max: int = 2
    """Most steps in inference."""
    min_gradient: float = 0.0
    """In inference a sample whose gradient norm is at most this takes one more step and stops (released: 1e-3 with 20
    steps at most); 0 takes `steps_max` steps always."""
    candidates: int = 1
    """Chunks refined in inference, of which the one with the lowest energy goes out."""


class Refinement(NamedTuple):
    """Chunks after a step, and what the step saw at its look-ahead."""

    actions: Tensor
    """(B, T, D)."""
    velocity: Tensor
    """(B, T, D)."""
    energy: Tensor
    """(B,)."""
    gradient_norm: Tensor
    """(B,)."""


Slope = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Gives chunks (B, T, D) their energies (B,), and the gradients (B, T, D) of these."""


def begin(start: Tensor) -> Refinement:
    """Make the state before the first step from chunks (B, T, D)."""
    unseen = start.new_zeros(len(start))
    return Refinement(start, torch.zeros_like(start), unseen, unseen)


def refine(
    slope: Slope, before: Refinement, step_size: Tensor | float, config: EbtConfig, noise: Tensor | None = None
) -> Refinement:
    """Take one step down; `step_size` is one or (B,). What `slope` can be differentiated by, the result can be, too."""
    actions, velocity = before.actions, before.velocity
    if config.detach:
        actions, velocity = actions.detach(), velocity.detach()
    actions = normalised(actions) if config.normalise else actions
    actions = actions if noise is None else actions + noise
    # Autocast would take hold of the gradient's own products, too.
    with torch.autocast(actions.device.type, enabled=False):
        energy, gradient = slope(actions + config.momentum * velocity)
        scale = step_size * energy.clamp(-config.energy_clamp, config.energy_clamp).exp() / config.temperature
        velocity = config.momentum * velocity - scale[:, None, None] * gradient
        actions = actions + velocity
    return Refinement(actions, velocity, energy.detach(), gradient.detach().flatten(1).norm(dim=1))


def slope_of(energy: Callable[[Tensor], Tensor], create_graph: bool = False) -> Slope:
    """Return the slope of an `energy` that maps (B, T, D) to (B,); it works under `no_grad` too.

    With `create_graph` the slope can be differentiated by the parameters of the energy.
    """

    def slope(actions: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            actions = actions if actions.requires_grad else actions.detach().requires_grad_()
            value = energy(actions)
            (gradient,) = torch.autograd.grad(value.sum(), actions, create_graph=create_graph)
        return (value, gradient) if create_graph else (value.detach(), gradient)

    return slope


def _functional_slope(net: EnergyTransformer, memory: Memory, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Do what `slope_of` with `create_graph` does, in a way that can be compiled and differentiated then."""

    def total(actions: Tensor) -> tuple[Tensor, Tensor]:
        value = net(actions, memory)
        return value.sum(), value

    gradient, value = torch.func.grad(total, has_aux=True)(actions)
    return value, gradient


def normalised(actions: Tensor) -> Tensor:
    """Scale each of `actions` (B, T, D) to a root mean square of 1."""
    return actions * (actions.square().mean(dim=(1, 2), keepdim=True) + _RMS_EPSILON).rsqrt()


class Ebt(nn.Module):
    """Refines chunks down an energy."""

    family = "ebt"
    Config = EbtConfig
    sampling_fields = ("steps_max", "min_gradient", "candidates")
    loss_fields = ("dropout", "train_steps", "train_steps_extra", "step_size_spread", "noise_max", "noise_min",
                   "detach", "truncate", "train_starts", "data_starts")  # fmt: skip

    def __init__(self, config: EbtConfig, action_dim: int, chunk_steps: int, context: ContextSpec) -> None:
        super().__init__()
        _check(config, context)
        self.config = config
        width, heads = config.width, config.heads
        self.tokens = ObservationTokens(context.features, context.obs_steps, width, config.observation_layers, heads)
        self.energy_net = EnergyTransformer(action_dim, chunk_steps, width, config.layers, heads, config.dropout)
        self._compiled: Callable[..., tuple[Tensor, Tensor]] | None = None

    def loss(self, actions: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the chunks after the steps of a refinement.

        Without gradients (a validation) the refinement is the same, and nothing is kept for a second derivative. An
        energy that is not finite makes the loss so.
        """
        config, memory = self.config, self.memory(context)
        steps = config.train_steps + _draw_count(config.train_steps_extra, generator)
        sizes = _draw_sizes(config, len(actions), generator).to(actions)
        trace = [begin(self._starts(actions, memory, generator))]
        for i in range(steps):
            noise = _noise_deviation(config, i, steps) * _draw_like(actions, generator)
            has_loss = not config.truncate or i == steps - 1
            create_graph = torch.is_grad_enabled() and (has_loss or not config.detach)
            trace.append(refine(self._slope(memory, create_graph), trace[-1], sizes, config, noise))
        compared = trace[-1:] if config.truncate else trace[1:]
        return torch.stack([nn.functional.mse_loss(state.actions, actions) for state in compared]).mean()

    @torch.no_grad()
    def sample(self, context: Context, noise: Tensor, generator: torch.Generator | None = None) -> Sampled:
        """Refine `noise`, and further candidates drawn from `generator`, and send out the lowest energies.

        Diagnostics: `energy` of the chunk, `gradient_norm` where its last step looked ahead, `steps` taken. With
        several candidates a row's draws depend on the rows before it. Raises InvalidValue on an energy or gradient that
        is not finite.
        """
        count = self.config.candidates
        memory = _repeated(self.memory(context), count)
        refined, steps = self._descend(_candidates(noise, count, generator), memory)
        energy = self.energy(refined.actions, memory)
        best = energy.view(-1, count).argmin(dim=1) + count * torch.arange(len(noise), device=noise.device)
        figures = {"energy": energy, "gradient_norm": refined.gradient_norm, "steps": steps}
        return Sampled(refined.actions[best], {name: figure[best] for name, figure in figures.items()})

    def memory(self, context: Context) -> Memory:
        """Encode an observation for `energy`, once for any number of chunks."""
        features = context.features
        # Where the image networks compute in bf16, the energy and its second derivative still need all of float32.
        with torch.autocast(features.device.type, enabled=False):
            return self.energy_net.memory(self.tokens(features.to(self.tokens.position)))

    def energy(self, actions: Tensor, memory: Memory) -> Tensor:
        """Return the energy (B,) of chunks (B, T, D), normalised as a step would."""
        return self.energy_net(normalised(actions) if self.config.normalise else actions, memory)

    def compile_training(self) -> None:
        """Compile what training spends its time on: in `loss`, energies with their gradients and those of these."""
        self._compiled = torch.compile(_functional_slope, dynamic=False)

    def _slope(self, memory: Memory, create_graph: bool = False) -> Slope:
        if self._compiled is not None and create_graph:
            return partial(self._compiled, self.energy_net, memory)
        return slope_of(partial(self.energy_net, memory=memory), create_graph)

    def _descend(self, start: Tensor, memory: Memory) -> tuple[Refinement, Tensor]:
        """Refine each row until it is flat or at the limit; return it and the steps it took (B,)."""
        config, slope = self.config, self._slope(memory)
        trace, steps = [begin(start)], start.new_zeros(len(start))
        moves, flat = torch.ones_like(steps, dtype=torch.bool), torch.zeros_like(steps, dtype=torch.bool)
        for _ in range(config.steps_max):
            after = refine(slope, trace[-1], config.step_size, config)
            trace.append(after if config.min_gradient == 0 else _chosen(moves, after, trace[-1]))
            steps = steps + moves
            moves = moves & ~flat
            flat = trace[-1].gradient_norm <= config.min_gradient
            if config.min_gradient > 0 and not moves.any():
                break
        # In one graph nothing can be looked at between; an engine looks at what comes out.
        if not torch.compiler.is_compiling():
            _require_finite(trace[1:])
        return trace[-1], steps

    def _starts(self, actions: Tensor, memory: Memory, generator: torch.Generator) -> Tensor:
        """Draw where the refinement of each chunk (B, T, D) begins."""
        count = self.config.train_starts
        start = _draw_like(actions.repeat_interleave(count, dim=0), generator).unflatten(0, (-1, count))
        place, share = torch.rand(2, len(actions), generator=generator)
        from_data = share < self.config.data_starts
        rows = (~from_data).nonzero().flatten().to(actions.device)
        nearest = torch.zeros(len(actions), dtype=torch.long, device=actions.device)
        if count > 1 and len(rows):
            kept = [(keys[rows], values[rows]) for keys, values in memory]
            nearest[rows] = self._nearest(start[rows], actions[rows], kept)
        chosen = start[torch.arange(len(actions), device=actions.device), nearest]
        return torch.lerp(chosen, actions, (place * from_data).to(actions)[:, None, None])

    def _nearest(self, starts: Tensor, actions: Tensor, memory: Memory) -> Tensor:
        """Tell which of `starts` (B, K, T, D) one step brings nearest to `actions` (B, T, D)."""
        count = starts.shape[1]
        slope = self._slope(_repeated(memory, count))
        refined = refine(slope, begin(starts.flatten(0, 1)), self.config.step_size, self.config).actions
        return (refined.unflatten(0, (-1, count)) - actions[:, None]).square().mean(dim=(2, 3)).argmin(dim=1)


def _chosen(rows: Tensor, after: Refinement, before: Refinement) -> Refinement:
    """Take `rows` (B,) of `after`, the others of `before`."""
    shapes = zip(after, before, strict=True)
    return Refinement(*(torch.where(rows.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in shapes))


def _candidates(noise: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Put `count` - 1 further draws behind each of `noise` (B, T, D): (B * count, T, D)."""
    if count == 1:
        return noise
    if generator is None:
        raise InvalidValue(f"ebt: {count} candidates need a generator to draw their noise from, got None")
    further = torch.randn((len(noise), count - 1, *noise.shape[1:]), generator=generator).to(noise.device)
    return torch.cat([noise[:, None], further], dim=1).flatten(0, 1)


def _repeated(memory: Memory, count: int) -> Memory:
    if count == 1:
        return memory
    return [(keys.repeat_interleave(count, 0), values.repeat_interleave(count, 0)) for keys, values in memory]


def _draw_like(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator).to(x)


def _draw_count(most: int, generator: torch.Generator) -> int:
    return int(torch.randint(most + 1, (), generator=generator))


def _draw_sizes(config: EbtConfig, count: int, generator: torch.Generator) -> Tensor:
    low, high = config.step_size / config.step_size_spread, config.step_size * config.step_size_spread
    return torch.lerp(torch.full((count,), low), torch.full((count,), high), torch.rand(count, generator=generator))


def _noise_deviation(config: EbtConfig, step: int, steps: int) -> float:
    return config.noise_min + (config.noise_max - config.noise_min) * (0.5 * (1 + math.cos(math.pi * step / steps)))


def _require_finite(trace: Sequence[Refinement]) -> None:
    """Look at all steps at once: on a GPU each look waits for it."""
    seen = torch.stack([torch.stack([state.energy, state.gradient_norm], dim=1) for state in trace])  # (steps, B, 2)
    if torch.isfinite(seen).all():
        return
    step, sample, figure = (~torch.isfinite(seen)).nonzero()[0].tolist()
    what = ("energy", "gradient norm")[figure]
    raise InvalidValue(
        f"ebt: {what} is {seen[step, sample, figure].item()} at refinement step {step + 1} of {len(trace)}, "
        f"sample {sample}: weights or observation are not finite, or method.step_size is too large"
    )


def _check(config: EbtConfig, context: ContextSpec) -> None:
    if context.language_tokens or context.goal_steps:
        found = f"{context.language_tokens} language tokens and {context.goal_steps} goal steps"
        raise ConfigError(f"ebt sees images and state only, got {found}")
    for name, (low, high) in _LIMITS.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value:g}, allowed {low:g}..{high:g}")
    if config.width < 4 or config.width % (2 * config.heads):
        raise ConfigError(f"width {config.width}: must be at least 4 and a multiple of twice the {config.heads} heads")
    if config.noise_min > config.noise_max:
        raise ConfigError(f"noise_min {config.noise_min:g} lies above noise_max {config.noise_max:g}")


_LEAST, _MOST = 1e-12, 1e12
_LIMITS = {
    **dict.fromkeys(("layers", "observation_layers", "heads", "train_steps", "train_starts"), (1, _MOST)),
    **dict.fromkeys(("steps_max", "candidates", "step_size_spread"), (1, _MOST)),
    **dict.fromkeys(("train_steps_extra", "noise_min", "noise_max", "min_gradient"), (0, _MOST)),
    **dict.fromkeys(("step_size", "temperature"), (_LEAST, _MOST)),
    "energy_clamp": (_LEAST, 80),  # exp(80) is the last round number that float32 holds
    **dict.fromkeys(("momentum", "dropout"), (0, 0.999)),
    "data_starts": (0, 1),
}
