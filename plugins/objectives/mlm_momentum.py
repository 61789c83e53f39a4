"""Masked language modelling with a momentum teacher's soft targets. Letters as in core.types; m rows that take part."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.hookspecs import hookimpl
from core.model import Model
from core.objectives import Objective, Step
from core.types import Batch
from plugins.objectives.mlm import masked_rows, masked_states
from plugins.objectives.momentum import copy_modes, follow, make_teacher, ramp_alpha
from registry.part import Fraction, NonNegativeInt


class MomentumMaskedLanguageModelling(Objective):
    """MLM with targets mixed with a momentum teacher's prediction (ALBEF, mPLUG).

    The target at a masked position is alpha * softmax(teacher's logits) + (1 - alpha) * one-hot. The teacher predicts
    from the same masked caption and image, pruned under the same guide policy. Its text encoder, image encoder, fusion
    and vocabulary head are its own; `itc_momentum` has another teacher.

    Args:
        momentum: m in teacher = m * teacher + (1 - m) * model, 0.995 in mPLUG.
        alpha: weight of the teacher in the targets, 0.4 in mPLUG.
        ramp: steps over which alpha grows linearly from 0 (mPLUG: one epoch).
        fraction: fraction of the batch that takes part. Our addition.
        head: slot of the vocabulary head.
    """

    batch_fields = ("masked",)
    steps: Tensor

    def __init__(
        self,
        *,
        momentum: Fraction = 0.995,
        alpha: Fraction = 0.4,
        ramp: NonNegativeInt = 1000,
        fraction: Fraction = 1.0,
        head: str = "words",
    ):
        super().__init__()
        self.momentum, self.alpha, self.ramp, self.fraction, self.head = momentum, alpha, ramp, fraction, head
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def needs(self) -> tuple[str, ...]:
        return ("text", "fusion", f"heads.{self.head}")

    def loss_denominator(self, batch: Batch) -> float:
        return float(masked_rows(batch, self.fraction)[1].weights.sum())

    def on_model_built(self, model: Model) -> None:
        self.teacher = make_teacher(model, (self.head,), fusion=True)

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar."""
        rows, masked = masked_rows(step.batch, self.fraction)
        logits = step.model.heads[self.head](masked_states(step, rows, masked)).float()  # (m M, D) -> (m M, V)
        copy_modes(step.model, self.teacher)
        with torch.no_grad():
            states = masked_states(Step(self.teacher, step.batch), rows, masked)  # (m M, D)
            targets = self.teacher.heads[self.head](states).float().softmax(-1)  # (m M, V)
            alpha = ramp_alpha(self.alpha, self.steps, self.ramp)
            one_hot = torch.zeros_like(targets).scatter_(1, masked.targets.flatten()[:, None], 1.0)  # (m M, V)
            targets = alpha * targets + (1 - alpha) * one_hot
        losses = -(targets * logits.log_softmax(-1)).sum(-1)  # (m M,)
        weights = masked.weights.flatten()  # (m M,)
        return (losses * weights).sum() / weights.sum().clamp_min(1)

    def after_step(self, model: Model) -> None:
        follow(model, self.teacher, self.momentum, self.steps)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("mlm_momentum", MomentumMaskedLanguageModelling)
