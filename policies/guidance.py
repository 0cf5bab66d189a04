"""Real-time chunking (Black, Galliker and Levine 2025, arXiv 2506.07339): a chunk that goes on from committed actions.

While a policy computes, the robot executes what it was told before. A chunk that knows nothing of that may begin
anywhere; one that is pulled, while it is denoised, towards the committed actions goes on from them. This is inpainting
by pseudo-inverse guidance (Song et al. 2023): the error of the clean estimate, weighed by a soft mask, is taken back
through the network to the noisy chunk.

With x = signal * clean + noise * n, flow matching (signal t, noise 1 - t), DDPM (squares add to 1) and EDM (signal 1)
are one: their equation 2, which corrects the velocity of a flow, moves the clean estimate by noise * weight * gradient,
where weight = (signal^2 + noise^2) / (signal * noise).

Differences from the paper:
- The weight is limited only where noise prevails. There a network's gradient is unreliable and the weight unbounded;
  later the move is at most the error itself. Their five steps never reach the other limit; DDIM's last ones do, where
  it halved the effect.
- Steps that are over before the chunk arrives are set to what was committed: the gradient alone brought them near it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armature.errors import InvalidValue
from armature.types import CommittedActions

GUIDANCE_MAX = 5.0
"""Beta, the largest weight of guidance while noise prevails; the published value."""


class Guidance(NamedTuple):
    """What sampled chunks are pulled to, and how strongly."""

    target: Tensor
    """(B, T, D), normalised."""
    weights: Tensor
    """(B, T, 1) in [0, 1]."""


class Aligned(NamedTuple):
    """Committed actions at the steps of a chunk."""

    actions: NDArray[np.float64]
    """(T, D); arbitrary where the weight is 0."""
    weights: NDArray[np.float64]
    """(T,): 1 for steps that are over when the chunk arrives, falling to 0 where nothing is committed any more."""


def align(committed: CommittedActions, start_ns: int, period_ns: int, shape: tuple[int, int]) -> Aligned:
    """Read committed actions at the times of a chunk of `shape` (T, D): linear between them, the last held as executed.

    Raises InvalidValue where they are malformed, not finite or of another width.
    """
    actions, (steps, dim) = committed.actions, shape
    if actions.ndim != 2 or not len(actions) or actions.shape[1] != dim or not np.isfinite(actions).all():
        raise InvalidValue(f"committed actions {actions.shape}: must be finite, (n, {dim})")
    if committed.period_ns <= 0 or committed.delay_ns < 0:
        raise InvalidValue(f"committed actions: period {committed.period_ns} ns, delay {committed.delay_ns} ns")
    places = (start_ns - committed.start_ns + period_ns * np.arange(steps)) / committed.period_ns
    columns = [np.interp(places, np.arange(len(actions)), column) for column in actions.T]
    is_covered = (places >= 0) & (places < len(actions))
    overlap = int(np.flatnonzero(is_covered).max(initial=-1)) + 1
    delay = -(-committed.delay_ns // period_ns)
    return Aligned(np.stack(columns, axis=1), soft_mask(delay, overlap, steps) * is_covered)


def soft_mask(delay: int, overlap: int, steps: int) -> NDArray[np.float64]:
    """Return the weights (steps,) of their equation 5: 1 before `delay`, falling exponentially to 0 at `overlap`."""
    frozen, place = min(delay, overlap), np.arange(steps)
    falling = np.clip((overlap - place) / (overlap - frozen + 1), 0.0, 1.0)
    return np.where(place < frozen, 1.0, falling * np.expm1(falling) / np.expm1(1.0))


def guided(
    denoise: Callable[[Tensor], Tensor], noisy: Tensor, signal: float, noise: float, guidance: Guidance
) -> Tensor:
    """Return the clean estimate of `noisy` (B, T, D) that `denoise` gives, pulled towards the committed actions."""
    with torch.enable_grad():
        x = noisy.detach().requires_grad_()
        clean = denoise(x)
        error = guidance.weights * (guidance.target - clean.detach())
        (gradient,) = torch.autograd.grad(clean, x, error)
    pulled = clean.detach() + noise * _weight(signal, noise) * gradient
    return torch.where(guidance.weights == 1, guidance.target, pulled)


def _weight(signal: float, noise: float) -> float:
    if signal == 0:
        return GUIDANCE_MAX
    weight = (signal**2 + noise**2) / (signal * noise)
    return min(GUIDANCE_MAX, weight) if noise > signal else weight
