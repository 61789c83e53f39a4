"""Learned temperature of a contrastive loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import Head
from registry.part import Between

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 0.5  # in ALBEF and mPLUG


class Temperature(Head):
    """Divide cosines by a learned temperature, clamped to 0.001 ... 0.5 (ALBEF, mPLUG).

    The parameter is its logarithm, so that a step changes the temperature by a factor.

    Args:
        initial: initial temperature, 0.07 in ALBEF, mPLUG and CoCa.
    """

    def __init__(self, *, initial: Annotated[float, Between(MIN_TEMPERATURE, MAX_TEMPERATURE)] = 0.07):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    @property
    def value(self) -> Tensor:
        """The temperature, a scalar."""
        # the parameter itself is clamped: a clamp in the graph would have no gradient outside the bounds
        self.log.detach().clamp_(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
        return self.log.exp()

    def forward(self, x: Tensor) -> Tensor:
        return x / self.value  # any shape, kept


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("temperature", Temperature)
