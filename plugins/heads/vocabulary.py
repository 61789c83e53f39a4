"""BERT's language-model head, and tied output matrices."""

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
    """Use the word embeddings (V, D) named ``tied`` as the weight of ``words``; "none": change nothing.

    Raises:
        ValueError: there are no embeddings of that name, or their width differs.
    """
    if tied == "none":
        return
    if tied not in embeddings:
        names = ", ".join(sorted(embeddings)) or "none"
        raise ValueError(f"tied: {tied!r}, but the model has no such word embeddings; it has: {names}")
    if embeddings[tied].shape != words.weight.shape:
        width = int(embeddings[tied].shape[1])
        raise ValueError(f"tied: the {tied} embeddings are {width} wide, this head's states {words.in_features}")
    words.weight = embeddings[tied]


class Vocabulary(Head):
    """BERT's language-model head: linear map, GELU, LayerNorm, then a linear map to the vocabulary.

    Args:
        tied: word embeddings that are also the output matrix: those of the ``text`` encoder or of the ``decoder``;
            ``none``: a separate matrix.

    Raises:
        ValueError: the model has no such embeddings, or their width differs.
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
        x = self.norm(F.gelu(self.transform(x)))  # (..., D)
        logits: Tensor = self.words(x) + self.bias  # (..., D) -> (..., V)
        return logits


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("vocabulary", Vocabulary)
