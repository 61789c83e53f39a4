"""The floor that every learned pruner must beat. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from core.hookspecs import hookimpl
from core.kinds import TokenPruner
from core.types import BlockCues, Tokens
from plugins.pruners.selection import best
from registry.part import Fraction


class RandomPruner(TokenPruner):
    """Keeps ceil(keep * P) patches at random and drops the others, in training and in use.

    Args:
        keep_rate: share of the patches that stay, above 0.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"keep": "keep_rate"}

    def __init__(self, *, keep_rate: Fraction = 0.5):
        super().__init__()
        if keep_rate == 0:
            raise ValueError("keep must be above 0: at least one patch has to stay")
        self.keep_rate = keep_rate

    def score(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tensor:
        return torch.rand(tokens.patch_states.shape[:2], device=tokens.x.device)  # (B, P)

    def forward(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tokens:
        scores = self.score(tokens, guide, cues)
        return tokens.keep(best(scores, self.keep_rate), scores=scores)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("random", RandomPruner)
