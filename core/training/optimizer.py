"""Frozen parameters, parameter groups, optimizers and the learning rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import AdafactorBigVision, Muon
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.objectives import Objectives
from core.runtime import has_native_bf16
from core.settings import TrainSettings
from registry import near


def freeze(objectives: Objectives, settings: TrainSettings) -> dict[str, int]:
    """Set requires_grad to False for the parameters of every group with lr 0.

    Returns:
        group -> number of scalars frozen by this call; "" is the group of all others.

    Raises:
        ValueError: a group's prefix fits no parameter, all parameters are frozen, or there is no objective.
    """
    if not objectives.items():
        raise ValueError("objectives: none is left, or all have weight 0: nothing can learn")
    rates, named = group_lrs(settings), dict(objectives.named_parameters())
    prefixes = {name: _match_prefix(name, rates) for name in named}
    if unused := [prefix for prefix in rates if prefix and prefix not in prefixes.values()]:
        tops = sorted({".".join(name.split(".")[:2]) for name in named})
        hint = near(unused[0], tops)
        raise ValueError(f"train.groups: no parameter starts with {unused[0]!r}.{hint} There are: {', '.join(tops)}")
    frozen: dict[str, int] = {}
    for name, parameter in named.items():
        prefix = prefixes[name]
        if rates[prefix] == 0 and parameter.requires_grad:
            parameter.requires_grad_(False)
            frozen[prefix] = frozen.get(prefix, 0) + parameter.numel()
    if not any(parameter.requires_grad for parameter in named.values()):
        raise ValueError("train.groups: with these learning rates of 0 every parameter is frozen and nothing can learn")
    return frozen


def make_optimizer(objectives: Objectives, settings: TrainSettings, device: torch.device) -> torch.optim.Optimizer:
    """Build the optimizer of all parameters that are not frozen, in groups by longest prefix.

    Biases, norms and other vectors have no weight decay. Adafactor is timm's AdafactorBigVision (Zhai et al. 2022):
    first moment as in Adam, second moment factored, its decay at most ``betas[1]``. Muon is timm's too (Jordan et al.
    2024): the update of a hidden linear layer is orthogonal, scaled for AdamW's learning rates, with momentum 0.95;
    NAdamW updates all other parameters, the heads' included. Without native bf16 the orthogonalisation runs in fp32.
    """
    rates, is_muon = group_lrs(settings), settings.optimizer == "muon"
    muon_weights = hidden_maps(objectives) if is_muon else set()
    members: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in objectives.named_parameters():
        if parameter.requires_grad:
            key = (_match_prefix(name, rates), parameter.ndim >= 2, parameter in muon_weights)
            members.setdefault(key, []).append(parameter)
    groups: list[dict[str, Any]] = []
    for (prefix, decays, orthogonal), parameters in members.items():
        decay = settings.weight_decay if decays else 0.0
        group = {"params": parameters, "name": prefix, "lr": rates[prefix], "base_lr": rates[prefix]}
        groups.append({**group, "weight_decay": decay, **({"use_muon": orthogonal} if is_muon else {})})
    betas = settings.betas
    if is_muon:
        return (Muon if has_native_bf16(device) else Fp32Muon)(groups, nesterov=True, betas=betas)
    if settings.optimizer == "adafactor":  # momentum in fp32, because a checkpoint does not restore another type
        return AdafactorBigVision(groups, momentum=betas[0], beta2_cap=betas[1], momentum_dtype=torch.float32)
    return torch.optim.AdamW(groups, betas=betas, fused=device.type in ("cpu", "cuda"))


class Fp32Muon(Muon):
    """timm's Muon with orthogonalisation in fp32, without native bf16 twenty times as fast; its state is the same."""

    def step(self, closure: Any = None) -> Any:
        # timm's step fixes the type: it is the default of an argument that no caller passes
        with _Fp32ForBf16():
            return super().step(closure)


class _Fp32ForBf16(TorchFunctionMode):
    """Replaces bf16 by fp32 in every call of Tensor.to."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.to:
            args = tuple(torch.float32 if value is torch.bfloat16 else value for value in args)
            kwargs = {key: torch.float32 if value is torch.bfloat16 else value for key, value in kwargs.items()}
        return func(*args, **kwargs)


def hidden_maps(objectives: nn.Module) -> set[Tensor]:
    """Weights (N, D) of the linear layers between hidden states: neither in heads nor with N = 1."""
    return {
        module.weight
        for name, module in objectives.named_modules()
        if isinstance(module, nn.Linear) and module.out_features > 1 and not name.startswith("model.heads.")
    }


def group_lrs(settings: TrainSettings) -> dict[str, float]:
    return {"": settings.lr, **{group.prefix: group.lr for group in settings.groups}}


def _match_prefix(name: str, rates: dict[str, float]) -> str:
    return max((prefix for prefix in rates if name.startswith(prefix)), key=len)


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Fraction of the base learning rate at a step, counted from 0: linear warm-up, then cosine or linear decay."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)  # 0 .. 1
    left = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1 - done
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * left
