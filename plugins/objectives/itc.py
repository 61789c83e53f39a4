"""Image-text contrast within the batch. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import Objective
from core.model import Step


class ImageTextContrast(Objective):
    """Each picture finds its caption among the batch's, and each caption its picture (CLIP; ITC in ALBEF and mPLUG).

    Mean of the two directions' cross-entropy over cosines divided by a learnt temperature.
    """

    def needs(self) -> tuple[str, ...]:
        return ("text", "heads.image", "heads.text", "heads.temperature")

    def forward(self, step: Step) -> Tensor:
        logits = step.model.heads["temperature"](step.similarity.float())  # (B, B)
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("itc", ImageTextContrast)
