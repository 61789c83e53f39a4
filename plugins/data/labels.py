"""Boxes to patch labels: what patch-text alignment learns from and patch figures are measured against."""

from __future__ import annotations

import torch
from torch import Tensor

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
