"""MoDE (Reuss et al. 2024, arXiv 2412.12953): a diffusion transformer with experts for ranges of the noise level.

Blocks over [noise level, goal, observations, actions] denoise a chunk (`policies.edm`). The embedding c of the
noise level is added to what attention sees, and alone decides which experts serve a sample, so that for the few levels
of a sampling schedule they are known before any observation is: `cache_experts` fuses them once.

Differences from the paper (equations by its numbers) and its released code:
- Residuals: h = x + Attention(RMSNorm(x) + c), then h + Experts(RMSNorm(h)), the usual pre-norm layout. Equation 4 adds
  x instead of h to the experts; the code overwrites the residual stream by RMSNorm(h).
- Attention is not causal unless asked for: behind the published mask an action's denoiser ignores later actions, which
  say more of the mode where trajectories part slowly, so that each action chooses for itself. On chunks that part to
  either side by 0.6, sampled actions are 0.17 off the nearer side with the mask and 0.05 without (10 steps).
- Training draws the experts of a sample once for all its tokens, as inference chooses them; the code draws them for
  each token. They are drawn from the generator of the loss, so that training resumes exactly.
- The balance loss takes the router's probabilities (equation 9, as in the Switch Transformer); the code takes those of
  the chosen experts, renormalised. Shares are of all assignments, so that its least value is 1, not k.
- Every token but that of the noise level has its own row of the position table, drawn with deviation 0.02. In the
  code both cameras and the first action share one, and all rows begin at zero.
- One token for the prompt (the mean over its tokens), one for the goal, one per image token and one for the state of
  every observation step; published are one goal, one camera image each of two, no state.
- No goal dropout: the code zeroes single elements of the goal in training, but never samples without one.
- A routing softmax over the chosen experts alone needs no clamp; residual dropout, 0 in the code, is left out.

The paper counts the cached experts as free, which they are not: fusing changes no product, but spares the router and
the loop over experts. `benchmarks/mode_cache.py` measures what that is worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from armature.errors import ConfigError
from policies.context import Context, ContextSpec
from policies.edm import SAMPLING_FIELDS, EdmConfig, going_on, noised, sample, scalings, sigmas
from policies.guidance import Guidance
from policies.method import Sampled
from policies.nets.attention import Attention
from policies.nets.fused_steps import Experts, FusedSteps, embedded
from policies.nets.moe import Mixture, Router, balance_loss, gumbel_noise


@dataclass(frozen=True)
class ModeConfig:
    """How the denoiser is built and how it samples; the defaults are the published pretrained model."""

    width: int = 1024
    layers: int = 12
    heads: int = 8
    experts: int = 4
    top_k: int = 2
    """Experts that serve a sample."""
    causal: bool = False
    """Let a token see only those before it, as published."""
    attention_dropout: float = 0.3
    expert_dropout: float = 0.1
    balance_weight: float = 0.01
    """Weight of the load-balancing loss beside the error; published: 0 in fine-tuning."""
    noise_draws: int = 1
    """Noises drawn per observation in training: encoding images costs more than denoising."""
    sampling_steps: int = 10
    cache_experts: bool = True
    """Fuse the experts of every sampling step when sampling first; the actions are the same to 1e-5."""
    edm: EdmConfig = field(default_factory=lambda: EdmConfig(sigma_min=0.001, sigma_max=80.0))


class Mode(nn.Module):
    """Denoises chunks with experts chosen by the noise level."""

    family = "mode"
    Config = ModeConfig
    sampling_fields = ("sampling_steps", "cache_experts", *SAMPLING_FIELDS)
    loss_fields = ("attention_dropout", "expert_dropout", "balance_weight", "noise_draws", "edm.sigma_scale")
    takes_goal = True
    takes_prompt = True
    takes_committed = True

    def __init__(self, config: ModeConfig, action_dim: int, chunk_steps: int, context: ContextSpec) -> None:
        super().__init__()
        _check(config)
        self.config, self.chunk_steps = config, chunk_steps
        width = config.width
        self.condition_in = ConditionTokens(width, context)
        self.action_in = nn.Linear(action_dim, width, bias=False)
        self.action_position = nn.Parameter(torch.randn(chunk_steps, width) * 0.02)
        self.level_in = nn.Sequential(nn.Linear(1, width), nn.Linear(width, width, bias=False))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(width)
        self.action_out = nn.Linear(width, action_dim)
        self.fused: FusedSteps | None = None

    def loss(self, actions: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the network's answer, and the balance loss (section 3.2)."""
        draws = self.config.noise_draws
        batch = noised(actions.repeat_interleave(draws, dim=0), self.config.edm, generator)
        embedding = self.level_in(batch.levels[:, None])
        noise = self._gumbel(len(embedding), generator)
        routings = [block.router(embedding, each) for block, each in zip(self.blocks, noise, strict=True)]
        experts = [partial(block.mixture, routing=each) for block, each in zip(self.blocks, routings, strict=True)]
        condition = self.condition_in(context).repeat_interleave(draws, dim=0)
        predicted = self._network(batch.inputs, condition, embedding, experts)
        balance = torch.stack([balance_loss(routing) for routing in routings]).mean()
        return nn.functional.mse_loss(predicted, batch.targets) + self.config.balance_weight * balance

    def sample(
        self,
        context: Context,
        noise: Tensor,
        generator: torch.Generator | None = None,
        guidance: Guidance | None = None,
    ) -> Sampled:
        """Denoise along the schedule, and cut the actions to the range of the training data.

        At each step all samples are at the same level and share their experts.
        """
        levels = sigmas(self.config.edm, self.config.sampling_steps)
        condition = self.condition_in(context)
        # Where gradients are wanted they must reach the experts themselves.
        cached = self.config.cache_experts and not self.training and not torch.is_grad_enabled()
        at_step = self.fuse_experts().step if cached else partial(self._routed, levels)

        def denoise(noisy: Tensor, step: int) -> Tensor:
            skip, out, into = scalings(levels[step], self.config.edm.sigma_data)
            embedding, experts = at_step(step)
            return skip * noisy + out * self._network(into * noisy, condition, embedding, experts)

        denoise = going_on(denoise, levels, guidance)
        return Sampled(sample(denoise, noise, levels, self.config.edm.sampler, generator).clamp(-1, 1), {})

    def fuse_experts(self) -> FusedSteps:
        """Return the fused experts of the sampling schedule, made anew where the weights have changed.

        An engine that captures `sample` calls this before: while it compiles, weights are taken to be as they were.
        """
        if self.fused is not None and torch.compiler.is_compiling():
            return self.fused
        levels = sigmas(self.config.edm, self.config.sampling_steps)[:-1]
        weights = [*self.level_in.parameters(), *(p for block in self.blocks for p in block.expert_parameters())]
        if self.fused is None or not self.fused.fits(weights, levels):
            self.fused = None
            self.fused = FusedSteps(self.blocks, self.level_in, levels, weights)
        return self.fused

    def train(self, mode: bool = True) -> Mode:
        """Change between training and evaluation; training gives up the fused experts."""
        if mode:
            self.fused = None
        super().train(mode)
        return self

    def active_parameters(self) -> int:
        """Count the parameters that take part in denoising one sample: those of k experts of each layer."""
        idle = self.config.experts - self.config.top_k
        of_one = [sum(p.numel() for p in block.mixture.experts[0].parameters()) for block in self.blocks]
        return sum(p.numel() for p in self.parameters()) - idle * sum(of_one)

    def _network(self, inputs: Tensor, condition: Tensor, embedding: Tensor, experts: Sequence[Experts]) -> Tensor:
        """Return F of scaled noisy chunks (B, T, D), with level embeddings (B or 1, width)."""
        level = embedding[:, None].expand(len(inputs), -1, -1)
        x = torch.cat([level, condition, self.action_in(inputs) + self.action_position], dim=1)
        for block, mixture in zip(self.blocks, experts, strict=True):
            x = block(x, level, mixture)
        return self.action_out(self.norm(x[:, -self.chunk_steps :]))

    def _routed(self, levels: Sequence[float], step: int) -> tuple[Tensor, list[Experts]]:
        """Return embedding and experts of a step without any cache."""
        embedding = embedded(self.level_in, levels[step : step + 1])
        return embedding, [partial(block.mixture, routing=block.router(embedding)) for block in self.blocks]

    def _gumbel(self, count: int, generator: torch.Generator) -> Tensor | list[None]:
        if not self.training:
            return [None] * len(self.blocks)
        shape = (len(self.blocks), count, self.config.experts)
        return gumbel_noise(torch.rand(shape, generator=generator)).to(self.action_position.device)


class ConditionTokens(nn.Module):
    """Embed prompt, goal, states and images as tokens, in this order."""

    def __init__(self, width: int, context: ContextSpec) -> None:
        super().__init__()
        sizes = {
            "language": context.language_dim if context.language_tokens else 0,
            "goal": context.goal_steps * context.state_dim,
            "state": context.state_dim,
            "images": context.image_dim if context.image_tokens else 0,
        }
        self.inputs = nn.ModuleDict({n: nn.Linear(size, width, bias=False) for n, size in sizes.items() if size})
        per_step = context.image_tokens + bool(context.state_dim)
        count = len(self.inputs.keys() & {"language", "goal"}) + context.obs_steps * per_step
        self.position = nn.Parameter(torch.randn(count, width) * 0.02)

    def forward(self, context: Context) -> Tensor:
        """Return tokens (B, L, width)."""
        values = {"state": context.state, "images": context.images.flatten(1, 2)}
        if context.language is not None:
            values["language"] = _mean_token(context.language, context.language_mask)
        if context.goal is not None:
            values["goal"] = context.goal.flatten(1)[:, None]
        return torch.cat([layer(values[name]) for name, layer in self.inputs.items()], dim=1) + self.position


class Block(nn.Module):
    """Noise-conditioned self-attention (equation 3), then the experts (equation 4)."""

    def __init__(self, config: ModeConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm, self.expert_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        options = {"qk_norm": True, "out_bias": False, "dropout": config.attention_dropout}
        self.causal = config.causal
        self.attention = Attention(width, config.heads, **options)
        self.router = Router(width, config.experts, config.top_k)
        self.mixture = Mixture(width, config.experts, 4 * width, config.expert_dropout)

    def forward(self, x: Tensor, level: Tensor, experts: Experts) -> Tensor:
        """Map tokens (B, L, width), with the level's embedding (B, 1, width)."""
        x = x + self.attention(self.attention_norm(x) + level, is_causal=self.causal)
        return x + experts(self.expert_norm(x))

    def expert_parameters(self) -> list[nn.Parameter]:
        """Return those that the experts of a level depend on."""
        return [*self.router.parameters(), *self.mixture.parameters()]


def _mean_token(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (B, 1, D) of the tokens (B, L, D) that are real."""
    if mask is None:
        return tokens.mean(dim=1, keepdim=True)
    real = mask[..., None].to(tokens.dtype)
    return (tokens * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)


def _check(config: ModeConfig) -> None:
    for name in ("layers", "heads", "experts", "noise_draws", "sampling_steps"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}, must be at least 1")
    if config.width < 1 or config.width % config.heads:
        raise ConfigError(f"width {config.width}: must be a multiple of the {config.heads} heads")
    if not 1 <= config.top_k <= config.experts:
        raise ConfigError(f"top_k {config.top_k}: allowed 1..{config.experts}, the number of experts")
    for name in ("attention_dropout", "expert_dropout"):
        if not 0.0 <= getattr(config, name) < 1.0:
            raise ConfigError(f"{name} is {getattr(config, name)}, must be in [0, 1)")
    if not 0.0 <= config.balance_weight < math.inf:
        raise ConfigError(f"balance_weight is {config.balance_weight}, must be finite and not negative")
