"""Diffusion over noise levels sigma, as in EDM (Karras et al. 2022, arXiv 2206.00364): what score-based methods share.

A noisy chunk is x = a + sigma n. The denoiser D(x, sigma) = c_skip x + c_out F(c_in x, log(sigma) / 4) wraps a network
F whose inputs and targets have unit variance at every level (their table 1). BESO (Reuss et al. 2023, arXiv 2304.02532)
and MoDE (Reuss et al. 2024, arXiv 2412.12953) train and sample with these formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from armature.errors import ConfigError, InvalidValue, unknown
from policies.guidance import Guidance, guided

SCHEDULES = ("exponential", "linear", "karras")
SAMPLERS = ("ddim", "euler_ancestral", "heun")
SAMPLING_FIELDS = tuple(f"edm.{name}" for name in ("first_sigma", "last_sigma", "schedule", "rho", "sampler"))
"""What of an EdmConfig, in the field `edm` of a method's, training does not depend on."""

Level = TypeVar("Level", float, Tensor)
Denoise = Callable[[Tensor, int], Tensor]
"""Maps noisy chunks (B, T, D) and the number of a step of the schedule to clean ones, D(x, sigmas[step])."""


@dataclass(frozen=True)
class EdmConfig:
    """Noise levels in training, and the way through them in sampling."""

    sigma_min: float = 0.005
    sigma_max: float = 1.0
    """Where sampling begins: actions fill [-1, 1], so 1 leaves traces of them in the noise, 80 leaves none."""
    sigma_data: float = 0.5
    """Deviation that the actions are taken to have, and the middle of the levels drawn in training."""
    sigma_scale: float = 0.5
    """Width of the log-logistic distribution of the levels drawn in training."""
    schedule: Literal["exponential", "linear", "karras"] = "exponential"
    rho: float = 5.0
    """Exponent of `karras`."""
    first_sigma: float | None = None
    """Where sampling begins, within the levels of training; unset: at `sigma_max`. A step from 80 finds no more than
    one from 5, from which the next is nearer."""
    last_sigma: float | None = None
    """Where the last step begins; unset: at `sigma_min`, where it finds next to no noise to take away. Of three steps
    none is wasted where the last begins at 0.05 to 0.1. A single step begins at the first."""
    sampler: Literal["ddim", "euler_ancestral", "heun"] = "ddim"
    """`ddim` is also the Euler step; `euler_ancestral` draws new noise; `heun` calls the network twice a step, and
    needs many steps or a lower `first_sigma`: in few steps from 80 its correction leaves noise behind."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("sigma_data", "sigma_scale", "sigma_min", "rho"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}, must be above 0")
        if not self.sigma_min < self.sigma_max < float("inf"):
            raise ConfigError(f"sigma_max is {self.sigma_max}, must be above sigma_min {self.sigma_min}")
        if not self.sigma_min <= self.last < self.first <= self.sigma_max:
            lasts = f"last_sigma {self.last} >= sigma_min {self.sigma_min}"
            raise ConfigError(f"must hold: sigma_max {self.sigma_max} >= first_sigma {self.first} > {lasts}")
        for name, valid in (("schedule", SCHEDULES), ("sampler", SAMPLERS)):
            if getattr(self, name) not in valid:
                raise ConfigError(unknown(name, getattr(self, name), valid))

    @property
    def first(self) -> float:
        """Level at which sampling begins."""
        return self.sigma_max if self.first_sigma is None else self.first_sigma

    @property
    def last(self) -> float:
        """Level at which its last step begins."""
        return self.sigma_min if self.last_sigma is None else self.last_sigma


class Noised(NamedTuple):
    """A training batch: what the network sees and what it has to answer."""

    inputs: Tensor
    """(B, T, D): c_in x."""
    levels: Tensor
    """(B,): log(sigma) / 4."""
    targets: Tensor
    """(B, T, D): (a - c_skip x) / c_out. The plain squared error to it weights that of D by 1 / c_out^2 (eq. 8)."""


def noised(actions: Tensor, config: EdmConfig, generator: torch.Generator) -> Noised:
    """Draw one level and one noise for every chunk of (B, T, D)."""
    sigma = draw_sigmas(len(actions), config, generator).to(actions.device)
    noise = torch.randn(actions.shape, generator=generator).to(actions.device)
    each = sigma[:, None, None]
    skip, out, into = scalings(each, config.sigma_data)
    x = actions + each * noise
    return Noised(into * x, sigma.log() / 4, (actions - skip * x) / out)


def draw_sigmas(count: int, config: EdmConfig, generator: torch.Generator) -> Tensor:
    """Draw levels (count,) whose log is logistic around log(sigma_data), cut to [sigma_min, sigma_max].

    By the inverse of the distribution function, so that no draw is rejected.
    """
    middle, bounds = np.log(config.sigma_data), np.log([config.sigma_min, config.sigma_max])
    low, high = 1 / (1 + np.exp((middle - bounds) / config.sigma_scale))
    share = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    return torch.exp(middle + config.sigma_scale * torch.logit(share)).float()


def scalings(sigma: Level, sigma_data: float) -> tuple[Level, Level, Level]:
    """Return c_skip, c_out and c_in (table 1)."""
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total**0.5, 1 / total**0.5


def sigmas(config: EdmConfig, steps: int) -> list[float]:
    """Return `steps` levels falling from the first to the last, and the 0 after them."""
    high, low, along = config.first, config.last, np.linspace(0, 1, steps)
    if config.schedule == "exponential":
        levels = np.exp((1 - along) * np.log(high) + along * np.log(low))
    elif config.schedule == "linear":
        levels = (1 - along) * high + along * low
    else:
        levels = ((1 - along) * high ** (1 / config.rho) + along * low ** (1 / config.rho)) ** config.rho
    return [*levels.tolist(), 0.0]


def sample(
    denoise: Denoise,
    noise: Tensor,
    levels: Sequence[float],
    sampler: Literal["ddim", "euler_ancestral", "heun"],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Turn standard normal `noise` (B, T, D) into chunks along `levels`, the last of which is 0.

    `euler_ancestral` draws from `generator`; InvalidValue without one.
    """
    if sampler == "euler_ancestral" and generator is None:
        raise InvalidValue("the sampler euler_ancestral draws noise: it needs a generator")
    x = levels[0] * noise
    for step in range(len(levels) - 1):
        clean = denoise(x, step)
        if sampler == "ddim":
            x = _euler(x, clean, levels[step], levels[step + 1])
        elif sampler == "heun":
            x = _heun(denoise, x, clean, levels, step)
        else:
            x = _ancestral(x, clean, levels[step], levels[step + 1], generator)
    return x


def going_on(denoise: Denoise, levels: Sequence[float], guidance: Guidance | None) -> Denoise:
    """Return the denoiser that is pulled towards committed actions; `denoise` itself where there are none."""
    if guidance is None:
        return denoise

    def pulled(noisy: Tensor, step: int) -> Tensor:
        return guided(lambda x: denoise(x, step), noisy, 1.0, levels[step], guidance)

    return pulled


def ancestral_split(sigma: float, following: float) -> tuple[float, float]:
    """Return the level to step down to, and the deviation of the noise that leads up again to `following`.

    Their squares add up to that of `following`; after Song et al. 2021, "Score-based generative modeling".
    """
    up = min(following, (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5)
    return (following**2 - up**2) ** 0.5, up


def _euler(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
    """Step along dx/dsigma = (x - D) / sigma. DDIM (Song et al. 2021) is the same step in this parameterisation."""
    return torch.lerp(clean, x, following / sigma)


def _ancestral(x: Tensor, clean: Tensor, sigma: float, following: float, generator: torch.Generator | None) -> Tensor:
    down, up = ancestral_split(sigma, following)
    x = _euler(x, clean, sigma, down)
    return x if up == 0 else x + up * torch.randn(x.shape, generator=generator).to(x.device)


def _heun(denoise: Denoise, x: Tensor, clean: Tensor, levels: Sequence[float], step: int) -> Tensor:
    """Correct the Euler step by the slope at its end (Karras et al. 2022, algorithm 1); into 0 it stays Euler."""
    sigma, following = levels[step], levels[step + 1]
    ahead = _euler(x, clean, sigma, following)
    if following == 0:
        return ahead
    slope = (x - clean) / sigma + (ahead - denoise(ahead, step + 1)) / following
    return x + (following - sigma) / 2 * slope
