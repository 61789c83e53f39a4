"""COPA's text-aware patch detector. Letters as in core.types; G width of the guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import TokenPruner
from core.types import BlockCues, Tokens
from plugins.pruners.selection import fuse_dropped, top_patches
from registry.part import Filled, Fraction


class TextAwarePatchDetector(TokenPruner):
    """Keep the patches that are most relevant to the text and fuse the others (COPA's TPD).

    An MLP scores each patch v_i, concatenated with the text's [CLS] state t: a_i = sigmoid(MLP([v_i ; t])). The K
    patches with the largest a_i are kept in image order and the others fused into one token: [CLS], K patches, fused.
    The scores are trained by the objective ``pta``. The paper's details are not known to us; our choices are the MLP
    (three linear maps, D + G -> D -> D / 2 -> 1, with GELU) and its sigmoid, LayerNorm on patch and text,
    K = ceil(keep_rate * P), and the fused token, the sum of a_i v_i over the dropped patches.

    Args:
        keep_rate: fraction of the patches that are kept, above 0.
        fuse: ``sum`` of a_i v_i over the dropped patches, ``mean`` (divided by the sum of a_i), or ``none``.

    Raises:
        ValueError: ``keep_rate`` is 0.
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
            raise ValueError(f"keep_rate is {keep_rate:g}; it must be above 0, so that at least one patch stays")
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
        """Logits of a_i, for patches (B, P, D) and a guide (B, G): (B, P)."""
        assert guide is not None
        patches = self.patch_norm(tokens.patch_states)  # (B, P, D)
        text = self.guide_norm(guide).unsqueeze(1).expand(-1, int(patches.shape[1]), -1)  # (B, P, G)
        scores: Tensor = self.detector(torch.cat([patches, text.to(patches.dtype)], -1))  # (B, P, D + G) -> (B, P, 1)
        return scores.squeeze(-1).float()  # (B, P)

    def forward(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tokens:
        scores = self.score(tokens, guide, cues)  # (B, P)
        kept = top_patches(scores, self.keep_rate)  # (B, K)
        fused = None
        if self.fuse != "none":
            weights = scores.sigmoid()  # a, (B, P)
            fused = fuse_dropped(tokens.patch_states, weights, kept, normalise=self.fuse == "mean")  # (B, 1, D)
        return tokens.keep(kept, fused, scores)  # [CLS], K patches, fused: (B, K + 2, D)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("tpd", TextAwarePatchDetector)
