"""A token pruner that keeps the patches with the largest norm."""

from __future__ import annotations

import math

from torch import Tensor

from core import BlockCues, Fraction, TokenPruner, Tokens, hookimpl


class NormPruner(TokenPruner):
    """Keep the patches with the largest norm.

    Args:
        keep_rate: fraction of the patches that are kept.
    """

    def __init__(self, *, keep_rate: Fraction = 0.5):
        super().__init__()
        self.keep_rate = keep_rate

    def score(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tensor:
        return tokens.patch_states.norm(dim=-1)  # (B, P)

    def forward(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tokens:
        norms = self.score(tokens, guide, cues)  # (B, P)
        count = max(1, math.ceil(self.keep_rate * int(norms.shape[1])))  # K
        index = norms.topk(count, dim=1).indices.sort(dim=1).values  # (B, K), in image order
        return tokens.keep(index, scores=norms)  # K patches and [CLS]


@hookimpl
def register(add):
    add("norm", NormPruner)
