"""Pairwise sigmoid contrast. Letters as in core.types; b of the B pairs are this rank's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from core.hookspecs import hookimpl
from core.objectives import Objective, Step
from plugins.objectives.all_gather import pair_logits


def pairwise_sigmoid(logits: Tensor, own: Tensor) -> Tensor:
    """-1/b sum_i sum_j log sigmoid(z_ij logit_ij), z_ij = 1 where i and j belong together, else -1.

    Args:
        logits: (b, B) pictures by captions.
        own: (b,) int64, the column of each picture's caption.

    Returns:
        A scalar: the mean over pictures of the sum over captions.
    """
    matches = torch.arange(logits.shape[1], device=logits.device) == own.unsqueeze(1)  # (b, B)
    return -F.logsigmoid(torch.where(matches, logits, -logits)).sum(1).mean()


class PairwiseSigmoid(Objective):
    """Each pair of picture and caption is a match or none, judged by itself (SigLIP: Zhai et al. 2023, section 3.2).

    The logits are t x.y + b, of the head ``sigmoid`` (part ``scale_bias``), as in the paper's Algorithm 1; the formula
    above it writes b with the other sign.

    Args:
        gather: compare with the captions of all ranks rather than with the rank's own alone.
    """

    is_contrastive = True

    def __init__(self, *, gather: bool = True) -> None:
        super().__init__()
        self.gather = gather

    def needs(self) -> tuple[str, ...]:
        return ("text", "heads.image", "heads.text", "heads.sigmoid")

    def forward(self, step: Step) -> Tensor:
        logits, _, own = pair_logits(step, "sigmoid", self.gather)
        return pairwise_sigmoid(logits, own)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("siglip", PairwiseSigmoid)
