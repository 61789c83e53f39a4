"""Choosing and fusing patches: pure functions that pruners share. Letters as in core.types."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kept_count(patches: int, keep: float) -> int:
    """K = ceil(keep * P), at least 1."""
    return max(1, math.ceil(keep * patches - 1e-9))


def best(scores: Tensor, keep: float) -> Tensor:
    """The K best of P patches in their original order: (B, P) -> (B, K) int64."""
    count = kept_count(int(scores.shape[1]), keep)
    return scores.detach().float().topk(count, dim=1).indices.sort(dim=1).values


def fuse_rest(patches: Tensor, weights: Tensor, kept: Tensor, normalise: bool) -> Tensor:
    """One token of the patches that are not kept: sum of a_i v_i, divided by the sum of a_i if ``normalise``.

    Args:
        patches: (B, P, D).
        weights: (B, P), a_i in [0, 1].
        kept: (B, K) int64.
        normalise: divide, so that the token is a weighted mean.

    Returns:
        (B, 1, D); zero where every patch is kept.
    """
    rest = torch.ones_like(weights).scatter(1, kept, 0.0) * weights  # (B, P)
    if normalise:
        rest = rest / rest.sum(1, keepdim=True).clamp_min(1e-6)
    return torch.bmm(rest.unsqueeze(1).to(patches.dtype), patches)  # (B, 1, D)
