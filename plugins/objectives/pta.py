"""Patch-text alignment: what teaches the patch detector. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import Objective
from core.model import Step
from core.types import Batch
from plugins.data.labels import patch_labels


class PatchTextAlignment(Objective):
    """Find the patches that a region's text speaks of (COPA's PTA).

    Its own batch of pictures with boxes; a patch is labelled 1 where a box overlaps it at all; binary cross-entropy
    averaged over patches. Only blocks 1..k, the text encoder and the detector run. Where the text is withheld, the null
    guide learns to find all of the picture's boxes (our choice, as are the BCE's even weights).
    """

    reads = ("regions",)

    def needs(self) -> tuple[str, ...]:
        return ("text", "scores")

    def units(self, batch: Batch) -> float:
        return 0 if batch.regions is None else len(batch.regions.images)

    def forward(self, step: Step) -> Tensor:
        regions, model = step.batch.regions, step.model
        if regions is None:
            raise ValueError("pta: the data has no boxes to learn from; give it some, or set objectives.pta to null")
        trunk = model.backbone.trunk(regions.images)
        scores = model.score(trunk, model.read(regions.text), regions.blank)  # (R, P)
        assert scores is not None
        return F.binary_cross_entropy_with_logits(scores.float(), patch_labels(regions.boxes, model.backbone.grid))


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("pta", PatchTextAlignment)
