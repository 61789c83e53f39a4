"""Settings that several metrics share: keys of the recipe's section ``evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.hookspecs import hookimpl
from registry.part import Count, NonNegativeInt


@dataclass(frozen=True)
class RetrievalSettings:
    """Size of the retrieval tables."""

    candidates: Count = 256  # images and captions of the retrieval table
    rerank: Count = 16  # best candidates that ITM ranks again


@dataclass(frozen=True)
class ExampleSettings:
    """Number of held-out images."""

    examples: Count = 256  # images behind the figures on patches, matching, classes and captions
    pictures: NonNegativeInt = 6  # held-out images drawn in patches.png and captions.png


@hookimpl
def settings(add: Callable[[str, type], None]) -> None:
    add("evaluate", RetrievalSettings)
    add("evaluate", ExampleSettings)
