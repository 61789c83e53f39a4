"""States to words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import Head
from plugins.layers import initialise
from registry.part import Filled


def tie(words: nn.Linear, tied: str, embeddings: Mapping[str, nn.Parameter]) -> None:
    """Make word embeddings the output matrix; "none" leaves it its own.

    Raises:
        ValueError: there are none of that name, or they are of another width.
    """
    if tied == "none":
        return
    if tied not in embeddings:
        held = ", ".join(sorted(embeddings)) or "none"
        raise ValueError(f"tied: {tied!r}, but the model has no such word embeddings; it has: {held}")
    if embeddings[tied].shape != words.weight.shape:
        width = int(embeddings[tied].shape[1])
        raise ValueError(f"tied: the {tied} embeddings are {width} wide, this head's states {words.in_features}")
    words.weight = embeddings[tied]


class Vocabulary(Head):
    """BERT's language-model head: linear, GELU, LayerNorm, then the vocabulary.

    Args:
        tied: whose word embeddings are the output matrix: the text encoder's, the decoder's, or none's (its own).

    Raises:
        ValueError: the model has no such embeddings, or they are of another width.
    """

    def __init__(
        self,
        *,
        tied: Literal["text", "decoder", "none"] = "text",
        dim: Filled[int],
        vocabulary: Filled[int],
        embeddings: Filled[Mapping[str, nn.Parameter]],
    ):
        super().__init__()
        self.transform, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=1e-12)
        self.words = nn.Linear(dim, vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        initialise(self)
        tie(self.words, tied, embeddings)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.words(self.norm(F.gelu(self.transform(x)))) + self.bias  # (..., D) -> (..., V)
        return logits


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("vocabulary", Vocabulary)
