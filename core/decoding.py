"""Decoding word by word, which a decoder may offer beside reading whole texts. Letters as in core.types."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from core.kinds import Decoder
from core.types import Text, Tokens


class Decoding(ABC):
    """Texts under way: R = B K rows, of which the K of one picture stand together."""

    @abstractmethod
    def __call__(self, text: Text) -> Tensor:
        """Read on: the next words (R, t) -> their states (R, t, D). Words that are masked out are passed over."""

    @abstractmethod
    def rows(self, index: Tensor) -> None:
        """Go on from rows ``index`` (R',), where R' is a multiple of B and each row stays with its picture."""


class StepwiseDecoder(Decoder):
    """A decoder that can go on from the words that it has read. Others are run on the whole text at every step."""

    text_length: int  # the most words that it can read

    @abstractmethod
    def begin(self, memory: Tokens, length: int) -> Decoding:
        """No word read yet beside ``memory`` (B, N, D), read here once for all of its rows; room for ``length``."""
