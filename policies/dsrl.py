"""DSRL: a frozen diffusion or flow policy is steered by the noise that it starts from (Wagenmaker et al. 2025).

Steering Your Diffusion Policy with Latent Space Reinforcement Learning, arXiv 2506.15799, the noise-aliased variant.
What a noise makes the robot do is a matter of the frozen policy, so the value of a noise is that of the chunk it turns
into. One ensemble of critics learns the values of chunks of actions, from whoever executed them, demonstrators too; a
second one is distilled from it and values noises; an actor chooses the noise that the second values most.

One transition is one chunk of k executed steps: the rewards of the steps are discounted one by one and the value after
it by discount ** k; it is 0 after the end, and estimated where a time limit cut the episode. The chunk that was asked
for is what is valued: the safety gate is a part of the world, as it is when a chunk is chosen.

The actor draws from a distribution, as in SAC, since the policy by itself does: before any update its noises are nearly
those of the policy (deviation 0.94 within +-1.5), where a deterministic actor would begin by sending every episode
down one untried path. The entropy is not part of the values, which so stay within what a single reward allows.

Unlike the released code:
- `w = magnitude * tanh(.)`: the bound acts. There it does not: noises stay within +-1, whatever was configured.
- A time limit is no end, and nothing is executed after the end of an episode.
- What a noise turns into never changes. So it is asked once: each observation comes with `draws` noises and their
  chunks, from which the second critics are distilled ever after, where the published method denoises for every step of
  learning. The noises are those of the policy, clipped to the bound; one is the actor's own where it acted.
- The value after a chunk is that of the actor's noise by the second critics; for `decode_rows` of a batch by the first
  ones, of the chunk it turns into, as published for all, which takes a CPU core far longer than the update itself.
- The actor acts in a `share` of the chunks, which the guard of `residual_guard` sets; the values are those of this
  mixture of actor and policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from armature.errors import ConfigError
from policies.chunk_replay import ChunkBatch, ChunkLayout
from policies.nets.ensemble import EnsembleMlp
from policies.nets.target_network import copy_weights, follow, frozen_copy

Decode = Callable[[Tensor, Tensor], Tensor]
"""From observations (B, O) and noises (B, W) to the normalised actions that are executed, (B, A)."""
LOG_STD = -5.0, 1.0
"""Bounds of the actor's deviation, before tanh."""


@dataclass(frozen=True)
class DsrlConfig:
    """Actor, critics and their updates."""

    hidden: tuple[int, ...] = (256, 256)
    magnitude: float = 1.5
    """The largest element of a noise; the policy was trained with a deviation of 1."""
    repeat_noise: bool = False
    """One noise (D,) for all steps of a chunk, not one each. Easier to learn, but no noise that the policy has seen:
    in joint space others had no success with it (dsrl_pi0, issue 9)."""
    critics: int = 5
    critics_of_target: int = 2
    """So many, drawn anew for every update, of which the lowest is the target."""
    draws: int = 4
    """Noises that are decoded for each observation, once."""
    distil_steps: int = 1
    """Steps of the noise critics for each of the others; they call no denoiser."""
    decode_rows: int = 0
    """Rows of a batch whose next noise is denoised for its value. Each costs as much as a chunk on the robot, for every
    update; as published: all of the batch, which wants a GPU."""
    discount: float = 0.99
    """Per step of the robot."""
    value_min: float = 0.0
    value_max: float = 1.0
    """Bounds of the targets: with one reward of 1 at success, no value lies outside 0 to 1."""
    critic_lr: float = 3e-4
    actor_lr: float = 3e-4
    temperature_lr: float = 3e-4
    temperature_first: float = 0.1
    """Weight of the entropy, which adapts itself."""
    entropy_target: float = 0.0
    """Of one element of the noise as a share of the magnitude; the most is log 2, of a uniform one."""
    grad_norm_max: float = 1.0
    polyak: float = 0.005

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that cannot be."""
        for name in ("magnitude", "critic_lr", "actor_lr", "temperature_lr", "temperature_first", "grad_norm_max"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"dsrl.{name} is {getattr(self, name)}, must be above 0 and finite")
        for name in ("draws", "distil_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"dsrl.{name} is {getattr(self, name)}, must be at least 1")
        if not 1 <= self.critics_of_target <= self.critics:
            raise ConfigError(
                f"dsrl.critics_of_target is {self.critics_of_target}, must be 1 to {self.critics} critics"
            )
        for name in ("discount", "polyak"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"dsrl.{name} is {getattr(self, name)}, must be in (0, 1]")
        if self.decode_rows < 0:
            raise ConfigError(f"dsrl.decode_rows is {self.decode_rows}, must not be negative")
        if not self.entropy_target < math.log(2):
            raise ConfigError(f"dsrl.entropy_target is {self.entropy_target}, must be below log 2, the most there is")


class NoiseActor(nn.Module):
    """Answers an observation with a distribution of noises within +-magnitude."""

    def __init__(self, observation_dim: int, noise_dim: int, hidden: tuple[int, ...], magnitude: float) -> None:
        super().__init__()
        self.magnitude = magnitude
        layers: list[nn.Module] = []
        inputs = observation_dim
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU()]
            inputs = width
        last = nn.Linear(inputs, 2 * noise_dim)
        # Mean 0 and deviation 1: nearly what the policy draws by itself.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the deviation, (B, W) each, before tanh."""
        mean, log_std = self.layers(observation).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD)

    def mode(self, observation: Tensor) -> Tensor:
        """Return the noises (B, W) in the middle."""
        return self.magnitude * self(observation)[0].tanh()

    def draw(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw noises (B, W); return them and the mean log density (B,) of their elements as a share of magnitude."""
        mean, log_std = self(observation)
        normal = torch.randn(mean.shape, generator=generator).to(mean.device)
        latent = mean + log_std.exp() * normal
        log_slope = 2.0 * (math.log(2.0) - latent - softplus(-2.0 * latent))
        log_density = -0.5 * normal.square() - log_std - 0.5 * math.log(2.0 * math.pi) - log_slope
        return self.magnitude * latent.tanh(), log_density.mean(dim=-1)


class Dsrl(nn.Module):
    """Actor and both ensembles of critics with their updates."""

    keeps = True

    def __init__(self, config: DsrlConfig, layout: ChunkLayout, decode: Decode, seed: int = 0) -> None:
        super().__init__()
        self.config, self._decode = config, decode
        self.generator = torch.Generator().manual_seed(seed)
        seen, hidden = layout.observation_dim, config.hidden
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = NoiseActor(seen, layout.noise_dim, hidden, config.magnitude)
            self.critics = EnsembleMlp(config.critics, seen + layout.action_dim, hidden)
            self.noise_critics = EnsembleMlp(config.critics, seen + layout.noise_dim, hidden)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature_first)))
        self.target_critics, self.target_noise_critics = frozen_copy(self.critics), frozen_copy(self.noise_critics)
        self._good_actor = frozen_copy(self.actor)
        rates = {"critics": config.critic_lr, "noise_critics": config.critic_lr, "actor": config.actor_lr}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(getattr(self, name).parameters(), lr=lr, weight_decay=0.0, fused=True)
            for name, lr in rates.items()
        }
        self.optimizers["temperature"] = torch.optim.Adam([self.log_temperature], lr=config.temperature_lr)

    @torch.no_grad()
    def act(self, observation: Tensor, *, explore: bool = False) -> Tensor:
        """Return noises (B, W) for observations (B, O), drawn where the actor is to explore."""
        return self.actor.draw(observation, self.generator)[0] if explore else self.actor.mode(observation)

    def clip(self, noise: Tensor) -> Tensor:
        """Return noises within what the actor may choose."""
        return noise.clamp(-self.config.magnitude, self.config.magnitude)

    def update_critics(self, batch: ChunkBatch, share: float = 1.0) -> dict[str, float]:
        """Take one step of the critics of chunks, with the actor acting in a `share` of those that follow."""
        targets = self.targets(batch, share)
        values = self.critics(torch.cat([batch.observation, batch.action], dim=-1))
        # Each critic by itself: the sum, so that the step of one does not depend on how many there are.
        loss = (values - targets).square().mean(dim=1).sum()
        norm = self._step("critics", loss)
        follow(self.target_critics, self.critics, self.config.polyak)
        return _figures(critic_loss=loss / self.config.critics, critic_norm=norm, value=values.mean())

    def distil(self, batch: ChunkBatch) -> dict[str, float]:
        """Take a step of the noise critics towards what the others, one by one, say of what the noises turn into."""
        drawn = torch.randint(batch.noises.shape[1], (len(batch.noises),), generator=self.generator)
        each = torch.arange(len(drawn)), drawn
        with torch.no_grad():
            targets = self.critics(torch.cat([batch.observation, batch.chunks[each]], dim=-1))
        values = self.noise_critics(torch.cat([batch.observation, batch.noises[each]], dim=-1))
        loss = (values - targets).square().mean(dim=1).sum()
        norm = self._step("noise_critics", loss)
        follow(self.target_noise_critics, self.noise_critics, self.config.polyak)
        return _figures(distil_loss=loss / self.config.critics, distil_norm=norm)

    def update_actor(self, batch: ChunkBatch) -> dict[str, float]:
        """Take one step towards the noises that all noise critics together value most, and adapt the temperature."""
        noise, log_density = self.actor.draw(batch.observation, self.generator)
        value = self.noise_critics(torch.cat([batch.observation, noise], dim=-1)).mean()
        temperature = self.log_temperature.exp().detach()
        norm = self._step("actor", temperature * log_density.mean() - value)
        entropy = -log_density.detach().mean()
        optimizer = self.optimizers["temperature"]
        optimizer.zero_grad(set_to_none=True)
        (self.log_temperature * (entropy - self.config.entropy_target)).backward()
        optimizer.step()
        return _figures(actor_value=value, actor_norm=norm, entropy=entropy, temperature=temperature)

    def keep_actor(self) -> None:
        """Remember the actor as one that did well."""
        copy_weights(self._good_actor, self.actor)

    def fall_back(self) -> None:
        """Return to the actor that did well: before any was remembered, to one that draws as the policy does."""
        copy_weights(self.actor, self._good_actor)
        # Its moments point to where it has just come from.
        self.optimizers["actor"].state.clear()

    @torch.no_grad()
    def targets(self, batch: ChunkBatch, share: float = 1.0) -> Tensor:
        """Return what the critics are to expect, (B,): the rewards of a chunk, and the lower of some critics after."""
        config, seen = self.config, batch.next_observation
        chosen = torch.randperm(config.critics, generator=self.generator)[: config.critics_of_target]
        after = self.target_critics(torch.cat([seen, batch.next_base], dim=-1), chosen).amin(dim=0)
        if share > 0:
            after = torch.lerp(after, self._steered(seen, chosen), share)
        return (batch.reward + batch.discount * after).clamp(config.value_min, config.value_max)

    def _steered(self, seen: Tensor, chosen: Tensor) -> Tensor:
        """Return the values (B,) of following the actor's noises."""
        noise, _ = self.actor.draw(seen, self.generator)
        values = self.target_noise_critics(torch.cat([seen, noise], dim=-1), chosen).amin(dim=0)
        if rows := min(self.config.decode_rows, len(seen)):
            executed = self._decode(seen[:rows], noise[:rows])
            values[:rows] = self.target_critics(torch.cat([seen[:rows], executed], dim=-1), chosen).amin(dim=0)
        return values

    def _step(self, name: str, loss: Tensor) -> Tensor:
        network, optimizer = getattr(self, name), self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        # The actor's loss reaches through the critics, whose own gradients nobody needs.
        loss.backward(inputs=list(network.parameters()))
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.config.grad_norm_max)
        optimizer.step()
        return norm


def _figures(**figures: Tensor) -> dict[str, float]:
    return {name: float(figure.detach()) for name, figure in figures.items()}
