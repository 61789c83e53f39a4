"""Label captions: every label once, in any order, in any prompt."""

from __future__ import annotations

from random import Random

from plugins.text.prompts import PROMPTS, label_caption


def test_labels_are_joined_in_a_prompt():
    assert {label_caption(Random(seed), ["cat"]) for seed in range(100)} == {p.format(labels="cat") for p in PROMPTS}


def test_every_order_is_drawn_and_the_labels_are_unchanged():
    labels = ["cat", "animal", "pet"]
    texts = {label_caption(Random(seed), labels) for seed in range(600)}
    assert len(texts) == len(PROMPTS) * 6
    assert labels == ["cat", "animal", "pet"]
    assert all(text.count(label) == 1 for text in texts for label in labels)


def test_a_caption_depends_on_the_generator_only():
    assert label_caption(Random(3), ["a", "b"]) == label_caption(Random(3), ["a", "b"])
