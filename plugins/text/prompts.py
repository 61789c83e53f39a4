"""Class labels as captions: what a labelled picture is trained with, and what zero-shot classification asks with."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

# ours, in CLIP's manner; all words stand in the captions of ``scenes`` too, so that a model trained on these knows them
PROMPTS = (
    "a picture of the {labels}",
    "the picture shows the {labels}",
    "there is the {labels}",
    "this is the {labels}",
    "we see the {labels}",
)


def label_caption(rng: Random, labels: Sequence[str]) -> str:
    """Labels shuffled, concatenated, put into a sampled prompt: CoCa's "a photo of the cat, animal" (section 4.1)."""
    return rng.choice(PROMPTS).format(labels=", ".join(rng.sample(labels, len(labels))))
