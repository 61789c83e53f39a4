"""The learnt temperature of a contrast."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import Head
from registry.part import Between

LOW, HIGH = 0.001, 0.5  # ALBEF's and mPLUG's bounds


class Temperature(Head):
    """Cosines divided by a learnt temperature, held between 0.001 and 0.5 (ALBEF, mPLUG).

    What is learnt is its logarithm, so a step changes it by a share.

    Args:
        initial: where it starts, 0.07 in ALBEF and mPLUG.
    """

    def __init__(self, *, initial: Annotated[float, Between(LOW, HIGH)] = 0.07):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    @property
    def value(self) -> Tensor:
        """The temperature, a scalar."""
        # the parameter itself is held in bounds: a clamp on the way would stop the gradient there
        self.log.detach().clamp_(math.log(LOW), math.log(HIGH))
        return self.log.exp()

    def forward(self, x: Tensor) -> Tensor:
        return x / self.value


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("temperature", Temperature)
