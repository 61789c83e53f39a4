"""Pairwise sigmoid loss. Letters as in core.types; this rank has b of the B pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from plugins.objectives.all_gather import pair_logits


def pairwise_sigmoid(logits: Tensor, target: Tensor) -> Tensor:
    """-1/b sum_i sum_j log sigmoid(z_ij logit_ij), with z_ij = 1 for a pair and -1 otherwise.

    Args:
        logits: (b, B) images by captions.
        target: (b,) int64, the column of each image's caption.

    Returns:
        A scalar, the mean over images of the sum over captions.
    """
    matches = torch.arange(logits.shape[1], device=logits.device) == target.unsqueeze(1)  # (b, B)
    return -F.logsigmoid(torch.where(matches, logits, -logits)).sum(1).mean()


class PairwiseSigmoid(Objective):
    """Binary classification of each image-caption pair of the batch (SigLIP: Zhai et al. 2023, section 3.2).

    The logits are t x.y + b, from the head ``sigmoid`` (part ``scale_bias``), as in the paper's Algorithm 1. The
    formula above it has b with the opposite sign. Every other row is a negative, even one with an equal caption.

    Args:
        gather: compare with the captions of all ranks; False: only with those of the same rank.
    """

    is_contrastive = True

    def __init__(self, *, gather: bool = True) -> None:
        super().__init__()
        self.gather = gather

    def needs(self) -> tuple[str, ...]:
        return ("text", "heads.image", "heads.text", "heads.sigmoid")

    def min_batch(self, ranks: int, chunks: int) -> int:
        return 2 if self.gather else 2 * ranks  # chunks are compared with each other

    def forward(self, step: Step) -> Tensor:
        """The loss, a scalar."""
        logits, _, target = pair_logits(step, "sigmoid", self.gather)  # (b, B), (b,)
        return pairwise_sigmoid(logits, target)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("siglip", PairwiseSigmoid)
