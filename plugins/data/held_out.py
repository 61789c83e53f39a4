"""Splits of the data parts, and their held-out examples: drawn in their order, once, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from core.types import Example

SPLITS = ("train", "validation", "test")

Cache = dict[str, list[Example | None]]  # by split; None: an image that cannot be used


def first_examples(
    cache: Cache,
    split: str,
    count: int,
    draw: Callable[[str, int], Example | None],
    sizes: Mapping[str, int] | None = None,
) -> list[Example]:
    """Return the first ``count`` usable examples of a split, or all if there are fewer.

    Args:
        cache: a list for each split; new examples are added to it.
        draw: makes example ``number`` of a split; None: it cannot be used, and the next one is taken.
        sizes: number of examples of each split; None: unlimited.

    Raises:
        ValueError: no such split.
    """
    if split not in cache:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(cache)}")
    examples = cache[split]
    missing = count - sum(example is not None for example in examples)
    end = inf if sizes is None else sizes[split]
    while missing > 0 and len(examples) < end:
        examples.append(draw(split, len(examples)))
        missing -= examples[-1] is not None
    return [example for example in examples if example is not None][:count]
