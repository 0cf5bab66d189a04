"""Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): a chunk of actions is denoised, given the observation.

Training predicts the noise of 100 DDPM steps with the squared-cosine schedule; inference takes a few DDIM steps. The
observation is encoded once per chunk. The chunk starts at the latest observation: no past actions are predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from armature.errors import ConfigError, InvalidValue
from armature.normalizer import Normalizer
from armature.spec import GRIPPER_OPENING, JOINT_POSITION, RobotSpec
from armature.transforms import to_absolute
from armature.types import ActionChunk, Observation
from policies.nets.affine import AffineLayer
from policies.nets.observation import ObservationEncoder, VisionConfig
from policies.nets.transformer import ConditionalTransformer
from policies.nets.unet1d import ConditionalUnet1d

ACTION = "action"


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
    """What a diffusion policy sees, how it is built and how it samples."""

    observations: tuple[str, ...] = ("camera/scene", "camera/wrist", JOINT_POSITION, GRIPPER_OPENING)
    """Names of the arrays it sees, of those that the robot's spec offers."""
    obs_steps: int = 1
    """Aligned steps of history, the present one included."""
    chunk_steps: int = 16
    """Actions predicted per chunk; the first is due at the latest observation."""
    relative_actions: bool = False
    """Predict joint targets relative to the joint positions of the latest observation [rad]."""
    denoiser: Literal["unet", "transformer"] = "unet"
    unet: UnetConfig = field(default_factory=UnetConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    noise_draws: int = 4
    """Noises and diffusion steps drawn per observation in training: encoding images costs more than denoising."""
    vector_noise: float = 0.0
    """Deviation of the noise added to vector observations in training, in normalised units (their range is 2)."""
    train_timesteps: int = 100
    """Diffusion steps of the DDPM in training."""
    sampling_steps: int = 10
    """DDIM steps per chunk in inference."""


class DiffusionPolicy(nn.Module):
    """A policy for the robot `spec`, which is narrowed to the observations that the config names."""

    family = "diffusion"
    Config = DiffusionConfig

    def __init__(self, config: DiffusionConfig, spec: RobotSpec, normalizer: Normalizer) -> None:
        super().__init__()
        self.spec = spec.select(config.observations)
        self.relative_part = relative_part(config, self.spec)
        _check(config)
        self.config, self.normalizer = config, normalizer
        self.obs_steps, self.policy_id = config.obs_steps, self.family
        self.encoder = ObservationEncoder(self.spec.observation, config.vision, normalizer, config.vector_noise)
        self.denoiser = _denoiser(config, self.spec.action.dim, self.encoder.features)
        self.action_layer = AffineLayer(normalizer.affine(ACTION))
        self.ddpm, self.ddim = schedulers(config)
        self._sequence = 0
        # Noise is drawn on the CPU whatever the device, so that a seed means the same everywhere.
        self._generator = torch.Generator()

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the predicted noise (Ho et al. 2020, equation 14).

        `batch` holds observations (B, obs_steps, *shape) and "action" (B, chunk_steps, D) in physical units, relative
        where the config says so. In training mode observations are augmented. All draws come from `generator`.
        """
        condition = self.encoder(batch, generator if self.training else None)
        draws = self.config.noise_draws
        condition = condition.repeat_interleave(draws, dim=0)  # (B * draws, obs_steps, F)
        action_n = self.action_layer(batch[ACTION]).repeat_interleave(draws, dim=0)
        noise = torch.randn(action_n.shape, generator=generator).to(action_n.device)
        step = torch.randint(self.config.train_timesteps, (len(noise),), generator=generator).to(noise.device)
        noisy = self.ddpm.add_noise(action_n, noise, step)
        return nn.functional.mse_loss(self.denoiser(noisy, step, condition), noise)

    @torch.inference_mode()
    def sample(self, values: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        """Denoise `noise` (B, chunk_steps, D) into actions in physical units; every row on its own."""
        condition = self.encoder(values)
        self.ddim.set_timesteps(self.config.sampling_steps)
        action_n = noise
        for step in self.ddim.timesteps.tolist():
            steps = torch.full((len(noise),), step, device=noise.device)
            action_n = self.ddim.step(self.denoiser(action_n, steps, condition), step, action_n).prev_sample
        return self.action_layer.invert(action_n)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; the same seed gives the same chunks for the same observations."""
        self._sequence = 0
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def infer(self, observation: Observation) -> ActionChunk:
        """Answer one observation with (chunk_steps, D) actions; raise InvalidValue when it does not fit the spec."""
        values = self._checked(observation)
        shape = (1, self.config.chunk_steps, self.spec.action.dim)
        device = self.action_layer.scale.device
        noise = torch.randn(shape, generator=self._generator).to(device)
        batch = {name: torch.from_numpy(value)[None].to(device) for name, value in values.items()}
        actions = self.sample(batch, noise)[0].double().cpu().numpy()
        if self.relative_part is not None:
            actions = to_absolute(actions, values[JOINT_POSITION][-1], self.relative_part)
        self._sequence += 1
        stamp_ns, period_ns = observation.stamp_ns, self.spec.action.period_ns
        return ActionChunk(stamp_ns, stamp_ns, period_ns, actions, self.policy_id, self._sequence)

    def _checked(self, observation: Observation) -> dict[str, NDArray[Any]]:
        values: dict[str, NDArray[Any]] = {}
        for array in self.spec.observation:
            if array.name not in observation.values:
                raise InvalidValue(f"observation lacks {array.name}; it holds {', '.join(observation.values)}")
            value = observation.values[array.name]
            if len(value) != self.obs_steps:
                raise InvalidValue(f"{array.name}: {len(value)} steps, {self.policy_id} needs {self.obs_steps}")
            for step in value:
                array.validate(step)
            values[array.name] = np.array(value)
        return values


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


def relative_part(config: DiffusionConfig, spec: RobotSpec) -> slice | None:
    """Return the elements of the action that are predicted relative to the joint positions, None for none."""
    if not config.relative_actions:
        return None
    if spec.action.kind != "joint_position" or JOINT_POSITION not in spec.observation.names:
        observed = ", ".join(spec.observation.names)
        raise ConfigError(
            f"relative_actions needs a joint_position action and {JOINT_POSITION} among the observations, "
            f"got {spec.action.kind} and {observed}"
        )
    return spec.action.slice_of(JOINT_POSITION)


def _denoiser(config: DiffusionConfig, action_dim: int, features: int) -> nn.Module:
    if config.denoiser == "unet":
        unet = config.unet
        condition = features * config.obs_steps
        return ConditionalUnet1d(action_dim, condition, unet.dims, unet.kernel, unet.groups, unet.step_dim)
    net = config.transformer
    sizes = (config.chunk_steps, config.obs_steps, net.width, net.layers, net.heads, net.dropout)
    return ConditionalTransformer(action_dim, features, *sizes)


def _check(config: DiffusionConfig) -> None:
    if not 1 <= config.sampling_steps <= config.train_timesteps:
        raise ConfigError(f"sampling_steps {config.sampling_steps}: allowed 1..{config.train_timesteps}")
    for name in ("obs_steps", "chunk_steps", "noise_draws"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}, must be at least 1")
    if config.denoiser == "unet":
        _check_unet(config.unet, config.chunk_steps)
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
