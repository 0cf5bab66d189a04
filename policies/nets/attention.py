"""The parts that all transformers here are made of: attention with its options, and the gated feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu


class Attention(nn.Module):
    """Multi-head attention of queries to themselves or to a context.

    With `kv_heads` below `heads` groups of queries share keys and values (Ainslie et al. 2023); with `qk_norm` queries
    and keys are RMS-normalised per head (Dehghani et al. 2023).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        context_dim: int | None = None,
        qk_norm: bool = False,
        bias: bool = True,
        out_bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dropout = heads, kv_heads or heads, dropout
        dim = width // heads
        self.query = nn.Linear(width, width, bias)
        self.key_value = nn.Linear(context_dim or width, 2 * self.kv_heads * dim, bias)
        self.query_norm, self.key_norm = (nn.RMSNorm(dim) if qk_norm else nn.Identity() for _ in range(2))
        self.out = nn.Linear(width, width, out_bias)

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Attend from `x` (B, T, width) to itself or to `context` (B, L, context_dim).

        `mask` is boolean and broadcast to (B, heads, T, L), true where a query may look.
        """
        return self.attend(x, self.keys_values(x if context is None else context), mask, is_causal)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (B, kv_heads, L, dim): for a context that stays, computed once."""
        keys, values = self.key_value(context).unflatten(-1, (2, self.kv_heads, -1)).unbind(-3)
        return self.key_norm(keys).transpose(1, 2), values.transpose(1, 2)

    def attend(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Attend from `x` (B, T, width) to given keys and values."""
        queries = self.query_norm(self.query(x).unflatten(-1, (self.heads, -1))).transpose(1, 2)
        keys, values = keys_values
        dropout = self.dropout if self.training else 0.0
        grouped = self.kv_heads != self.heads
        found = scaled_dot_product_attention(queries, keys, values, mask, dropout, is_causal, enable_gqa=grouped)
        return self.out(found.transpose(1, 2).flatten(-2))


class SwiGlu(nn.Module):
    """Feed-forward with a gate: W2 (value * SiLU(gate)), value and gate from one product (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int, *, bias: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.value_gate = nn.Linear(width, 2 * hidden, bias)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        value, gate = self.value_gate(x).chunk(2, dim=-1)
        return self.out(self.dropout(value * silu(gate)))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale tokens (B, T, width) by vectors (B, width): adaLN (Peebles and Xie 2023)."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])
