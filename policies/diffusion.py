"""Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): a chunk of actions is denoised, given the observation.

Training adds the noise of 100 DDPM steps with the squared-cosine schedule; inference takes a few steps of DDIM, or of
DPM-Solver++, or the random ones of DDPM itself. The observation is encoded once per chunk. The chunk starts at the
latest observation: no past actions are predicted. The clean chunk is clipped to [-1, 1] at every step of every sampler.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from armature.errors import ConfigError, InvalidValue, unknown
from policies.context import Context, ContextSpec
from policies.guidance import Guidance, guided
from policies.method import Sampled
from policies.nets.denoisers import DitConfig, MlpConfig, TransformerConfig, UnetConfig

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    Scheduler = DDPMScheduler | DDIMScheduler | DPMSolverMultistepScheduler

Denoiser = Literal["unet", "transformer", "dit", "mlp"]
Prediction = Literal["epsilon", "sample", "v_prediction"]
Sampler = Literal["ddim", "ddpm", "dpm++"]
Spacing = Literal["leading", "trailing"]
_CHOICES = {
    "denoiser": get_args(Denoiser),
    "prediction": get_args(Prediction),
    "sampler": get_args(Sampler),
    "spacing": get_args(Spacing),
}


@dataclass(frozen=True)
class DiffusionConfig:
    """How the denoiser is built and how it samples."""

    denoiser: Denoiser = "unet"
    unet: UnetConfig = field(default_factory=UnetConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    dit: DitConfig = field(default_factory=DitConfig)
    mlp: MlpConfig = field(default_factory=MlpConfig)
    prediction: Prediction = "epsilon"
    """What the network predicts: the noise, the clean chunk (x0), or the velocity (Salimans and Ho 2022, section 4)."""
    noise_draws: int = 4
    """Noises and diffusion steps drawn per observation in training: encoding images costs more than denoising."""
    train_timesteps: int = 100
    """Diffusion steps of the DDPM in training."""
    sampler: Sampler = "ddim"
    """DDIM and DPM-Solver++ (second order) draw nothing but the first noise; DDPM draws noise at every step."""
    sampling_steps: int = 10
    """Steps of the sampler per chunk in inference, which is how often the network is called."""
    spacing: Spacing = "leading"
    """Where those steps lie: 10 of 100 at 90, 80, ..., 0 as published, or at 99, 89, ..., 9. Of few leading steps the
    first takes pure noise for a half-denoised chunk, which trailing ones do not (Lin et al. 2024, arXiv 2305.08891,
    section 3.3). A single trailing one is of no use to `epsilon`: that noise is noise says nothing of the chunk."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name, valid in _CHOICES.items():
            if getattr(self, name) not in valid:
                raise ConfigError(unknown(name, getattr(self, name), valid))


class Diffusion(nn.Module):
    """Denoises chunks by predicting the noise in them, or what is equivalent."""

    family = "diffusion"
    Config = DiffusionConfig
    sampling_fields = ("sampler", "sampling_steps", "spacing")
    loss_fields = ("noise_draws", "transformer.dropout")
    takes_committed = True

    def __init__(self, config: DiffusionConfig, action_dim: int, chunk_steps: int, context: ContextSpec) -> None:
        super().__init__()
        _check(config)
        self.config = config
        networks = {"unet": config.unet, "transformer": config.transformer, "dit": config.dit, "mlp": config.mlp}
        self.denoiser = networks[config.denoiser].build(action_dim, chunk_steps, context)
        self.noising, self.sampler = schedulers(config)

    def loss(self, actions: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the prediction (of the noise: Ho et al. 2020, equation 14)."""
        draws = self.config.noise_draws
        condition = context.features.repeat_interleave(draws, dim=0)  # (B * draws, obs_steps, F)
        actions = actions.repeat_interleave(draws, dim=0)
        noise = torch.randn(actions.shape, generator=generator).to(actions.device)
        step = torch.randint(self.config.train_timesteps, (len(noise),), generator=generator).to(noise.device)
        noisy = self.noising.add_noise(actions, noise, step)
        target = prediction_target(self.noising, actions, noise, step)
        return nn.functional.mse_loss(self.denoiser(noisy, step, condition), target)

    def sample(
        self,
        context: Context,
        noise: Tensor,
        generator: torch.Generator | None = None,
        guidance: Guidance | None = None,
    ) -> Sampled:
        """Denoise step by step; raise InvalidValue where the sampler draws and has no generator."""
        if self.config.sampler == "ddpm" and generator is None:
            raise InvalidValue("the sampler ddpm draws noise at every step: give it a generator")
        condition = context.features
        begin(self.sampler, self.config)
        actions = noise
        for step in self.sampler.timesteps.tolist():
            steps = torch.full((len(noise),), step, device=noise.device)
            if guidance is None:
                predicted = self.denoiser(actions, steps, condition)
            else:
                predicted = self._guided_prediction(actions, steps, condition, guidance)
            actions = self.sampler.step(predicted, step, actions, generator=generator).prev_sample
        return Sampled(actions, {})

    def _guided_prediction(self, noisy: Tensor, steps: Tensor, condition: Tensor, guidance: Guidance) -> Tensor:
        """Return what the network would have to predict for the guided estimate of the clean chunk."""
        kept = self.noising.alphas_cumprod[int(steps[0])].item()
        signal, noise = kept**0.5, (1 - kept) ** 0.5
        prediction = self.config.prediction

        def clean(x: Tensor) -> Tensor:
            return clean_of(prediction, self.denoiser(x, steps, condition), x, signal, noise)

        estimate = guided(clean, noisy, signal, noise, guidance)
        # Where there is next to no signal the estimate is far out of range, and its gradient too.
        is_pulled = guidance.weights.amax(dim=1, keepdim=True) > 0
        estimate = torch.where(is_pulled, estimate.clamp(-1, 1), estimate)
        return prediction_of(prediction, estimate, noisy, signal, noise)


def clean_of(prediction: str, predicted: Tensor, noisy: Tensor, signal: float, noise: float) -> Tensor:
    """Return the clean chunk in `noisy` = signal * clean + noise * n; inverse of `prediction_of`."""
    if prediction == "epsilon":
        return (noisy - noise * predicted) / signal
    return predicted if prediction == "sample" else signal * noisy - noise * predicted


def prediction_of(prediction: str, clean: Tensor, noisy: Tensor, signal: float, noise: float) -> Tensor:
    """Return the noise, the clean chunk or the velocity that go with a clean chunk."""
    if prediction == "epsilon":
        return (noisy - signal * clean) / noise
    return clean if prediction == "sample" else (signal * noisy - clean) / noise


def prediction_target(schedule: DDPMScheduler, actions: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """Return what the network is to predict from clean chunks with noise of diffusion step `step` (B,)."""
    if schedule.config.prediction_type == "epsilon":
        return noise
    if schedule.config.prediction_type == "sample":
        return actions
    return schedule.get_velocity(actions, noise, step)


def schedulers(config: DiffusionConfig) -> tuple[DDPMScheduler, Scheduler]:
    """Make the noise schedule of training and the sampler, which share every constant."""
    # Takes seconds to import: only where a diffusion policy is made.
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    constants: dict[str, Any] = {
        # By keyword: given by position, diffusers' own config forgets it.
        "num_train_timesteps": config.train_timesteps,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": config.prediction,
        "steps_offset": _stride(config) - 1 if config.spacing == "trailing" else 0,
    }
    noising = DDPMScheduler(**constants, clip_sample=True)
    if config.sampler == "ddim":
        # Song et al. 2021, equation 12 with sigma 0; the last step ends at the clean chunk.
        return noising, DDIMScheduler(**constants, clip_sample=True, set_alpha_to_one=True)
    if config.sampler == "ddpm":
        return noising, DDPMScheduler(**constants, clip_sample=True)
    # Lu et al. 2022, arXiv 2211.01095, algorithm 2. Thresholding with this maximum is the clipping of the others.
    return noising, DPMSolverMultistepScheduler(**constants, thresholding=True, sample_max_value=1.0)


def begin(sampler: Scheduler, config: DiffusionConfig) -> None:
    """Set a sampler to its first step, without memory of what it did before."""
    if config.sampler == "dpm++":
        # Its own spacing repeats steps when there are many, and then divides by zero: it takes those of the others.
        offset = sampler.config.steps_offset
        sampler.set_timesteps(timesteps=[k * _stride(config) + offset for k in reversed(range(config.sampling_steps))])
    else:
        sampler.set_timesteps(config.sampling_steps)


def _stride(config: DiffusionConfig) -> int:
    return config.train_timesteps // config.sampling_steps


def _check(config: DiffusionConfig) -> None:
    if config.noise_draws < 1:
        raise ConfigError(f"noise_draws is {config.noise_draws}, must be at least 1")
    steps, every = config.sampling_steps, config.train_timesteps
    if not 1 <= steps <= every:
        raise ConfigError(f"sampling_steps {steps}: allowed 1..{every}")
    reached = steps * _stride(config)
    if reached < 0.9 * every:
        # Steps lie a whole number of diffusion steps apart: 60 of 100 would be the lowest 60, far from pure noise.
        fitting = every // (_stride(config) + 1), every // _stride(config)
        raise ConfigError(
            f"sampling_steps {steps}: would cover {reached} of the {every} diffusion steps; {fitting[0]} or "
            f"{fitting[1]} cover them"
        )
