"""Captions and questions of composed images: relations, claims and references."""

from __future__ import annotations

from random import Random

import pytest
import torch

from core.types import Example
from plugins.data.drawing.captions import (
    FOUR,
    MAX_WORDS,
    OPPOSITE,
    THREE,
    Facts,
    caption,
    describes,
    questions,
    references,
    related,
    relations_of,
    texts,
)
from plugins.data.drawing.compositing import ObjectSpec, PlacedObject, layout


def place(noun: str, x: float, y: float, *adjectives: str) -> PlacedObject:
    return PlacedObject(ObjectSpec(noun, noun, "a", adjectives), (0, 0, 1, 1), (x, y))


def scene(seed: int, count: int) -> list[PlacedObject]:
    names = ["cat", "dog", "cow", "hen", "pig"]
    return [place(n, *at, "small", "old") for n, at in zip(names, layout(Random(seed), count), strict=False)]


CAT, DOG = place("cat", 0.2, 0.5, "small"), place("dog", 0.8, 0.45, "old")


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.3, 0.5, ["left of"]),
        (0.7, 0.5, ["right of"]),
        (0.5, 0.3, ["above"]),
        (0.5, 0.7, ["below"]),
        (0.3, 0.3, ["left of", "above"]),
        (0.7, 0.7, ["right of", "below"]),
        (0.6, 0.6, []),
    ],
)
def test_relations_need_a_margin(x, y, expected):
    one, other = place("cat", x, y), place("dog", 0.5, 0.5)
    assert relations_of(one, other) == expected
    assert relations_of(other, one) == [OPPOSITE[relation] for relation in expected]
    assert [relation for relation in OPPOSITE if related(one, relation, other)] == expected


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize("seed", range(25))
def test_a_caption_is_true_of_its_image_and_short(seed, count):
    placed = scene(seed, count)
    text, facts = caption(Random(seed), placed, adjective_share=0.5)
    assert facts.entails(facts)
    assert len(text.split()) <= MAX_WORDS
    assert "{" not in text
    assert len(facts.mentions) in ((3,) if count == 3 else (3, 4))
    for noun, adjectives in facts.mentions:
        assert noun in text.split() or f"{noun}," in text
        assert set(adjectives) <= {"small", "old"}
    assert all(related(facts.objects[a], relation, facts.objects[b]) for a, relation, b in facts.relations)


def test_every_template_is_drawn():
    placed = scene(0, 5)
    openings = {caption(Random(seed), placed, 0)[0].split()[0] for seed in range(200)}
    assert {"there", "we", "the", "a"} <= openings
    assert all(template.count("{") >= 5 for template in (*THREE, *FOUR))


def test_a_claim_is_false_without_its_object_its_adjective_or_its_relation():
    both = {"cat": CAT, "dog": DOG}
    claim = Facts(both, (("cat", ("small",)), ("dog", ())), (("cat", "left of", "dog"),))
    assert claim.entails(Facts(both, (), ()))
    assert not claim.entails(Facts({"cat": CAT}, (), ()))
    assert not claim.entails(
        Facts({"cat": CAT._replace(spec=CAT.spec._replace(adjectives=("old",))), "dog": DOG}, (), ())
    )
    assert not claim.entails(Facts({"cat": CAT._replace(centre=(0.75, 0.5)), "dog": DOG}, (), ()))
    assert Facts(both, (), ()).entails(Facts({}, (), ()))  # no claim


@pytest.mark.parametrize("seed", range(30))
def test_answers_follow_from_the_places(seed):
    placed = scene(seed, 4)
    by_noun = {one.spec.noun: one for one in placed}
    answers = dict(questions(Random(seed), placed, ObjectSpec("yak", "yak", "a")))
    assert answers["how many objects are there?"] == "4"
    for question, answer in answers.items():
        words = question.rstrip("?").split()
        if question.startswith("is there"):
            assert answer == ("no" if words[-1] == "yak" else "yes")
        elif question.startswith("is the"):
            relation = " ".join(words[3:-2])
            assert answer == ("yes" if related(by_noun[words[2]], relation, by_noun[words[-1]]) else "no")
        elif question.startswith("what is"):
            relation = " ".join(words[2:-2])
            assert [n for n in by_noun if n != words[-1] and related(by_noun[n], relation, by_noun[words[-1]])] == [
                answer
            ]


def example(placed: list[PlacedObject], **fields) -> Example:
    text, facts = caption(Random(1), placed) if len(placed) > 2 else ("a cat", Facts({"cat": CAT}, (("cat", ()),), ()))
    return Example("scene 1", torch.zeros(3, 1, 1), text, facts=facts, **fields)


def test_references_are_five_true_captions_or_one():
    one = example(scene(3, 4))
    assert len(references(one)) == 5
    assert references(one) == references(one)
    assert references(one)[0] == one.caption
    assert references(example([CAT])) == ["a cat"]


def test_one_image_is_described_by_its_own_caption():
    one, other = example(scene(3, 4)), example([CAT])
    assert describes(one, one)
    assert not describes(one, other)


def test_texts_for_a_vocabulary():
    one = example([CAT], absent="the pig", questions=(("is there a cat?", "yes"),))
    assert texts(one) == ["a cat", "the pig", "is there a cat?", "yes"]
