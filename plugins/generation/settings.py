"""Settings and results of text generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["greedy", "sample", "beam"]


@dataclass(frozen=True)
class Generation:
    """Settings of ``generate``.

    Args:
        mode: ``greedy``: the likeliest token each time; ``sample``: sampled; ``beam``: the best text of a beam search.
        max_length: the most tokens generated, end token included, prompt excluded.
        min_length: tokens generated before the end token is possible.
        temperature: divides the logits before sampling.
        top_k: sample from the k likeliest tokens; 0: from all.
        top_p: sample from the fewest likeliest tokens with this total probability (Holtzman et al. 2020).
        beams: width of the beam search.
        length_penalty: a text's score is its log-probability over its length, end token included, to this power.
        repetition_penalty: logits of tokens that the text already contains, prompt included, are divided by it if
            positive, else multiplied by it (Keskar et al. 2019); 1: none.
        cached: cache keys and values if the decoder can (``StepwiseDecoder``).

    Raises:
        ValueError: a setting is out of its range.
    """

    mode: Mode = "greedy"
    max_length: int = 30
    min_length: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 4
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    cached: bool = True

    def __post_init__(self) -> None:
        ranges = {
            "mode": (self.mode in get_args(Mode), f"one of {', '.join(get_args(Mode))}"),
            "max_length": (self.max_length >= 1, "at least 1"),
            "min_length": (0 <= self.min_length < self.max_length, f"from 0 to below max_length, {self.max_length}"),
            "temperature": (self.temperature > 0, "above 0"),
            "top_k": (self.top_k >= 0, "0 (all words) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "beams": (self.beams >= 1, "at least 1"),
            "length_penalty": (abs(self.length_penalty) <= 10, "from -10 to 10"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
        }
        wrong = [
            f"{name} is {getattr(self, name)!r}; it must be {permitted}"
            for name, (fits, permitted) in ranges.items()
            if not fits
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True)
class GeneratedText:
    """A generated text and its score."""

    ids: tuple[int, ...]  # without prompt and end token
    score: float  # log-probability, end token included, divided by length ** length_penalty
