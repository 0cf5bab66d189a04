"""Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): a chunk of actions is denoised, given the observation.

Training predicts the noise of 100 DDPM steps with the squared-cosine schedule; inference takes a few DDIM steps. The
observation is encoded once per chunk. The chunk starts at the latest observation: no past actions are predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from armature.errors import ConfigError
from policies.context import Context, ContextSpec
from policies.method import Sampled
from policies.nets.transformer import ConditionalTransformer
from policies.nets.unet1d import ConditionalUnet1d


@dataclass(frozen=True)
class UnetConfig:
    """The 1-D U-Net; published: dims (256, 512, 1024), kernel 5."""

    dims: tuple[int, ...] = (256, 512, 1024)
    kernel: int = 5
    groups: int = 8
    step_dim: int = 128


@dataclass(frozen=True)
class TransformerConfig:
    """The encoder-decoder transformer; published: width 256, 8 layers, 4 heads, dropout 0.3."""

    width: int = 256
    layers: int = 8
    heads: int = 4
    dropout: float = 0.1


@dataclass(frozen=True)
class DiffusionConfig:
    """How the denoiser is built and how it samples."""

    denoiser: Literal["unet", "transformer"] = "unet"
    unet: UnetConfig = field(default_factory=UnetConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    noise_draws: int = 4
    """Noises and diffusion steps drawn per observation in training: encoding images costs more than denoising."""
    train_timesteps: int = 100
    """Diffusion steps of the DDPM in training."""
    sampling_steps: int = 10
    """DDIM steps per chunk in inference."""


class Diffusion(nn.Module):
    """Denoises chunks by predicting the noise in them."""

    family = "diffusion"
    Config = DiffusionConfig

    def __init__(self, config: DiffusionConfig, action_dim: int, chunk_steps: int, context: ContextSpec) -> None:
        super().__init__()
        _check(config, chunk_steps)
        self.config = config
        self.denoiser = _denoiser(config, action_dim, chunk_steps, context)
        self.ddpm, self.ddim = schedulers(config)

    def loss(self, actions: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the predicted noise (Ho et al. 2020, equation 14)."""
        draws = self.config.noise_draws
        condition = context.features.repeat_interleave(draws, dim=0)  # (B * draws, obs_steps, F)
        actions = actions.repeat_interleave(draws, dim=0)
        noise = torch.randn(actions.shape, generator=generator).to(actions.device)
        step = torch.randint(self.config.train_timesteps, (len(noise),), generator=generator).to(noise.device)
        noisy = self.ddpm.add_noise(actions, noise, step)
        return nn.functional.mse_loss(self.denoiser(noisy, step, condition), noise)

    def sample(self, context: Context, noise: Tensor, generator: torch.Generator | None = None) -> Sampled:
        """Denoise by DDIM, which draws nothing beyond `noise` (Song et al. 2021, equation 12 with sigma 0)."""
        condition = context.features
        self.ddim.set_timesteps(self.config.sampling_steps)
        actions = noise
        for step in self.ddim.timesteps.tolist():
            steps = torch.full((len(noise),), step, device=noise.device)
            actions = self.ddim.step(self.denoiser(actions, steps, condition), step, actions).prev_sample
        return Sampled(actions, {})


def schedulers(config: DiffusionConfig) -> tuple[DDPMScheduler, DDIMScheduler]:
    """Make the noise schedules of training and of sampling, which share every constant."""
    constants: dict[str, Any] = {
        # By keyword: given by position, diffusers' own config forgets it.
        "num_train_timesteps": config.train_timesteps,
        "beta_schedule": "squaredcos_cap_v2",
        "clip_sample": True,
        "prediction_type": "epsilon",
    }
    return DDPMScheduler(**constants), DDIMScheduler(**constants, set_alpha_to_one=True, steps_offset=0)


def _denoiser(config: DiffusionConfig, action_dim: int, chunk_steps: int, context: ContextSpec) -> nn.Module:
    if config.denoiser == "unet":
        unet = config.unet
        condition = context.features * context.obs_steps
        return ConditionalUnet1d(action_dim, condition, unet.dims, unet.kernel, unet.groups, unet.step_dim)
    net = config.transformer
    sizes = (chunk_steps, context.obs_steps, net.width, net.layers, net.heads, net.dropout)
    return ConditionalTransformer(action_dim, context.features, *sizes)


def _check(config: DiffusionConfig, chunk_steps: int) -> None:
    if not 1 <= config.sampling_steps <= config.train_timesteps:
        raise ConfigError(f"sampling_steps {config.sampling_steps}: allowed 1..{config.train_timesteps}")
    if config.noise_draws < 1:
        raise ConfigError(f"noise_draws is {config.noise_draws}, must be at least 1")
    if config.denoiser == "unet":
        _check_unet(config.unet, chunk_steps)
    elif config.transformer.width % (2 * config.transformer.heads):
        width, heads = config.transformer.width, config.transformer.heads
        raise ConfigError(f"transformer.width {width}: must be a multiple of twice the {heads} heads")


def _check_unet(unet: UnetConfig, chunk_steps: int) -> None:
    levels = len(unet.dims)
    if levels == 0:
        raise ConfigError("unet.dims is empty: name the channels of at least one level")
    multiple = 2 ** (levels - 1)
    if chunk_steps % multiple:
        raise ConfigError(f"chunk_steps {chunk_steps}: a U-Net of {levels} levels needs a multiple of {multiple}")
    if unet.kernel % 2 == 0:
        raise ConfigError(f"unet.kernel {unet.kernel}: must be odd")
    for width in unet.dims:
        if width % unet.groups:
            raise ConfigError(f"unet.dims {width}: must be a multiple of unet.groups {unet.groups}")
