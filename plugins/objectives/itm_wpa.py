"""Image-text matching with word-patch alignment. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core import runtime
from core.hookspecs import hookimpl
from core.objectives import Step
from core.types import Fused, Tokens
from plugins.objectives.itm import IGNORED, ImageTextMatching, matching_loss
from registry.part import Fraction, NonNegativeFloat, NonNegativeInt

BETA, TRANSPORT_STEPS = 0.5, 50  # weight of the proximal term and iterations of IPOT
TINY = 1e-12


@torch.no_grad()
def transport_plan(cost: Tensor, words: Tensor, patches: Tensor) -> Tensor:
    """Approximate the cheapest transport of the words onto the patches, all words and all patches of equal mass.

    Inexact proximal point method for optimal transport (IPOT; Xie et al. 2018, arXiv:1802.04307).

    Args:
        cost: (b, L, P) of moving a word to a patch.
        words: (b, L) bool, False: the place is empty.
        patches: (b, P) bool, likewise.

    Returns:
        (b, L, P), the mass from each word to each patch: a row sums to 1 over the number of words, a column to 1 over
        that of patches, an empty place to 0.
    """
    rows, columns = words.unsqueeze(2).to(cost.dtype), patches.unsqueeze(2).to(cost.dtype)  # (b, L, 1), (b, P, 1)
    row_mass, column_mass = (places / places.sum(1, keepdim=True).clamp_min(1) for places in (rows, columns))
    plan = rows * columns.mT  # (b, L, P)
    kernel, column_scale = (-cost / BETA).exp() * plan, column_mass  # (b, L, P), (b, P, 1)
    for _ in range(TRANSPORT_STEPS):
        near = kernel * plan  # (b, L, P)
        row_scale = row_mass / (near @ column_scale).clamp_min(TINY)  # (b, L, 1)
        column_scale = column_mass / (near.mT @ row_scale).clamp_min(TINY)  # (b, P, 1)
        plan = row_scale * near * column_scale.mT
    return plan


def transport_distance(fused: Fused) -> Tensor:
    """Distance (b,) of each text's words from its image's patches: cosine distances, weighted by the transport plan.

    [CLS] states take no part. The gradient passes through the cosines; the plan is constant.
    """
    words, patches = fused.text.x[:, 1:].float(), fused.image.patch_states.float()  # (b, L - 1, D), (b, P, D)
    word_mask, patch_mask = _mask(fused.text)[:, 1:], _mask(fused.image)[:, slice(*fused.image.patches)]
    with runtime.autocast(words.device, "fp32"):
        cost = 1 - F.normalize(words, dim=-1) @ F.normalize(patches, dim=-1).mT  # (b, L - 1, P)
        return (transport_plan(cost.detach(), word_mask, patch_mask) * cost).sum((1, 2))


def _mask(tokens: Tokens) -> Tensor:
    """The mask of the tokens, (b, N) bool; all True without one."""
    return tokens.x.new_ones(tokens.x.shape[:2], dtype=torch.bool) if tokens.mask is None else tokens.mask


class MatchingWithAlignment(ImageTextMatching):
    """ITM plus word-patch alignment: words are close to the patches of their own image, far from another's (ViLT).

    To ``itm``'s loss it adds ``alignment`` times the mean transport distance of the m matching pairs minus that of the
    2 m others (Kim et al. 2021, after UNITER), from the same forward pass. The distances compare words with patches
    directly. In a single stream, where no contrastive loss aligns the two, ITM alone may stay at guessing for long.

    Args:
        alignment: weight of the alignment within this loss; the default is our choice.
        fraction, negatives, ramp, exclude_true: as of ``itm``.
    """

    def __init__(
        self,
        *,
        alignment: NonNegativeFloat = 0.1,
        fraction: Fraction = 1.0,
        negatives: Literal["hard", "random"] = "random",
        ramp: NonNegativeInt = 0,
        exclude_true: bool = False,
    ):
        super().__init__(fraction=fraction, negatives=negatives, ramp=ramp, exclude_true=exclude_true)
        self.alignment = alignment

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar."""
        images, texts, labels = self.sample_pairs(step)
        fused = step.fuse(images, step.text.rows(texts))
        signs = labels.eq(1).float() - labels.eq(0).float() / 2  # (3m,)
        distance = (signs * transport_distance(fused)).sum() / (labels.ne(IGNORED).sum() / 3)
        return matching_loss(step, fused, labels) + self.alignment * distance * labels.eq(0).any()


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("itm_wpa", MatchingWithAlignment)
