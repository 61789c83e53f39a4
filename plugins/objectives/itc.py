"""Image-text contrastive loss within the batch. Letters as in core.types; this rank has b of the B pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from plugins.objectives.all_gather import pair_logits
from plugins.objectives.truths import other_truths
from registry.part import Fraction


def contrastive_loss(rows: Tensor, columns: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Sum of the image-to-text and text-to-image cross-entropies, each a mean over pairs (CoCa, Eq. 2).

    Args:
        rows: (b, B) logits of this rank's images by all captions.
        columns: (B, b) logits of all images by this rank's captions; with one rank the same tensor.
        target: (b,) int64, the indices of this rank's pairs among all.
        smoothing: fraction of the target that is spread evenly over all B.

    Returns:
        A scalar.
    """
    image_to_text = F.cross_entropy(rows, target, label_smoothing=smoothing)
    return image_to_text + F.cross_entropy(columns.T, target, label_smoothing=smoothing)


class ImageTextContrast(Objective):
    """ITC: classify each image's caption among the batch's captions, and each caption's image (CLIP, CoCa, ALBEF).

    Cross-entropy in both directions over cosines divided by a learned temperature (CoCa, Eq. 2). In these papers every
    other row is a negative, even one with an equal caption.

    Args:
        reduction: ``mean`` of the two directions (CLIP, ALBEF, mPLUG) or their ``sum`` (CoCa, Eq. 2), twice as large.
        smoothing: label smoothing, the fraction of the target that is spread evenly over the batch.
        gather: contrast with the pairs of all ranks; False: only with those of the same rank.
        exclude_true: leave out captions of other rows that are true of the image, and images that the caption is true
            of, by the data's ``describes``. Our addition.

    Raises:
        ValueError: ``smoothing`` and ``exclude_true`` are both set.
    """

    is_contrastive = True

    def __init__(
        self,
        *,
        reduction: Literal["mean", "sum"] = "mean",
        smoothing: Fraction = 0.0,
        gather: bool = True,
        exclude_true: bool = False,
    ) -> None:
        super().__init__()
        if smoothing and exclude_true:
            raise ValueError(f"smoothing {smoothing:g} gives excluded rows a part of the target; expected 0")
        self.reduction, self.smoothing, self.gather, self.exclude_true = reduction, smoothing, gather, exclude_true
        self.batch_fields = ("truths",) if exclude_true else ()

    def needs(self) -> tuple[str, ...]:
        return ("text", "heads.image", "heads.text", "heads.temperature")

    def min_batch(self, ranks: int, chunks: int) -> int:
        return 2 if self.gather else 2 * ranks  # chunks are compared with each other

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar."""
        rows, columns, target = pair_logits(step, "temperature", self.gather)  # (b, B), (B, b), (b,)
        if self.exclude_true:
            texts, images = other_truths(step.batch, rows.shape[1]).unbind(1)  # (b, 2, B) -> (b, B) each
            rows, columns = rows.masked_fill(texts, -torch.inf), columns.masked_fill(images.T, -torch.inf)
        loss = contrastive_loss(rows, columns, target, self.smoothing)
        return loss if self.reduction == "sum" else loss / 2


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("itc", ImageTextContrast)
