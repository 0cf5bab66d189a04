"""The networks that a denoiser may be: each a config that builds it.

All are called alike: noisy chunks (B, T, D), diffusion steps (B,), observation features (B, obs_steps, F) to (B, T, D).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from armature.errors import ConfigError
from policies.context import ContextSpec
from policies.nets.dit import ConditionalDit
from policies.nets.mlp import ConditionalMlp
from policies.nets.transformer import ConditionalTransformer
from policies.nets.unet1d import ConditionalUnet1d


@dataclass(frozen=True)
class UnetConfig:
    """The 1-D U-Net; published: dims (256, 512, 1024), kernel 5."""

    dims: tuple[int, ...] = (256, 512, 1024)
    kernel: int = 5
    groups: int = 8
    step_dim: int = 128

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        if not self.dims:
            raise ConfigError("unet.dims is empty: name the channels of at least one level")
        _require_positive("unet", self, "kernel", "groups")
        if self.kernel % 2 == 0:
            raise ConfigError(f"unet.kernel {self.kernel}: must be odd")
        for width in self.dims:
            if width < 1 or width % self.groups:
                raise ConfigError(f"unet.dims {width}: must be a multiple of unet.groups {self.groups}, above 0")
        _check_step_dim("unet", self.step_dim)

    def build(self, action_dim: int, chunk_steps: int, context: ContextSpec) -> nn.Module:
        """Make the network; raise ConfigError on sizes that do not go together."""
        levels, multiple = len(self.dims), 2 ** (len(self.dims) - 1)
        if chunk_steps % multiple:
            raise ConfigError(f"chunk_steps {chunk_steps}: a U-Net of {levels} levels needs a multiple of {multiple}")
        condition = context.features * context.obs_steps
        return ConditionalUnet1d(action_dim, condition, self.dims, self.kernel, self.groups, self.step_dim)


@dataclass(frozen=True)
class TransformerConfig:
    """The encoder-decoder transformer; published: width 256, 8 layers, 4 heads, dropout 0.3."""

    width: int = 256
    layers: int = 8
    heads: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        _require_positive("transformer", self, "layers", "heads")
        if self.width < 4 or self.width % (2 * self.heads):
            raise ConfigError(
                f"transformer.width {self.width}: must be a multiple of twice the {self.heads} heads, and at least 4"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"transformer.dropout is {self.dropout}, must be in [0, 1)")

    def build(self, action_dim: int, chunk_steps: int, context: ContextSpec) -> nn.Module:
        """Make the network."""
        sizes = (chunk_steps, context.obs_steps, self.width, self.layers, self.heads, self.dropout)
        return ConditionalTransformer(action_dim, context.features, *sizes)


@dataclass(frozen=True)
class DitConfig:
    """The diffusion transformer; published (TRI's LBM study): width 768, 8 layers; the heads are those of DiT-B."""

    width: int = 768
    layers: int = 8
    heads: int = 12
    step_dim: int = 256

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        _require_positive("dit", self, "width", "layers", "heads")
        if self.width % self.heads:
            raise ConfigError(f"dit.width {self.width}: must be a multiple of the {self.heads} heads")
        _check_step_dim("dit", self.step_dim)

    def build(self, action_dim: int, chunk_steps: int, context: ContextSpec) -> nn.Module:
        """Make the network."""
        condition = context.features * context.obs_steps
        return ConditionalDit(action_dim, condition, chunk_steps, self.width, self.layers, self.heads, self.step_dim)


@dataclass(frozen=True)
class MlpConfig:
    """The residual network over the chunk as one vector; published: width 256, 3 blocks."""

    width: int = 256
    blocks: int = 3
    step_dim: int = 64

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        _require_positive("mlp", self, "width", "blocks")
        _check_step_dim("mlp", self.step_dim)

    def build(self, action_dim: int, chunk_steps: int, context: ContextSpec) -> nn.Module:
        """Make the network."""
        condition = context.features * context.obs_steps
        return ConditionalMlp(action_dim, condition, chunk_steps, self.width, self.blocks, self.step_dim)


def _require_positive(network: str, config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{network}.{name} is {getattr(config, name)}, must be at least 1")


def _check_step_dim(network: str, step_dim: int) -> None:
    if step_dim < 4 or step_dim % 2:
        raise ConfigError(f"{network}.step_dim {step_dim}: must be even and at least 4")
