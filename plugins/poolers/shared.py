"""open_clip's attentional pooler. Letters as in core.types; Q queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import nn

from core.hookspecs import hookimpl
from core.kinds import Pooler
from core.types import Tokens
from plugins.layers import Attention, initialise_tower, key_mask
from registry.part import Count, Filled


class SharedPooler(Pooler):
    """Pool the image's tokens in one attention: the first query for contrast, the others for captioning (open_clip).

    LayerNorm on the queries and on the output. open_clip's third LayerNorm, on the image's tokens, is the backbone's
    final one here.

    Args:
        queries: Q, including the contrastive one; 256 in open_clip's models, so that 255 tokens are for captioning.
        width: width of the pooled tokens; 0: that of the image's tokens.
        num_heads: attention heads.

    Raises:
        ValueError: fewer than 2 queries.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"heads": "num_heads"}

    def __init__(self, *, queries: Count = 256, width: int = 0, num_heads: Count = 8, dim: Filled[int]):
        super().__init__()
        if queries < 2:
            raise ValueError(f"queries is {queries}; it must be at least 2: one for contrast and one for captioning")
        self.dim = width or dim
        self.queries = nn.Parameter(torch.randn(queries, self.dim) * self.dim**-0.5)
        self.query_norm, self.norm = nn.LayerNorm(self.dim), nn.LayerNorm(self.dim)
        self.attention = Attention(self.dim, num_heads, 0.0, dim)
        initialise_tower(self, self.dim)

    def forward(self, image: Tokens) -> Tokens:
        """(B, N, D) -> tokens for captioning (B, Q - 1, width), ``pooled`` for contrast (B, width)."""
        queries = self.query_norm(self.queries).expand(int(image.x.shape[0]), -1, -1)  # (B, Q, width)
        x = self.norm(self.attention(queries, image.x, key_mask(image.mask)))  # (B, Q, width)
        return Tokens(x[:, 1:], x[:, 0])


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("shared", SharedPooler)
