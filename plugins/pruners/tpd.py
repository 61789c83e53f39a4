"""COPA's text-aware patch detector. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import TokenPruner
from core.types import BlockCues, Tokens
from plugins.pruners.selection import best, fuse_rest
from registry.part import Filled, Fraction


class TextAwarePatchDetector(TokenPruner):
    """Scores every patch beside the text's [CLS] state, keeps the best, fuses the others (COPA).

    a_i = sigmoid(MLP([v_i ; t_cls])), an MLP of three linear layers; the K = ceil(keep * P) best patches stay in their
    order, the others become one token, the sum of a_i v_i. Our reading, since the paper's details are not known to us:
    three layers of D_v + D_t -> D_v -> D_v / 2 -> 1 with GELU, patch and text normalised first, K rounded up, the sum.

    Args:
        keep_rate: share of the patches that stay.
        fuse: ``sum`` of a_i v_i over the dropped patches, ``mean`` (divided by the sum of a_i), or ``none``.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"keep": "keep_rate"}
    guided = True

    def __init__(
        self,
        *,
        keep_rate: Fraction = 0.5,
        fuse: Literal["sum", "mean", "none"] = "sum",
        dim: Filled[int],
        guide_dim: Filled[int],
    ):
        super().__init__()
        if keep_rate == 0:
            raise ValueError("keep must be above 0: at least one patch has to stay")
        self.keep_rate, self.fuse = keep_rate, fuse
        self.patch_norm, self.guide_norm = nn.LayerNorm(dim), nn.LayerNorm(guide_dim)
        self.detector = nn.Sequential(
            nn.Linear(dim + guide_dim, dim),
            nn.GELU(),
            nn.Linear(dim, max(dim // 2, 1)),
            nn.GELU(),
            nn.Linear(max(dim // 2, 1), 1),
        )

    def score(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tensor:
        assert guide is not None
        patches = self.patch_norm(tokens.patch_states)  # (B, P, D)
        text = self.guide_norm(guide).unsqueeze(1).expand(-1, int(patches.shape[1]), -1)  # (B, P, G)
        scores: Tensor = self.detector(torch.cat([patches, text.to(patches.dtype)], -1))  # (B, P, 1)
        return scores.squeeze(-1).float()

    def forward(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tokens:
        scores = self.score(tokens, guide, cues)
        kept = best(scores, self.keep_rate)
        fused = (
            None if self.fuse == "none" else fuse_rest(tokens.patch_states, scores.sigmoid(), kept, self.fuse == "mean")
        )
        return tokens.keep(kept, fused, scores)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("tpd", TextAwarePatchDetector)
