"""The learnt scale and bias of a sigmoid over pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import Head
from registry.part import Between


class ScaleBias(Head):
    """Cosines to the logits of a match, t x + b with t = exp(t') (SigLIP: Zhai et al. 2023, Algorithm 1).

    t' and b are learnt.

    Args:
        scale: where t starts, 10 in the paper: t' = ln 10.
        bias: where b starts, -10 in the paper: most pairs are no match, and the first logits say so.
    """

    def __init__(self, *, scale: Annotated[float, Between(1e-3, 1e3)] = 10.0, bias: float = -10.0):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, x: Tensor) -> Tensor:
        return self.log_scale.exp() * x + self.bias


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("scale_bias", ScaleBias)
