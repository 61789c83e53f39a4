"""L2 normalisation without a projection."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import Head


class Unit(Head):
    """Normalise pooled states to length 1.

    CoCa's paper describes no projection between the pooler, or the text's [CLS], and the contrastive loss.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=-1)  # (..., D) -> (..., D)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("unit", Unit)
