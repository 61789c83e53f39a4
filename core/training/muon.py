"""Muon for devices without native bf16, on which timm's orthogonalisation in bf16 takes twenty times as long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.optim import Muon
from torch.overrides import TorchFunctionMode


class Fp32Muon(Muon):
    """timm's Muon with Newton-Schulz in fp32; the state is the same, so checkpoints move between the two."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        # timm fixes the type inside its step, as the default of an argument that nothing passes on
        with _Fp32ForBf16():
            return super().step(closure)


class _Fp32ForBf16(TorchFunctionMode):
    """Conversions to bf16 give fp32 instead."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.to:
            args = tuple(torch.float32 if value is torch.bfloat16 else value for value in args)
            kwargs = {k: torch.float32 if value is torch.bfloat16 else value for k, value in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))
