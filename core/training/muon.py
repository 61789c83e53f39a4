"""Muon for devices without native bf16, where timm's orthogonalisation in bf16 takes twenty times as long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.optim import Muon
from torch.overrides import TorchFunctionMode


class Fp32Muon(Muon):
    """timm's Muon with Newton-Schulz in fp32; the state is the same, so checkpoints move between the two."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        # timm's step fixes the type: it is the default of an argument that no caller passes
        with _Fp32ForBf16():
            return super().step(closure)


class _Fp32ForBf16(TorchFunctionMode):
    """Replaces bf16 by fp32 in every call of Tensor.to."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.to:
            args = tuple(torch.float32 if value is torch.bfloat16 else value for value in args)
            kwargs = {k: torch.float32 if value is torch.bfloat16 else value for k, value in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))
