"""States of length 1, as they are."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import Head


class Unit(Head):
    """Length 1 without a projection: CoCa's paper describes none between pooler, or [CLS], and the contrast."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=-1)  # (..., D) -> (..., D)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("unit", Unit)
