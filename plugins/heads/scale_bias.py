"""Learned scale and bias of SigLIP's sigmoid loss."""

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
    """Logits t x + b of cosines x, with t = exp(t') (SigLIP: Zhai et al. 2023, Algorithm 1).

    t' and b are learned.

    Args:
        scale: initial t, 10 in the paper: t' = ln 10.
        bias: initial b, -10 in the paper: the first predictions are "no match", which is right for most pairs.
    """

    def __init__(self, *, scale: Annotated[float, Between(1e-3, 1e3)] = 10.0, bias: float = -10.0):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, x: Tensor) -> Tensor:
        return self.log_scale.exp() * x + self.bias  # any shape, kept


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("scale_bias", ScaleBias)
