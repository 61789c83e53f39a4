"""Momentum teachers: copies of the model's parts whose weights follow the model's slowly (MoCo; ALBEF, mPLUG)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.model import Model


def make_teacher(model: Model, heads: Sequence[str], *, fusion: bool) -> Model:
    """Copy the encoders, the heads named and, if wanted, the fusion of a model, without gradients."""
    teacher = copy.deepcopy(model).requires_grad_(False)
    if not fusion:
        teacher.fusion = None
    if teacher.text is not None:  # otherwise the decoder encodes the text
        teacher.decoder = None
    teacher.heads = nn.ModuleDict({name: teacher.heads[name] for name in heads})
    return teacher


def copy_modes(model: Model, teacher: Model) -> None:
    """Set each module of the teacher to the model's mode, training or evaluation, also of frozen modules."""
    for name, module in teacher.named_modules():
        module.training = model.get_submodule(name).training


@torch.no_grad()
def follow(model: Model, teacher: Model, momentum: float, steps: Tensor) -> None:
    """Set the teacher's weights to momentum * teacher + (1 - momentum) * model, and add 1 to ``steps``, a scalar ()."""
    weights = dict(model.named_parameters())
    for name, parameter in teacher.named_parameters():
        parameter.lerp_(weights[name], 1 - momentum)
    steps += 1


def ramp_alpha(alpha: float, steps: Tensor, ramp: int) -> Tensor | float:
    """``alpha``, growing linearly from 0 over the first ``ramp`` steps; ``steps`` is a scalar ()."""
    return alpha * (steps / ramp).clamp(max=1) if ramp else alpha
