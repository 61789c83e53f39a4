"""The patches whose states are longest stay."""

from __future__ import annotations

import math

from torch import Tensor

from core import Cues, Share, TokenPruner, Tokens, hookimpl


class NormPruner(TokenPruner):
    """Keeps the patches of largest norm.

    Args:
        keep: share of the patches that stay.
    """

    def __init__(self, *, keep: Share = 0.5):
        super().__init__()
        self.keep = keep

    def score(self, tokens: Tokens, guide: Tensor | None, cues: Cues) -> Tensor:
        return tokens.patch_states.norm(dim=-1)  # (B, P)

    def forward(self, tokens: Tokens, guide: Tensor | None, cues: Cues) -> Tokens:
        norms = self.score(tokens, guide, cues)
        count = max(1, math.ceil(self.keep * int(norms.shape[1])))  # K
        index = norms.topk(count, dim=1).indices.sort(dim=1).values  # (B, K), in the picture's order
        return tokens.keep(index, scores=norms)


@hookimpl
def register(add):
    add("norm", NormPruner)
