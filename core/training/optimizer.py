"""Frozen parameters, parameter groups, optimizers and the learning rate schedule."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

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
    rates = group_lrs(settings)
    named = list(objectives.named_parameters())
    prefixes = {name: _match_prefix(name, rates) for name, _ in named}
    unused = [prefix for prefix in rates if prefix and prefix not in prefixes.values()]
    if unused:
        tops = sorted({".".join(name.split(".")[:2]) for name, _ in named})
        hint = near(unused[0], tops)
        raise ValueError(f"train.groups: no parameter starts with {unused[0]!r}.{hint} There are: {', '.join(tops)}")
    frozen: dict[str, int] = {}
    for name, parameter in named:
        prefix = prefixes[name]
        if rates[prefix] == 0 and parameter.requires_grad:
            parameter.requires_grad_(False)
            frozen[prefix] = frozen.get(prefix, 0) + parameter.numel()
    if not any(parameter.requires_grad for _, parameter in named):
        raise ValueError("train.groups: with these learning rates of 0 every parameter is frozen and nothing can learn")
    return frozen


def make_optimizer(objectives: Objectives, settings: TrainSettings, device: torch.device) -> torch.optim.Optimizer:
    """Build the optimizer of all parameters that are not frozen, in groups by longest prefix.

    Biases, norms and other vectors have no weight decay. Adafactor is timm's AdafactorBigVision (Zhai et al. 2022):
    first moment as in Adam, second moment factored, its decay at most ``betas[1]``. Muon is timm's too (Jordan et al.
    2024): the update of a hidden linear layer is orthogonal, scaled for AdamW's learning rates, with momentum 0.95;
    NAdamW updates all other parameters, the heads' included. Without native bf16 the orthogonalisation runs in fp32.
    """
    rates = group_lrs(settings)
    muon_weights = hidden_maps(objectives) if settings.optimizer == "muon" else set()
    members: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in objectives.named_parameters():
        if parameter.requires_grad:
            key = (_match_prefix(name, rates), parameter.ndim >= 2, parameter in muon_weights)
            members.setdefault(key, []).append(parameter)
    groups = [
        {
            "params": parameters,
            "name": prefix,
            "lr": rates[prefix],
            "base_lr": rates[prefix],
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        | ({"use_muon": orthogonal} if settings.optimizer == "muon" else {})
        for (prefix, decays, orthogonal), parameters in members.items()
    ]
    if settings.optimizer == "adafactor":
        from timm.optim import AdafactorBigVision

        first, second = settings.betas  # first moment in fp32, because a checkpoint does not restore another type
        adafactor: torch.optim.Optimizer = AdafactorBigVision(
            groups, momentum=first, beta2_cap=second, momentum_dtype=torch.float32
        )
        return adafactor
    if settings.optimizer == "muon":
        if has_native_bf16(device):
            from timm.optim import Muon
        else:
            from core.training.muon import Fp32Muon as Muon
        return Muon(groups, nesterov=True, betas=settings.betas)
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, betas=settings.betas, fused=fused)


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
