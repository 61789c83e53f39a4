"""Patch-text alignment, the loss that trains the patch detector. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from core.types import Batch


class PatchTextAlignment(Objective):
    """PTA: train the patch scores for a text with patch labels converted from boxes (COPA).

    The images with boxes, and a text for each, are a batch of their own; only the blocks before the pruner, the text
    encoder and the detector process it. The paper's labelling rule and loss are not known to us. Our choices: a patch
    has label 1 if a box overlaps it at all; the loss is binary cross-entropy, averaged over patches; for images without
    text the null guide is trained with all boxes of the image; in an image without boxes all labels are 0.
    """

    batch_fields = ("regions",)

    def needs(self) -> tuple[str, ...]:
        return ("text", "trained_scores")

    def loss_denominator(self, batch: Batch) -> float:
        return 0 if batch.regions is None else len(batch.regions.images)

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar.

        Raises:
            ValueError: the batch has no regions.
        """
        regions, model = step.batch.regions, step.model
        if regions is None or len(regions.images) == 0:
            raise ValueError("pta: the data has no boxes; give it some, or set objectives.pta to null")
        trunk = model.backbone.trunk(regions.images)  # (R, N, D)
        scores = model.score(trunk, model.encode_text(regions.text), regions.blank)  # (R, P)
        assert scores is not None
        labels = patch_labels(regions.boxes, model.backbone.grid)  # (R, P)
        return F.binary_cross_entropy_with_logits(scores.float(), labels)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("pta", PatchTextAlignment)


MIN_OVERLAP = 1e-4  # of a patch's side; a smaller overlap is a rounding error


def patch_labels(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patch labels from boxes: 1 if any of a row's boxes overlaps the patch at all, else 0.

    COPA's overlap rule is not known to us; any overlap counts in TiMix by the same first author.

    Args:
        boxes: (R, M, 4) float, x0 y0 x1 y1 as fractions of width and height; a zero row overlaps nothing.
        grid: (h, w), patches down and across.

    Returns:
        (R, P) float, P = h * w, row by row from the top left.
    """
    height, width = grid
    x0, y0, x1, y1 = boxes.float().unbind(-1)  # (R, M) each
    columns = _overlap(x0 * width, x1 * width, width)  # (R, M, w)
    rows = _overlap(y0 * height, y1 * height, height)  # (R, M, h)
    inside = rows[:, :, :, None] & columns[:, :, None, :]  # (R, M, h, w)
    return inside.any(1).flatten(1).float()  # (R, M, h, w) -> (R, h, w) -> (R, P)


def _overlap(start: Tensor, stop: Tensor, count: int) -> Tensor:
    """Find the unit cells that the spans (R, M) overlap: (R, M, count) bool."""
    cell = torch.arange(count, device=start.device)  # (count,)
    low = torch.maximum(start[..., None], cell)  # (R, M, count)
    high = torch.minimum(stop[..., None], cell + 1)  # (R, M, count)
    return high - low > MIN_OVERLAP
