"""Classification of images and clips. Letters as in core.types."""

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
    """Cross-entropy with the labels of each image as target distribution; several labels share it evenly.

    Args:
        logits, labels: (B, C); the loss of a row of zeros, without a label, is meaningless.
        smoothing: fraction of the target that is spread evenly over all classes.

    Returns:
        (B,).
    """
    targets = labels / labels.sum(1, keepdim=True).clamp_min(1e-9)  # (B, C), rows sum to 1
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


def sigmoid_losses(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy per class, summed over the classes: (B, C) each -> (B,).

    Args:
        smoothing: targets are smoothing / 2 and 1 - smoothing / 2 instead of 0 and 1.
    """
    targets = labels * (1 - smoothing) + smoothing / 2  # (B, C)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)


class Classification(Objective):
    """Classify images from their pooled state (CoCa, sections 3.1 and 4: single encoder, frozen and fine-tuned).

    The loss is the mean over the images of the batch that have a label. The image is ITC's. It is the special case of
    ``caption`` with class names as vocabulary and one word per caption.

    Args:
        loss: ``softmax``: one distribution over the classes, shared evenly by several labels of an image; ``sigmoid``:
            a binary decision for each class.
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
        """The loss, a scalar.

        Raises:
            ValueError: the batch has no labels, the image no pooled state, or the softmax only one class.
        """
        labels = step.batch.labels
        if labels is None:
            raise ValueError("classification: the data has no labels; give it some, or set this objective to null")
        pooled = step.image.pooled
        if pooled is None:
            raise ValueError("classification: the image has no pooled state; the model needs a pooler or a [CLS] token")
        logits = step.model.heads["classify"](pooled).float()  # (B, D) -> (B, C)
        if logits.shape[1] == 1 and self.losses is softmax_losses:
            raise ValueError("classification: softmax over one class is always 0; give more, or set loss: sigmoid")
        losses = self.losses(logits, labels, self.smoothing)  # (B,)
        has_label = labels.ne(0).any(1).float()  # (B,)
        return (losses * has_label).sum() / has_label.sum().clamp_min(1)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("classification", Classification)
