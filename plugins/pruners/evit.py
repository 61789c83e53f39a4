"""EViT's pruning by [CLS] attention. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import TokenPruner
from core.types import BlockCues, Tokens
from plugins.pruners.selection import best, fuse_rest
from registry.part import Fraction


class AttentivePruner(TokenPruner):
    """Keeps the patches that [CLS] attends to most, fuses the others by that attention (Liang et al. 2022, EViT).

    Stands between attention and MLP; blind to the text and without parameters. The fused token is the un-normalised
    weighted sum, and counts as a patch at a later pruning, as in EViT. Kept patches stay in their order, where EViT
    sorts them by attention: the blocks are blind to order.

    Args:
        keep_rate: share of the patches that stay, above 0.
        fuse: whether the dropped patches become one token.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"keep": "keep_rate"}
    place = "in_block"

    def __init__(self, *, keep_rate: Fraction = 0.7, fuse: bool = True):
        super().__init__()
        if keep_rate == 0:
            raise ValueError("keep must be above 0: at least one patch has to stay")
        self.keep_rate, self.fuse = keep_rate, fuse

    def score(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tensor:
        start, stop = tokens.patches
        if start == 0:
            raise ValueError("evit needs a backbone with a [CLS] token before its patches")
        return cues.attention[:, :, 0, start:stop].mean(1)  # (B, heads, P) -> (B, P)

    def forward(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tokens:
        scores = self.score(tokens, guide, cues)
        kept = best(scores, self.keep_rate)
        return tokens.keep(kept, fuse_rest(tokens.patch_states, scores, kept, False) if self.fuse else None, scores)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("evit", AttentivePruner)
