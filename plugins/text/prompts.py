"""Class labels as captions, for training on labelled images and for zero-shot classification."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

# ours, similar to CLIP's; all words occur in the captions of ``scenes`` too, so a model trained on these has them
PROMPTS = (
    "a picture of the {labels}",
    "the picture shows the {labels}",
    "there is the {labels}",
    "this is the {labels}",
    "we see the {labels}",
)


def label_caption(rng: Random, labels: Sequence[str]) -> str:
    """Shuffle and join labels, and put them into a random prompt: CoCa's "a photo of the cat, animal" (section 4.1)."""
    return rng.choice(PROMPTS).format(labels=", ".join(rng.sample(labels, len(labels))))
