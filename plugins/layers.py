"""Transformer layers that fusion and decoder share.

Letters: B rows, L queries, N keys, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.runtime import has_native_bf16

# queries up to which a CPU is faster with separate products than fused, in bf16 up to eight times
MAX_UNFUSED_QUERIES = 8


def fused_attention(device: torch.device, training: bool) -> bool:
    """Return True if the fused kernel is the faster one here.

    On a CPU with native bf16, separate products in bf16 have the faster backward. Where bf16 is emulated, separate
    products take two to seventeen times as long as the fused kernel.
    """
    return not (device.type == "cpu" and training and torch.is_autocast_enabled("cpu") and has_native_bf16(device))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, fused: bool, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) v.

    Args:
        query: (B, heads, L, d); key and value: (B, heads, N, d).
        mask: boolean, broadcast to (B, heads, L, N), True where a query may attend to a key.
        fused: by torch's fused kernel rather than by separate products.
        dropout: share of the attention weights that is dropped.
    """
    if fused:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    weights = query @ key.transpose(-2, -1) * int(query.shape[-1]) ** -0.5  # (B, heads, L, N)
    if mask is not None:
        weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min)
    return F.dropout(weights.softmax(-1), dropout).to(value.dtype) @ value


def key_mask(mask: Tensor | None) -> Tensor | None:
    """(B, N) of keys that may be attended to -> (B, 1, 1, N)."""
    return None if mask is None else mask[:, None, None]


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(1, 1, L, L): each word sees itself and the words before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


class Attention(nn.Module):
    """Multi-head attention of width ``dim`` over a source of width ``source_dim``, normalised if ``norm_source``."""

    def __init__(
        self, dim: int, heads: int, dropout: float, source_dim: int | None = None, *, norm_source: bool = False
    ):
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide dim {dim}")
        self.heads, self.dropout = heads, dropout
        self.source_norm = nn.LayerNorm(source_dim or dim) if norm_source else nn.Identity()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(source_dim or dim, dim)
        self.value = nn.Linear(source_dim or dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) attends to (B, N, D'); ``mask`` as in ``attend``."""
        return self.attend_heads(self.split(self.query(x)), *self.keys_values(source), mask)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D') -> (B, heads, N, d) twice."""
        source = self.source_norm(source)
        return self.split(self.key(source)), self.split(self.value(source))

    def split(self, states: Tensor) -> Tensor:
        """(B, tokens, D) -> (B, heads, tokens, d)."""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend_heads(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What the queries find, (B, L, D)."""
        device = query.device
        emulated = query.dtype == torch.bfloat16 and not has_native_bf16(device)
        few = device.type == "cpu" and int(query.shape[2]) <= MAX_UNFUSED_QUERIES and not emulated
        fused = fused_attention(device, self.training) and not few
        mixed = attend(query, key, value, mask, fused, self.dropout if self.training else 0.0)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B, L, D)
        return out

    def attention_maps(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Self-attention's keys (B, heads, N, d) and weights (B, heads, N, N) for (B, N, D)."""
        query, key = self.split(self.query(x)), self.split(self.key(x))
        weights = query @ key.transpose(-2, -1) * int(query.shape[-1]) ** -0.5
        return key, (weights if mask is None else weights.masked_fill(~mask, -torch.inf)).softmax(-1)


class PostNormLayer(nn.Module):
    """BERT's layer: self-attention, cross-attention where a source is given, MLP; LayerNorm after each residual."""

    def __init__(self, dim: int, heads: int, dropout: float, source_dim: int | None = None):
        super().__init__()
        self.attention, self.attention_norm = Attention(dim, heads, dropout), nn.LayerNorm(dim, eps=1e-12)
        self.cross = None if source_dim is None else Attention(dim, heads, dropout, source_dim)
        self.cross_norm = None if source_dim is None else nn.LayerNorm(dim, eps=1e-12)
        self.fc1, self.fc2, self.norm = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim), nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None, source: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Tensor:
        cross_attn = None if self.cross is None else partial(self.cross, source=source, mask=source_mask)
        return self.forward_with(x, lambda states: self.attention(states, states, mask), cross_attn)

    def forward_with(
        self, x: Tensor, self_attn: Callable[[Tensor], Tensor], cross_attn: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        """(B, L, D) by self-attention ``self_attn`` and, where it has one, cross-attention ``cross_attn``."""
        x = self.attention_norm(x + self.dropout(self_attn(x)))
        if cross_attn is not None and self.cross_norm is not None:
            x = self.cross_norm(x + self.dropout(cross_attn(x)))
        out: Tensor = self.norm(x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))
        return out


class PreNormLayer(nn.Module):
    """CoCa's layer: self-attention, cross-attention where a source is given, an MLP. LayerNorm before each is ours."""

    def __init__(self, dim: int, heads: int, dropout: float, source_dim: int | None = None):
        super().__init__()
        self.attention, self.attention_norm = Attention(dim, heads, dropout), nn.LayerNorm(dim)
        self.cross = None if source_dim is None else Attention(dim, heads, dropout, source_dim)
        self.cross_norm = None if source_dim is None else nn.LayerNorm(dim)
        self.fc1, self.fc2, self.norm = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None, source: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Tensor:
        cross_attn = None if self.cross is None else partial(self.cross, source=source, mask=source_mask)
        return self.forward_with(x, lambda states: self.attention(states, states, mask), cross_attn)

    def forward_with(
        self, x: Tensor, self_attn: Callable[[Tensor], Tensor], cross_attn: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        """(B, L, D) by self-attention ``self_attn`` and, where it has one, cross-attention ``cross_attn``."""
        x = x + self.dropout(self_attn(self.attention_norm(x)))
        if cross_attn is not None and self.cross_norm is not None:
            x = x + self.dropout(cross_attn(self.cross_norm(x)))
        return self.mlp(x)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Self-attention with its norm and residual, (B, L, D)."""
        normed = self.attention_norm(x)
        return x + self.dropout(self.attention(normed, normed, mask))

    def mlp(self, x: Tensor) -> Tensor:
        """The MLP with its norm and residual."""
        return x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm(x)))))


class OpenClipLayer(nn.Module):
    """open_clip's layer: self-attention, MLP, cross-attention, MLP; LayerNorm before each and on the source."""

    def __init__(self, dim: int, heads: int, dropout: float, source_dim: int):
        super().__init__()
        self.self_layer = PreNormLayer(dim, heads, dropout)
        self.cross, self.cross_norm = Attention(dim, heads, dropout, source_dim, norm_source=True), nn.LayerNorm(dim)
        self.fc1, self.fc2, self.norm = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    @property
    def attention(self) -> Attention:
        """The self-attention."""
        return self.self_layer.attention

    def forward(self, x: Tensor, mask: Tensor | None, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        cross_attn = partial(self.cross, source=source, mask=source_mask)
        return self.forward_with(x, lambda states: self.attention(states, states, mask), cross_attn)

    def forward_with(
        self, x: Tensor, self_attn: Callable[[Tensor], Tensor], cross_attn: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        """(B, L, D) by self-attention ``self_attn`` and cross-attention ``cross_attn``, each with its MLP."""
        assert cross_attn is not None
        x = self.self_layer.forward_with(x, self_attn, None)
        x = x + self.dropout(cross_attn(self.cross_norm(x)))
        out: Tensor = x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm(x)))))
        return out


def initialise(module: nn.Module, linear: float = 0.02, embedding: float = 0.02) -> None:
    """Linear maps and embeddings normal of the given deviations (BERT's by default), biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=linear)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=embedding)


def initialise_tower(module: nn.Module, dim: int) -> None:
    """The same for a tower of width ``dim``: 0.02 from BERT-base's 768 on, 1 / sqrt(dim) below.

    0.02 leaves the branches of narrow towers so weak that all [CLS] states start alike and the contrast stands still
    for hundreds of steps. Our choice.
    """
    deviation = 0.02 if dim >= 768 else dim**-0.5
    initialise(module, deviation, deviation)
