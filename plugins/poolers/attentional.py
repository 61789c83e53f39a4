"""CoCa's attentional poolers. Letters as in core.types; Q queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import Pooler
from core.types import Tokens
from plugins.layers import Attention, initialise_tower, key_mask
from registry.part import Count, Filled


class AttentionalPoolers(Pooler):
    """Pool the image's tokens with learned queries: Q for captioning, one for contrast (CoCa, section 3.2).

    Each pooler is one multi-head attention layer with the encoder's output as keys and values. The LayerNorm after it
    is our addition.

    Args:
        queries: Q, number of tokens for captioning; 256 in the paper.
        width: width of the pooled tokens; 0: that of the image's tokens.
        num_heads: attention heads.
        arrangement: ``cascade``, the paper's default: the contrastive query attends to the Q captioning tokens;
            ``parallel``: it attends to the image's tokens, as the Q queries do.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"heads": "num_heads"}

    def __init__(
        self,
        *,
        queries: Count = 256,
        width: int = 0,
        num_heads: Count = 12,
        arrangement: Literal["cascade", "parallel"] = "cascade",
        dim: Filled[int],
    ):
        super().__init__()
        self.dim, self.cascade = width or dim, arrangement == "cascade"
        self.captions = Queries(queries, self.dim, num_heads, dim)
        self.contrast = Queries(1, self.dim, num_heads, self.dim if self.cascade else dim)
        initialise_tower(self, self.dim)
        for pooler in (self.captions, self.contrast):
            pooler.start_as_mean()

    def forward(self, image: Tokens) -> Tokens:
        """(B, N, D) -> tokens for captioning (B, Q, width), ``pooled`` for contrast (B, width)."""
        tokens = self.captions(image.x, image.mask)  # (B, Q, width)
        pooled = self.contrast(tokens, None) if self.cascade else self.contrast(image.x, image.mask)  # (B, 1, width)
        return Tokens(tokens, pooled[:, 0])


class Queries(nn.Module):
    """One multi-head attention layer with learned queries, then LayerNorm."""

    def __init__(self, queries: int, dim: int, heads: int, source_dim: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, dim) * dim**-0.5)
        self.attention, self.norm = Attention(dim, heads, 0.0, source_dim), nn.LayerNorm(dim)

    def start_as_mean(self) -> None:
        """Set value and output maps to the identity where square: the output is then nearly the mean of the tokens.

        In a cascade, two random maps in a row remove most of the differences between images. Our choice.
        """
        for linear in (self.attention.value, self.attention.out):
            if linear.in_features == linear.out_features:
                nn.init.eye_(linear.weight)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D') with mask (B, N) -> (B, Q, D)."""
        queries = self.queries.expand(int(x.shape[0]), -1, -1)  # (B, Q, D)
        out: Tensor = self.norm(self.attention(queries, x, key_mask(mask)))  # (B, Q, D)
        return out


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("attentional", AttentionalPoolers)
