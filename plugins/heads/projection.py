"""Projection into the space that images and captions share."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import Head
from plugins.layers import initialise
from registry.part import Count, Filled


class Projection(Head):
    """Linear map, then L2 normalisation (ALBEF, mPLUG).

    Args:
        width: width of the shared space, 256 in ALBEF and mPLUG.
        bias: add a bias, as in ALBEF and mPLUG; CLIP and open_clip have none.
    """

    def __init__(self, *, width: Count = 256, bias: bool = True, dim: Filled[int]):
        super().__init__()
        self.linear = nn.Linear(dim, width, bias=bias)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.linear(x).float(), dim=-1)  # (..., D) -> (..., width)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("projection", Projection)
