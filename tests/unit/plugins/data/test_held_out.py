"""Held-out examples are drawn once, in order, and unusable ones are replaced."""

from __future__ import annotations

import pytest
import torch

from core.types import Example
from plugins.data.held_out import first_examples

IMAGE = torch.zeros(3, 1, 1, dtype=torch.uint8)


class Draws:
    """Counts draws; every third example cannot be used."""

    def __init__(self):
        self.numbers: list[int] = []

    def __call__(self, split: str, number: int) -> Example | None:
        self.numbers.append(number)
        return None if number % 3 == 2 else Example(f"{split} {number}", IMAGE, "")


def keys(examples) -> list[str]:
    return [example.key for example in examples]


def test_examples_are_drawn_once_and_unusable_ones_are_skipped():
    draw, cache = Draws(), {"test": []}
    assert keys(first_examples(cache, "test", 3, draw)) == ["test 0", "test 1", "test 3"]
    assert draw.numbers == [0, 1, 2, 3]
    assert keys(first_examples(cache, "test", 2, draw)) == ["test 0", "test 1"]
    assert draw.numbers == [0, 1, 2, 3]
    assert keys(first_examples(cache, "test", 5, draw))[-2:] == ["test 4", "test 6"]
    assert draw.numbers == list(range(7))


def test_a_split_ends_at_its_size():
    draw, cache = Draws(), {"test": [], "validation": []}
    assert keys(first_examples(cache, "test", 10, draw, {"test": 5})) == ["test 0", "test 1", "test 3", "test 4"]
    assert len(draw.numbers) == 5
    assert cache["validation"] == []


def test_no_example():
    draw = Draws()
    assert first_examples({"test": []}, "test", 0, draw) == []
    assert draw.numbers == []


def test_an_unknown_split():
    with pytest.raises(ValueError, match="the data has no split 'dev'; it has test, validation"):
        first_examples({"test": [], "validation": []}, "dev", 1, Draws())
