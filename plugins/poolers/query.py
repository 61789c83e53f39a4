"""A pooler with one learned query, for classification. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import Pooler
from core.types import Tokens
from plugins.layers import initialise_tower
from plugins.poolers.attentional import Queries
from registry.part import Count, Filled


class QueryPooler(Pooler):
    """Pool the tokens of an image, or of all frames of a clip, with one learned query.

    For classification with a frozen or fine-tuned encoder (CoCa, section 4). The LayerNorm is our addition.

    Args:
        width: width of the pooled state; 0: that of the image's tokens.
        num_heads: attention heads.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"heads": "num_heads"}

    def __init__(self, *, width: int = 0, num_heads: Count = 12, dim: Filled[int]):
        super().__init__()
        self.dim = width or dim
        self.query = Queries(1, self.dim, num_heads, dim)
        initialise_tower(self, self.dim)

    def forward(self, image: Tokens) -> Tokens:
        """(B, N, D) -> (B, 1, width), ``pooled`` (B, width)."""
        pooled: Tensor = self.query(image.x, image.mask)  # (B, 1, width)
        return Tokens(pooled, pooled[:, 0])


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("query", QueryPooler)
