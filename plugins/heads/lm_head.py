"""Linear language-model head."""

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
    """Linear map from states to vocabulary logits, without bias (CoCa, whose paper does not mention a bias).

    Args:
        tied: word embeddings that are also the output matrix: those of the ``text`` encoder or of the ``decoder``;
            ``none``: a separate matrix, which the parameter counts of CoCa's Table 1 imply for base and large. Those
            of the 2.1B model fit ``decoder``.

    Raises:
        ValueError: the model has no such embeddings, or their width differs.
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
