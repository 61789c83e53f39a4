"""Image-text matching head."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import Head
from plugins.layers import initialise
from registry.part import Filled


class Match(Head):
    """Linear map from the fused [CLS] state to two logits: 0 no match, 1 match (ALBEF, mPLUG)."""

    def __init__(self, *, dim: Filled[int]):
        super().__init__()
        self.linear = nn.Linear(dim, 2)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x)  # (..., D) -> (..., 2)
        return logits


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("match", Match)
