"""Selection and fusion of patches as pure functions, shared by the pruners. Letters as in core.types."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kept_count(patches: int, keep_rate: float) -> int:
    """Number of patches kept, K = ceil(keep_rate * P), at least 1."""
    return max(1, math.ceil(keep_rate * patches - 1e-9))  # 0.28 * 25 is 7.000000000000001


def top_patches(scores: Tensor, keep_rate: float) -> Tensor:
    """Indices of the K patches with the highest scores, in image order: (B, P) -> (B, K) int64."""
    count = kept_count(int(scores.shape[1]), keep_rate)
    return scores.detach().float().topk(count, dim=1).indices.sort(dim=1).values  # (B, K)


def fuse_dropped(patches: Tensor, weights: Tensor, kept: Tensor, normalise: bool) -> Tensor:
    """Fuse the dropped patches into one token, the sum of a_i v_i over i not in ``kept``.

    Args:
        patches: v, (B, P, D).
        weights: a, (B, P), in [0, 1].
        kept: (B, K) int64.
        normalise: divide by the sum of these a_i, so that the token is a weighted mean.

    Returns:
        (B, 1, D); zero if every patch is kept.
    """
    dropped = torch.ones_like(weights).scatter(1, kept, 0.0) * weights  # (B, P), 0 at kept patches
    if normalise:
        dropped = dropped / dropped.sum(1, keepdim=True).clamp_min(1e-6)
    return torch.bmm(dropped.unsqueeze(1).to(patches.dtype), patches)  # (B, 1, P) x (B, P, D) -> (B, 1, D)
