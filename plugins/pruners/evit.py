"""EViT: token reorganisation by [CLS] attention. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import TokenPruner
from core.types import BlockCues, Tokens
from plugins.pruners.selection import fuse_dropped, top_patches
from registry.part import Fraction


class AttentivePruner(TokenPruner):
    """Keep the patches with the most attention from [CLS] and fuse the others (Liang et al. 2022, EViT).

    Acts between attention and MLP, without text and without parameters. a_i is the attention of [CLS] to patch i,
    averaged over the heads. The K = ceil(keep_rate * P) patches with the largest a_i are kept; the others become one
    token, the sum of a_i v_i, not normalised. At a later pruning the fused token counts as a patch. EViT sorts the kept
    patches by attention; here they stay in image order, which changes nothing: blocks ignore the order of tokens.

    Args:
        keep_rate: fraction of the patches that are kept, above 0.
        fuse: fuse the dropped patches into one token; otherwise they are lost.

    Raises:
        ValueError: ``keep_rate`` is 0.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"keep": "keep_rate"}
    place = "in_block"

    def __init__(self, *, keep_rate: Fraction = 0.7, fuse: bool = True):
        super().__init__()
        if keep_rate == 0:
            raise ValueError(f"keep_rate is {keep_rate:g}; it must be above 0, so that at least one patch stays")
        self.keep_rate, self.fuse = keep_rate, fuse

    def score(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tensor:
        """Attention of [CLS] to each patch, averaged over the heads: (B, heads, N, N) -> (B, P).

        Raises:
            ValueError: there is no token before the patches.
        """
        start, stop = tokens.patches
        if start == 0:
            raise ValueError("evit needs a backbone with a [CLS] token before its patches")
        return cues.attention[:, :, 0, start:stop].mean(1)  # (B, heads, P) -> (B, P)

    def forward(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tokens:
        scores = self.score(tokens, guide, cues)  # (B, P)
        kept = top_patches(scores, self.keep_rate)  # (B, K)
        fused = fuse_dropped(tokens.patch_states, scores, kept, normalise=False) if self.fuse else None  # (B, 1, D)
        return tokens.keep(kept, fused, scores)  # [CLS], K patches, fused: (B, K + 2, D)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("evit", AttentivePruner)
