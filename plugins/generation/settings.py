"""How texts are generated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["greedy", "sample", "beam"]


@dataclass(frozen=True)
class Generation:
    """Settings of ``generate``.

    Args:
        mode: ``greedy``: the likeliest word each time; ``sample``: drawn; ``beam``: the best text of a beam search.
        max_length: the most tokens written, the end token among them; the prompt is not counted.
        min_length: tokens written before the end token may follow.
        temperature: divides the logits before a draw.
        top_k: draw from the k likeliest words; 0: from all.
        top_p: draw from the fewest likeliest words that together have this probability (Holtzman et al. 2020).
        beams: width of the beam search.
        length_penalty: a text's score is its log-probability over its length, end token included, to this power.
        repetition_penalty: logits of words that the text holds already, prompt included, are divided by it where
            positive and multiplied where negative (Keskar et al. 2019); 1: none.
        cached: keep keys and values from word to word, where the decoder can.

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
            f"{name} is {getattr(self, name)!r}; it must be {said}" for name, (fits, said) in ranges.items() if not fits
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True)
class Written:
    """One text."""

    ids: tuple[int, ...]  # without prompt and end token
    score: float  # log-probability, the end token's included, over the length to the power of length_penalty
