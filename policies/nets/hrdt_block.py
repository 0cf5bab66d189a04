"""The parts of the H-RDT transformer (Bi et al. 2025, arXiv 2507.23523): adapters, block and decoder.

Norms around the sub-layers are affine LayerNorms, as in the released code; RMSNorm is on queries and keys only.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from policies.nets.attention import Attention, SwiGlu, modulate

KeysValues = tuple[Tensor, Tensor]


class BlockContext(NamedTuple):
    """What one block attends to beside its own tokens; it stays the same over all steps of a chunk."""

    images: KeysValues | None
    language: KeysValues | None
    language_mask: Tensor | None
    """(B, 1, 1, L) bool, true where a token is real."""


class HrdtBlock(nn.Module):
    """Self-attention, attention to images, attention to language, feed-forward, each on a residual.

    Time shifts, scales and gates every sub-layer but the attention to language (adaLN, Peebles and Xie 2023). Gates
    begin at zero. A modality that the policy does not have has no sub-layer.
    """

    def __init__(
        self, width: int, heads: int, kv_heads: int, hidden: int, *, has_images: bool, has_language: bool
    ) -> None:
        super().__init__()
        self.modulated = 3 if has_images else 2
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * self.modulated * width))
        self.norm, self.attention = nn.LayerNorm(width), _attention(width, heads, kv_heads)
        self.images = CrossAttention(width, heads, kv_heads) if has_images else None
        self.language = CrossAttention(width, heads, kv_heads) if has_language else None
        self.feed_forward_norm, self.feed_forward = nn.LayerNorm(width), SwiGlu(width, hidden)

    def context(self, images: Tensor | None, language: Tensor | None, language_mask: Tensor | None) -> BlockContext:
        """Compute keys and values of adapted images (B, N, width) and language (B, L, width), once per chunk."""
        return BlockContext(
            self.images.keys_values(images) if self.images is not None else None,
            self.language.keys_values(language) if self.language is not None else None,
            language_mask if self.language is not None else None,
        )

    def forward(self, x: Tensor, time: Tensor, context: BlockContext) -> Tensor:
        """Map tokens (B, T, width), given the embedded time (B, width)."""
        shift, scale, gate = self.modulation(time).unflatten(-1, (3, self.modulated, -1)).unbind(1)  # (B, n, width)
        x = x + gate[:, :1] * self.attention(modulate(self.norm(x), shift[:, 0], scale[:, 0]))
        if self.images is not None:
            seen = modulate(self.images.norm(x), shift[:, 1], scale[:, 1])
            x = x + gate[:, 1:2] * self.images.attention.attend(seen, context.images)
        if self.language is not None:
            # Neither modulated nor gated: the block is not the identity at first.
            x = x + self.language.attention.attend(self.language.norm(x), context.language, context.language_mask)
        return x + gate[:, -1:] * self.feed_forward(modulate(self.feed_forward_norm(x), shift[:, -1], scale[:, -1]))


class CrossAttention(nn.Module):
    """Attention to a context, with norms of their own for the tokens and for the context."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.norm, self.context_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _attention(width, heads, kv_heads)

    def keys_values(self, context: Tensor) -> KeysValues:
        """Return keys and values of a context (B, L, width)."""
        return self.attention.keys_values(self.context_norm(context))


class ActionDecoder(nn.Module):
    """From tokens to the velocity of the actions: LayerNorm with adaLN, then two layers, the last of them zero."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.mlp = adapter(width, 4 * width, action_dim)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map tokens (B, T, width), given the embedded time (B, width), to (B, T, action_dim)."""
        return self.mlp(modulate(self.norm(x), *self.modulation(time).chunk(2, dim=-1)))


def adapter(*widths: int) -> nn.Sequential:
    """Make linear layers of the given widths with SiLU between them."""
    first, *rest = (nn.Linear(*pair) for pair in pairwise(widths))
    return nn.Sequential(first, *(layer for linear in rest for layer in (nn.SiLU(), linear)))


def initialise(module: nn.Module) -> None:
    """Draw Xavier-uniform weights with zero biases, and close what begins at zero; for `Module.apply`.

    `apply` comes to the parts before the whole, so a whole may correct its parts. Layers that compute several things
    in one product are drawn as if they were several layers.
    """
    match module:
        case nn.Linear():
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        case Attention():
            _draw_halves(module.key_value)
        case SwiGlu():
            _draw_halves(module.value_gate)
        case HrdtBlock():
            nn.init.zeros_(module.modulation[-1].weight)
        case ActionDecoder():
            nn.init.zeros_(module.modulation[-1].weight)
            nn.init.zeros_(module.mlp[-1].weight)


def _draw_halves(layer: nn.Linear) -> None:
    for half in layer.weight.data.chunk(2):
        nn.init.xavier_uniform_(half)


def _attention(width: int, heads: int, kv_heads: int) -> Attention:
    return Attention(width, heads, kv_heads=kv_heads, qk_norm=True, bias=False, out_bias=False)


def sinusoids(positions: int, width: int) -> Tensor:
    """Return the sine and cosine table of positions 0, 1, … (positions, width), for even `width`."""
    frequencies = 10_000.0 ** -(torch.arange(width // 2) / (width // 2))
    angles = torch.arange(positions)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
