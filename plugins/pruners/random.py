"""Random selection, the baseline for every learned pruner. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import TokenPruner
from core.types import BlockCues, Tokens
from plugins.pruners.selection import top_patches
from registry.part import Fraction


class RandomPruner(TokenPruner):
    """Keep K = ceil(keep_rate * P) random patches and drop the others, in training and inference.

    Args:
        keep_rate: fraction of the patches that are kept, above 0.

    Raises:
        ValueError: ``keep_rate`` is 0.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"keep": "keep_rate"}

    def __init__(self, *, keep_rate: Fraction = 0.5):
        super().__init__()
        if keep_rate == 0:
            raise ValueError(f"keep_rate is {keep_rate:g}; it must be above 0, so that at least one patch stays")
        self.keep_rate = keep_rate

    def score(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tensor:
        return torch.rand(tokens.patch_states.shape[:2], device=tokens.x.device)  # (B, P)

    def forward(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tokens:
        scores = self.score(tokens, guide, cues)  # (B, P)
        return tokens.keep(top_patches(scores, self.keep_rate), scores=scores)  # (B, N - P + K, D)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("random", RandomPruner)
