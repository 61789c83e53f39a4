"""Image-text contrast within the batch. Letters as in core.types; b of the B pairs are this rank's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from plugins.objectives.all_gather import pair_logits
from registry.part import Fraction


def contrast(rows: Tensor, columns: Tensor, own: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of finding the counterpart, the mean over pairs, both directions added (CoCa, Eq. 2).

    Args:
        rows: (b, B) logits of own pictures by all captions.
        columns: (B, b) logits of all pictures by own captions; in one process the very same.
        own: (b,) int64, which of all pairs are own.
        smoothing: share of the target that is spread evenly over all B.

    Returns:
        A scalar.
    """
    to_text = F.cross_entropy(rows, own, label_smoothing=smoothing)
    return to_text + F.cross_entropy(columns.T, own, label_smoothing=smoothing)


class ImageTextContrast(Objective):
    """Each picture finds its caption among the batch's, and each caption its picture (CLIP; ITC in ALBEF and mPLUG).

    Cross-entropy, in both directions, over cosines divided by a learnt temperature.

    Args:
        reduction: ``mean`` of the two directions (CLIP, ALBEF, mPLUG) or their ``sum`` (CoCa, Eq. 2), twice as much.
        smoothing: label smoothing: share of the target that is spread evenly over the batch.
        gather: compare with the pairs of all ranks rather than with the rank's own alone.
    """

    is_contrastive = True

    def __init__(
        self, *, reduction: Literal["mean", "sum"] = "mean", smoothing: Fraction = 0.0, gather: bool = True
    ) -> None:
        super().__init__()
        self.reduction, self.smoothing, self.gather = reduction, smoothing, gather

    def needs(self) -> tuple[str, ...]:
        return ("text", "heads.image", "heads.text", "heads.temperature")

    def forward(self, step: Step) -> Tensor:
        both = contrast(*pair_logits(step, "temperature", self.gather), self.smoothing)
        return both if self.reduction == "sum" else both / 2


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("itc", ImageTextContrast)
