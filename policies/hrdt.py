"""H-RDT (Bi et al. 2025, arXiv 2507.23523): a diffusion transformer that learns by flow matching, made to be moved.

A chunk is carried along the straight path x_t = t a + (1 - t) z from noise z to the action a; the network learns the
velocity a - z (the released code's sign; notes on the paper quote the opposite one, which does not go with a forward
Euler step). State token(s) and noisy actions attend to each other, to image tokens and to language tokens. State and
action adapters and the decoder belong to an embodiment and are exchanged for another one; the trunk stays.

Differences from the released code (HongzheBi/H_RDT, commit 8be02cb):
- The language mask stays boolean. There, in training it is cast to floating point and so becomes a bias of +1, with
  which padding is attended to.
- With `obs_steps` above one there is a state token per step and the image tokens of all steps lie side by side; the
  released model has one step.
- A policy without cameras has no attention to images; one without language none to language.
- The table of image positions begins with sines and cosines over all tokens, there with one row per camera: here the
  network is not told where the tokens of a camera end.
- Encoders of images and language are not part of the method: it takes their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from armature.errors import ConfigError, unknown
from policies.context import Context, ContextSpec
from policies.guidance import Guidance, guided
from policies.method import Sampled
from policies.nets.embeddings import SinusoidalEmbedding
from policies.nets.hrdt_block import ActionDecoder, BlockContext, HrdtBlock, adapter, initialise, sinusoids

TIME_MAX = 0.999
"""Training never looks at the clean action itself."""
TIME_FEATURES = 256
TimeDistribution = Literal["uniform", "logit_normal"]


@dataclass(frozen=True)
class HrdtConfig:
    """The size of the transformer, how times are drawn, and the steps of the sampler; the published values."""

    width: int = 2176
    layers: int = 16
    heads: int = 16
    kv_heads: int = 8
    """Heads of keys and values, shared by groups of query heads."""
    hidden: int = 5888
    """Width inside the gated feed-forward; published: 8/3 of the width, rounded up to a multiple of 256."""
    time_distribution: TimeDistribution = "uniform"
    """How the times of training are drawn in [0, 0.999): evenly, or mostly from the middle (sigmoid of a normal)."""
    noise_draws: int = 1
    """Noises and times drawn per observation in training: encoding images costs more than a small trunk."""
    sampling_steps: int = 5
    """Euler steps per chunk in inference."""
    last_time: float | None = None
    """Where the last of them begins; unset: all are of equal length, as published. Of two, the last does better from
    0.9 than from 0.5, with a tenth of the noise left in place of half (docs/policies.md). A single step begins at 0."""

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        if self.time_distribution not in (valid := get_args(TimeDistribution)):
            raise ConfigError(unknown("time_distribution", self.time_distribution, valid))


class Memory(NamedTuple):
    """What is computed once per chunk: state tokens (B, obs_steps, width), and each block's keys and values."""

    state: Tensor
    blocks: Sequence[BlockContext]


class Hrdt(nn.Module):
    """Learns the velocity of chunks between noise and action."""

    family = "hrdt"
    Config = HrdtConfig
    sampling_fields = ("sampling_steps", "last_time")
    loss_fields = ("time_distribution", "noise_draws")
    takes_prompt = True
    takes_committed = True
    embodiment_modules: ClassVar[tuple[str, ...]] = ("state_adapter", "action_adapter", "decoder")
    """What is made anew for another robot."""
    camera_modules: ClassVar[tuple[str, ...]] = ("image_position",)
    """What is made anew for another robot with other cameras."""

    def __init__(self, config: HrdtConfig, action_dim: int, chunk_steps: int, context: ContextSpec) -> None:
        super().__init__()
        _check(config, context)
        self.config, width = config, config.width
        images, words = context.obs_steps * context.image_tokens, context.language_tokens
        self.state_adapter = adapter(context.state_dim, width, width, width)
        self.action_adapter = adapter(action_dim, width, width, width)
        self.image_adapter = adapter(context.image_dim, width, width) if images else None
        self.language_adapter = adapter(context.language_dim, width, width) if words else None
        self.position = nn.Parameter(_positions((context.obs_steps, chunk_steps), width))
        self.image_position = nn.Parameter(sinusoids(images, width)) if images else None
        self.language_position = nn.Parameter(torch.zeros(words, width)) if words else None
        self.time = nn.Sequential(SinusoidalEmbedding(TIME_FEATURES), adapter(TIME_FEATURES, width, width))
        sizes = (width, config.heads, config.kv_heads, config.hidden)
        self.blocks = nn.ModuleList(
            HrdtBlock(*sizes, has_images=images > 0, has_language=words > 0) for _ in range(config.layers)
        )
        self.decoder = ActionDecoder(width, action_dim)
        self.apply(initialise)
        for layer in (self.time[1][0], self.time[1][-1]):
            nn.init.normal_(layer.weight, std=0.02)

    def loss(self, actions: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the velocity (Lipman et al. 2023, equation 23, without a least noise)."""
        draws = self.config.noise_draws
        actions, context = actions.repeat_interleave(draws, dim=0), context.repeated(draws)
        noise = torch.randn(actions.shape, generator=generator).to(actions.device)
        time = self._draw_times(len(actions), generator).to(actions.device)
        noisy = torch.lerp(noise, actions, time[:, None, None])
        return nn.functional.mse_loss(self.velocity(noisy, time, self.remember(context)), actions - noise)

    def sample(
        self,
        context: Context,
        noise: Tensor,
        generator: torch.Generator | None = None,
        guidance: Guidance | None = None,
    ) -> Sampled:
        """Follow the velocity from `noise` in Euler steps; nothing is drawn beyond `noise`."""
        memory, actions = self.remember(context), noise
        for begin, end in pairwise(euler_times(self.config.sampling_steps, self.config.last_time)):
            time = torch.full((len(noise),), begin, device=noise.device)
            if guidance is None:
                velocity = self.velocity(actions, time, memory)
            else:
                velocity = self._guided_velocity(actions, time, memory, guidance)
            actions = actions + (end - begin) * velocity
        return Sampled(actions, {})

    def _guided_velocity(self, noisy: Tensor, time: Tensor, memory: Memory, guidance: Guidance) -> Tensor:
        """Return the velocity that ends, along a straight path, at the guided estimate."""
        reached = time[0].item()
        left = 1 - reached
        clean = guided(lambda x: x + left * self.velocity(x, time, memory), noisy, reached, left, guidance)
        return (clean - noisy) / left

    def remember(self, context: Context) -> Memory:
        """Adapt what is observed and compute every block's keys and values of it."""
        state = self.state_adapter(context.state)
        images, language, mask = None, None, None
        if self.image_adapter is not None:
            images = self.image_adapter(context.images.flatten(1, 2)) + self.image_position
        if self.language_adapter is not None:
            language = self.language_adapter(context.language) + self.language_position
            mask = context.language_mask[:, None, None]
        return Memory(state, [block.context(images, language, mask) for block in self.blocks])

    def velocity(self, noisy: Tensor, time: Tensor, memory: Memory) -> Tensor:
        """Predict the velocity (B, T, D) of noisy chunks at times (B,) in [0, 1)."""
        embedded = self.time(time)
        x = torch.cat([memory.state, self.action_adapter(noisy)], dim=1) + self.position
        for block, context in zip(self.blocks, memory.blocks, strict=True):
            x = block(x, embedded, context)
        return self.decoder(x[:, -noisy.shape[1] :], embedded)

    def _draw_times(self, count: int, generator: torch.Generator) -> Tensor:
        if self.config.time_distribution == "uniform":
            return TIME_MAX * torch.rand(count, generator=generator)
        return TIME_MAX * torch.randn(count, generator=generator).sigmoid()


def euler_times(steps: int, last: float | None) -> list[float]:
    """Return where the Euler steps begin, evenly from 0 to `last`, and the 1 at which the last one ends."""
    last = 1 - 1 / steps if last is None else last
    return [*(last * k / max(steps - 1, 1) for k in range(steps)), 1.0]


def _positions(lengths: tuple[int, ...], width: int) -> Tensor:
    """Return the table (sum of lengths, width) whose first half tells the modality and second half the place in it."""
    modality = sinusoids(len(lengths), width // 2)
    rows = [
        torch.cat([row.expand(length, -1), sinusoids(length, width // 2)], dim=-1)
        for row, length in zip(modality, lengths, strict=True)
    ]
    return torch.cat(rows)


def _check(config: HrdtConfig, context: ContextSpec) -> None:
    for name in ("width", "layers", "heads", "kv_heads", "hidden", "noise_draws", "sampling_steps"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}, must be at least 1")
    if config.last_time is not None and not 0 < config.last_time < TIME_MAX:
        raise ConfigError(f"last_time is {config.last_time}, must be between 0 and {TIME_MAX}, where training ends")
    if config.width % config.heads or config.width % 4:
        raise ConfigError(f"width {config.width}: must be a multiple of 4 and of the {config.heads} heads")
    if config.heads % config.kv_heads:
        raise ConfigError(f"kv_heads {config.kv_heads}: must divide the {config.heads} heads")
    if context.goal_steps:
        raise ConfigError("hrdt takes no goal: choose another family or leave the goal out")
