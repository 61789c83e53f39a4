"""States to words by one linear map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import Head
from plugins.heads.vocabulary import tie
from plugins.layers import initialise
from registry.part import Filled


class LanguageModelHead(Head):
    """A linear map to the vocabulary, without bias; CoCa's, where the bias is not described.

    Args:
        tied: whose word embeddings are the output matrix: the text encoder's, the decoder's, or none's (its own, as the
            parameters in CoCa's Table 1 say for base and large; those of 2.1B fit ``decoder``).

    Raises:
        ValueError: the model has no such embeddings, or they are of another width.
    """

    def __init__(
        self,
        *,
        tied: Literal["text", "decoder", "none"] = "none",
        dim: Filled[int],
        vocabulary: Filled[int],
        embeddings: Filled[Mapping[str, nn.Parameter]],
    ):
        super().__init__()
        self.words = nn.Linear(dim, vocabulary, bias=False)
        initialise(self)
        tie(self.words, tied, embeddings)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.words(x)  # (..., D) -> (..., V)
        return logits


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("lm_head", LanguageModelHead)
