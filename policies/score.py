"""Score-based policy for goals, after BESO (Reuss et al. 2023, arXiv 2304.02532), on chunks of actions.

A transformer over [noise level, goal, observations, actions] is the network of an EDM denoiser (`policies.edm`);
three sampling steps are enough. Trained with some goals left out, it can be guided (Ho and Salimans 2022):
D = D(no goal) + guidance (D(goal) - D(no goal)). "No goal" is a goal of zeros.

Differences from the paper and its released code:
- It predicts a chunk that begins at the latest observation, as the authors' own port to Diffusion Policy does. The
  paper predicts the one action of each of the last T states, and feeds past actions, which training had noised,
  clean.
- Attention is not causal unless asked for: behind the published mask an action's denoiser ignores later actions, which
  say more of the mode where trajectories part slowly, so that each action chooses for itself. On chunks that part to
  either side by 0.6, sampled actions are 0.17 off the nearer side with the mask and 0.03 without (10 steps).
- A goal is left out for a whole sample, as in classifier-free guidance. The code zeroes each element of a goal on its
  own, and marks that as unfinished.
- Where no goal is left after the chunk, it is the episode's last observation; the code takes zeros, the mark of "none".
- Every token has its own row of the position table, where an action shares that of its state, and goals have their own
  embedding: an observation token may hold image features beside the state, of which alone goals are made.
- AdamW's rate falls by the cosine of this room instead of by 1 % every 100 steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from armature.errors import ConfigError
from policies.context import Context, ContextSpec
from policies.edm import SAMPLING_FIELDS, EdmConfig, going_on, noised, sample, scalings, sigmas
from policies.guidance import Guidance
from policies.method import Sampled
from policies.nets.attention import Attention


@dataclass(frozen=True)
class ScoreConfig:
    """How the denoiser is built and how it samples; published: width 360, 6 layers, 6 heads (Franka kitchen)."""

    width: int = 360
    layers: int = 6
    heads: int = 6
    attention_dropout: float = 0.3
    residual_dropout: float = 0.0
    causal: bool = False
    """Let an action see only those before it, as published."""
    goal_dropout: float = 0.1
    """Share of the samples that are trained without their goal; guidance needs some."""
    guidance: float = 1.0
    """1 is the plain conditional policy, and costs half of any other value; published: 1.5, no better than 1."""
    noise_draws: int = 1
    """Noises drawn per observation in training: encoding images costs more than denoising."""
    sampling_steps: int = 3
    edm: EdmConfig = field(default_factory=EdmConfig)


class Score(nn.Module):
    """Denoises chunks along a few noise levels, towards a goal where the policy has one."""

    family = "score"
    Config = ScoreConfig
    sampling_fields = ("sampling_steps", "guidance", *SAMPLING_FIELDS)
    loss_fields = ("attention_dropout", "residual_dropout", "goal_dropout", "noise_draws", "edm.sigma_scale")
    takes_goal = True
    takes_committed = True

    def __init__(self, config: ScoreConfig, action_dim: int, chunk_steps: int, context: ContextSpec) -> None:
        super().__init__()
        _check(config, context)
        self.config = config
        self.is_guided = context.goal_steps > 0 and config.guidance != 1.0
        self.network = ScoreTransformer(config, action_dim, chunk_steps, context)

    def loss(self, actions: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the network's answer (Karras et al. 2022, equation 8)."""
        draws = self.config.noise_draws
        context = self._some_goals(context.repeated(draws), generator)
        batch = noised(actions.repeat_interleave(draws, dim=0), self.config.edm, generator)
        predicted = self.network(batch.inputs, batch.levels, self.network.condition(context))
        return nn.functional.mse_loss(predicted, batch.targets)

    def sample(
        self,
        context: Context,
        noise: Tensor,
        generator: torch.Generator | None = None,
        guidance: Guidance | None = None,
    ) -> Sampled:
        """Denoise `noise`, and cut the actions to the range of the training data."""
        levels = sigmas(self.config.edm, self.config.sampling_steps)
        condition = self.network.condition(context)
        if self.is_guided:
            condition = torch.cat([condition, self.network.condition(_without_goal(context))])

        def denoise(noisy: Tensor, step: int) -> Tensor:
            return self._denoised(noisy, levels[step], condition)

        denoise = going_on(denoise, levels, guidance)
        return Sampled(sample(denoise, noise, levels, self.config.edm.sampler, generator).clamp(-1, 1), {})

    def _denoised(self, noisy: Tensor, sigma: float, condition: Tensor) -> Tensor:
        """Return D of `noisy` (B, T, D), guided where `condition` is (2 B, L, width): with and without goals."""
        skip, out, into = scalings(sigma, self.config.edm.sigma_data)
        level = noisy.new_full((len(condition),), sigma).log() / 4
        inputs = (into * noisy).repeat(len(condition) // len(noisy), 1, 1)
        predicted = self.network(inputs, level, condition)
        if self.is_guided:
            with_goal, without = predicted.chunk(2)
            # Of the network: what D adds to it is the same in both.
            predicted = torch.lerp(without, with_goal, self.config.guidance)
        return skip * noisy + out * predicted

    def _some_goals(self, context: Context, generator: torch.Generator) -> Context:
        if context.goal is None or self.config.goal_dropout == 0:
            return context
        keep = torch.rand(len(context.goal), 1, 1, generator=generator) >= self.config.goal_dropout
        return context._replace(goal=context.goal * keep.to(context.goal.device))


class ScoreTransformer(nn.Module):
    """The network F: tokens [level, goal steps, observation steps, actions], of which the actions are read."""

    def __init__(self, config: ScoreConfig, action_dim: int, chunk_steps: int, context: ContextSpec) -> None:
        super().__init__()
        width = config.width
        self.causal = config.causal
        self.level_in = nn.Linear(1, width)
        self.goal_in = nn.Linear(context.state_dim, width) if context.goal_steps else None
        self.observation_in = nn.Linear(context.features, width)
        self.action_in = nn.Linear(action_dim, width)
        self.condition_position = nn.Parameter(torch.randn(context.goal_steps + context.obs_steps, width) * 0.02)
        self.action_position = nn.Parameter(torch.randn(chunk_steps, width) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.action_out = nn.Linear(width, action_dim)
        self.apply(_initialise)

    def condition(self, context: Context) -> Tensor:
        """Embed goal and observations as tokens (B, goal_steps + obs_steps, width): once per chunk."""
        tokens = [self.observation_in(context.features)]
        if self.goal_in is not None and context.goal is not None:
            tokens.insert(0, self.goal_in(context.goal))
        return torch.cat(tokens, dim=1) + self.condition_position

    def forward(self, inputs: Tensor, levels: Tensor, condition: Tensor) -> Tensor:
        """Take scaled noisy chunks (B, T, D), levels (B,) and condition tokens (B, L, width)."""
        actions = self.action_in(inputs) + self.action_position
        x = torch.cat([self.level_in(levels[:, None])[:, None], condition, actions], dim=1)
        for block in self.blocks:
            x = block(x, self.causal)
        return self.action_out(self.norm(x[:, -inputs.shape[1] :]))


class Block(nn.Module):
    """Attention and a feed-forward, each after a LayerNorm and beside a residual (GPT-2, Radford et al. 2019)."""

    def __init__(self, config: ScoreConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, config.heads, dropout=config.attention_dropout)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """Map tokens (B, L, width) to the same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x), is_causal=causal))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def _without_goal(context: Context) -> Context:
    return context if context.goal is None else context._replace(goal=torch.zeros_like(context.goal))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _check(config: ScoreConfig, context: ContextSpec) -> None:
    if context.language_tokens:
        raise ConfigError("the family score takes goals, but no language")
    for name in ("layers", "heads", "noise_draws", "sampling_steps"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}, must be at least 1")
    if config.width < 1 or config.width % config.heads:
        raise ConfigError(f"width {config.width}: must be a multiple of the {config.heads} heads")
    for name in ("attention_dropout", "residual_dropout", "goal_dropout"):
        if not 0.0 <= getattr(config, name) < 1.0:
            raise ConfigError(f"{name} is {getattr(config, name)}, must be in [0, 1)")
    if not math.isfinite(config.guidance):
        raise ConfigError(f"guidance is {config.guidance}, must be a number")
    if config.guidance != 1.0 and config.goal_dropout == 0:
        raise ConfigError(f"guidance is {config.guidance}, which needs goal_dropout above 0: none was trained without")
