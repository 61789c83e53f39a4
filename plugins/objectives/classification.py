"""Classification of pictures and clips. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from core.types import Batch
from registry.part import Fraction


def softmax_losses(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels, of which each row's sum counts as 1, so that several share it evenly.

    Args:
        logits, labels: (B, C); a row of zeros has no label, and what comes of it means nothing.
        smoothing: share of the target that is spread evenly over all classes.

    Returns:
        (B,).
    """
    shares = labels / labels.sum(1, keepdim=True).clamp_min(1e-9)
    return F.cross_entropy(logits, shares, reduction="none", label_smoothing=smoothing)


def sigmoid_losses(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of each class by itself, summed over the classes: (B, C) each -> (B,).

    Args:
        smoothing: by half of it every label is moved away from 0 and from 1.
    """
    targets = labels * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)


class Classification(Objective):
    """Name the classes of each picture: the single-encoder paradigm, and frozen-feature and fine-tuned evaluation
    (CoCa, sections 3.1 and 4).

    Of the batch only the rows with a label count, and the loss is their mean. The picture is the one that ITC sees. It
    is the special case of ``caption`` whose vocabulary are the names of the classes and whose captions one such word.

    Args:
        loss: ``softmax``: one distribution over the classes, which several labels of a picture share evenly;
            ``sigmoid``: each class for itself.
        smoothing: label smoothing.
    """

    batch_fields = ("labels",)

    def __init__(self, *, loss: Literal["softmax", "sigmoid"] = "softmax", smoothing: Fraction = 0.0):
        super().__init__()
        self.losses = softmax_losses if loss == "softmax" else sigmoid_losses
        self.smoothing = smoothing

    def needs(self) -> tuple[str, ...]:
        return ("heads.classify",)

    def loss_denominator(self, batch: Batch) -> float:
        return 0.0 if batch.labels is None else float(batch.labels.ne(0).any(1).sum())

    def forward(self, step: Step) -> Tensor:
        labels = step.batch.labels
        if labels is None:
            raise ValueError("classification: the data has no labels; give it some, or set this objective to null")
        pooled = step.image.pooled
        if pooled is None:
            raise ValueError("classification: nothing pools the picture; the model needs a pooler or a [CLS] token")
        losses = self.losses(step.model.heads["classify"](pooled).float(), labels, self.smoothing)  # (B,)
        known = labels.ne(0).any(1).float()  # (B,)
        return (losses * known).sum() / known.sum().clamp_min(1)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("classification", Classification)
