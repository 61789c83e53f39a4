"""Patch-text alignment: what teaches the patch detector. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from core.types import Batch


class PatchTextAlignment(Objective):
    """Find the patches that a region's text speaks of (COPA's PTA).

    Its own batch of pictures with boxes; a patch is labelled 1 where a box overlaps it at all; binary cross-entropy
    averaged over patches. Only blocks 1..k, the text encoder and the detector run. Where the text is withheld, the null
    guide learns to find all of the picture's boxes (our choice, as are the BCE's even weights).
    """

    batch_fields = ("regions",)

    def needs(self) -> tuple[str, ...]:
        return ("text", "scores")

    def loss_denominator(self, batch: Batch) -> float:
        return 0 if batch.regions is None else len(batch.regions.images)

    def forward(self, step: Step) -> Tensor:
        regions, model = step.batch.regions, step.model
        if regions is None:
            raise ValueError("pta: the data has no boxes to learn from; give it some, or set objectives.pta to null")
        trunk = model.backbone.trunk(regions.images)
        scores = model.score(trunk, model.encode_text(regions.text), regions.blank)  # (R, P)
        assert scores is not None
        return F.binary_cross_entropy_with_logits(scores.float(), patch_labels(regions.boxes, model.backbone.grid))


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("pta", PatchTextAlignment)


SLIVER = 1e-4  # of a patch's side: less overlap than this is rounding


def patch_labels(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """1 for every patch that any of a row's boxes overlaps at all, else 0.

    COPA's overlap rule is not known to us; any overlap counts in the same authors' TiMix and is our reading.

    Args:
        boxes: (R, M, 4) float, x0 y0 x1 y1 as shares of width and height; a zero row overlaps nothing.
        grid: patches down, patches across.

    Returns:
        (R, P) float, P = down * across, row by row from the top left.
    """
    down, across = grid
    x0, y0, x1, y1 = boxes.float().unbind(-1)  # (R, M) each
    columns = _overlap(x0 * across, x1 * across, across)  # (R, M, across)
    rows = _overlap(y0 * down, y1 * down, down)  # (R, M, down)
    both = rows[:, :, :, None] & columns[:, :, None, :]  # (R, M, down, across)
    return both.any(1).flatten(1).float()  # (R, P)


def _overlap(start: Tensor, stop: Tensor, count: int) -> Tensor:
    """Which of ``count`` unit cells the spans (R, M) overlap: (R, M, count) bool."""
    cell = torch.arange(count, device=start.device)  # (count,)
    low = torch.maximum(start[..., None], cell)  # (R, M, count)
    high = torch.minimum(stop[..., None], cell + 1)
    return high - low > SLIVER
