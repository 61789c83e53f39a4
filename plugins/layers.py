"""Transformer layers shared by fusions and decoders.

Letters: B rows, L queries, N keys, D width, D' width of the source, d width of an attention head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.runtime import has_native_bf16

MAX_UNFUSED_QUERIES = 8  # up to here separate products are faster on a CPU than the fused kernel, in bf16 up to 8 times


def fused_attention(device: torch.device, training: bool) -> bool:
    """Return True if the fused kernel is faster than separate products in the current autocast mode.

    On a CPU with native bf16, separate products in bf16 have the faster backward. Where bf16 is emulated, separate
    products take two to seventeen times as long as the fused kernel.
    """
    return not (device.type == "cpu" and training and torch.is_autocast_enabled("cpu") and has_native_bf16(device))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, fused: bool, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention, softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, Eq. 1).

    Args:
        query: (B, heads, L, d); key and value: (B, heads, N, d).
        mask: boolean, broadcast to (B, heads, L, N), True where a query may attend to a key.
        fused: use torch's fused kernel instead of separate products.
        dropout: fraction of the attention weights that is dropped.

    Returns:
        (B, heads, L, d).
    """
    if fused:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    weights = query @ key.transpose(-2, -1) * int(query.shape[-1]) ** -0.5  # (B, heads, L, N)
    if mask is not None:
        weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min)
    return F.dropout(weights.softmax(-1), dropout).to(value.dtype) @ value  # (B, heads, L, d)


def key_mask(mask: Tensor | None) -> Tensor | None:
    """Expand a mask of keys for ``attend``: (B, N) -> (B, 1, 1, N)."""
    return None if mask is None else mask[:, None, None]


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Mask (1, 1, L, L) by which each word attends to itself and the words before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


class Attention(nn.Module):
    """Multi-head attention of width ``dim`` over a source of width ``source_dim``.

    ``norm_source`` adds a LayerNorm on the source.

    Raises:
        ValueError: ``dim`` is not a multiple of ``heads``.
    """

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
        """Attend from (B, L, D) to (B, N, D') -> (B, L, D); ``mask`` as in ``attend``."""
        return self.attend_heads(self.split_heads(self.query(x)), *self.keys_values(source), mask)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Project a source to keys and values: (B, N, D') -> (B, heads, N, d) each."""
        source = self.source_norm(source)
        return self.split_heads(self.key(source)), self.split_heads(self.value(source))

    def split_heads(self, states: Tensor) -> Tensor:
        """Split the width among the heads: (B, L, D) -> (B, heads, L, d)."""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend_heads(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend with every head, then apply the output projection.

        Args:
            query: (B, heads, L, d); key and value: (B, heads, N, d).
            mask: as in ``attend``.

        Returns:
            (B, L, D).
        """
        device = query.device
        emulated = query.dtype == torch.bfloat16 and not has_native_bf16(device)
        few = device.type == "cpu" and int(query.shape[2]) <= MAX_UNFUSED_QUERIES and not emulated
        fused = fused_attention(device, self.training) and not few
        states = attend(query, key, value, mask, fused, self.dropout if self.training else 0.0)  # (B, heads, L, d)
        out: Tensor = self.out(states.transpose(1, 2).flatten(2))  # (B, L, D)
        return out

    def attention_maps(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys (B, heads, N, d) and weights (B, heads, N, N) of self-attention over (B, N, D)."""
        query, key = self.split_heads(self.query(x)), self.split_heads(self.key(x))  # (B, heads, N, d)
        weights = query @ key.transpose(-2, -1) * int(query.shape[-1]) ** -0.5  # (B, heads, N, N)
        return key, (weights if mask is None else weights.masked_fill(~mask, -torch.inf)).softmax(-1)


class PostNormLayer(nn.Module):
    """BERT's layer: self-attention, optional cross-attention, MLP; LayerNorm after each residual."""

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
        """(B, L, D), optionally with a source (B, N, D') -> (B, L, D); masks as in ``attend``."""
        cross_attn = None if self.cross is None else partial(self.cross, source=source, mask=source_mask)
        return self.forward_with(x, lambda states: self.attention(states, states, mask), cross_attn)

    def forward_with(
        self, x: Tensor, self_attn: Callable[[Tensor], Tensor], cross_attn: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        """Run the layer with the given attention functions, each (B, L, D) -> (B, L, D)."""
        x = self.attention_norm(x + self.dropout(self_attn(x)))
        if cross_attn is not None and self.cross_norm is not None:
            x = self.cross_norm(x + self.dropout(cross_attn(x)))
        out: Tensor = self.norm(x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))
        return out


class PreNormLayer(nn.Module):
    """CoCa's layer: self-attention, optional cross-attention, one MLP; LayerNorm before each.

    The place of LayerNorm in the paper is not known to us; before each is our choice.
    """

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
        """(B, L, D), optionally with a source (B, N, D') -> (B, L, D); masks as in ``attend``."""
        cross_attn = None if self.cross is None else partial(self.cross, source=source, mask=source_mask)
        return self.forward_with(x, lambda states: self.attention(states, states, mask), cross_attn)

    def forward_with(
        self, x: Tensor, self_attn: Callable[[Tensor], Tensor], cross_attn: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        """Run the layer with the given attention functions, each (B, L, D) -> (B, L, D)."""
        x = x + self.dropout(self_attn(self.attention_norm(x)))
        if cross_attn is not None and self.cross_norm is not None:
            x = x + self.dropout(cross_attn(self.cross_norm(x)))
        return self.mlp(x)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Self-attention with its norm and residual: (B, L, D) -> (B, L, D)."""
        normed = self.attention_norm(x)
        return x + self.dropout(self.attention(normed, normed, mask))

    def mlp(self, x: Tensor) -> Tensor:
        """MLP with its norm and residual: (B, L, D) -> (B, L, D)."""
        return x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm(x)))))


class OpenClipLayer(nn.Module):
    """open_clip's decoder layer: self-attention, MLP, cross-attention, MLP; LayerNorm before each and on the source."""

    def __init__(self, dim: int, heads: int, dropout: float, source_dim: int):
        super().__init__()
        self.self_layer = PreNormLayer(dim, heads, dropout)
        self.cross, self.cross_norm = Attention(dim, heads, dropout, source_dim, norm_source=True), nn.LayerNorm(dim)
        self.fc1, self.fc2, self.norm = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    @property
    def attention(self) -> Attention:
        """Self-attention, under the name that the other layers use."""
        return self.self_layer.attention

    def forward(self, x: Tensor, mask: Tensor | None, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """(B, L, D), with a source (B, N, D') -> (B, L, D); masks as in ``attend``."""
        cross_attn = partial(self.cross, source=source, mask=source_mask)
        return self.forward_with(x, lambda states: self.attention(states, states, mask), cross_attn)

    def forward_with(
        self, x: Tensor, self_attn: Callable[[Tensor], Tensor], cross_attn: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        """Run the layer with the given attention functions, each (B, L, D) -> (B, L, D) and followed by an MLP."""
        assert cross_attn is not None
        x = self.self_layer.forward_with(x, self_attn, None)
        x = x + self.dropout(cross_attn(self.cross_norm(x)))
        out: Tensor = x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm(x)))))
        return out


def initialise(module: nn.Module, linear: float = 0.02, embedding: float = 0.02) -> None:
    """Initialise linear and embedding weights from normals of these deviations (BERT's by default), biases with 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=linear)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=embedding)


def initialise_tower(module: nn.Module, dim: int) -> None:
    """Initialise an encoder of width ``dim``: deviation 0.02 from BERT-base's 768 on, 1 / sqrt(dim) below.

    With 0.02 the residual branches of narrow encoders are so weak that all [CLS] states start nearly equal and the
    contrastive loss does not fall for hundreds of steps. Our choice.
    """
    deviation = 0.02 if dim >= 768 else dim**-0.5
    initialise(module, deviation, deviation)
