"""Classification head."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import Head
from plugins.layers import initialise
from registry.part import Filled


class Classify(Head):
    """Linear map from the pooled state to the data's classes, in their order (CoCa, section 4).

    Raises:
        ValueError: the data has no classes.
    """

    def __init__(self, *, dim: Filled[int], classes: Filled[int]):
        super().__init__()
        if not classes:
            raise ValueError("this data has no classes; scenes and clips have")
        self.linear = nn.Linear(dim, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x)  # (..., D) -> (..., C)
        return logits


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("classify", Classify)
