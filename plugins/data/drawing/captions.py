"""Captions and questions for composed images, and a test of a caption against another image.

A caption's claims are stored as facts, so that its truth for any image is known exactly. "left" and "right" occur in
relations only, so that mirroring an image can swap the words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from core.types import Example
from plugins.data.drawing.compositing import ObjectSpec, PlacedObject, stream

MIN_CENTRE_DISTANCE = 0.15  # minimum offset along an axis for a relation, fraction of the side; every pair has one
NUM_REFERENCES = 5  # captions of an image, to evaluate a generated one against
MAX_WORDS = 25  # longer captions are replaced by their shortest wording

RELATIONS = {  # wordings by relation
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
MIRRORED = {"left of": "right of", "right of": "left of"}
OPPOSITE = MIRRORED | {"above": "below", "below": "above"}
# {a}: first mention, {A}: later mention, {ab}: a relation that is true of a and b
THREE = (
    "{a} is {ab} {b} and {ac} {c}",
    "{a} {ab} {b}, with {c} {cb} {B}",
    "there is {a} {ab} {b}, and {c} is {cb} {B}",
    "{ab} {b} there is {a}, and {c} is {ca} {A}",
    "{a}, {b} and {c}, with {A} {ab} {B}",
    "we see {b} and {c}, and {a} is {ab} {B}",
    "the picture shows {a} {ab} {b} and {c} {ca} {A}",
    "{c} is {cb} {b}, and {a} is {ac} {C}",
)
FOUR = (
    "{a} is {ab} {b} and {c} is {cd} {d}",
    "there is {a} {ab} {b}, and {c} {cd} {d}",
    "{a}, {b}, {c} and {d}, with {C} {ca} {A}",
    "{a} and {b} with {c} {ca} {A} and {d} {db} {B}",
)


@dataclass(frozen=True)
class Facts:
    """The objects in an image, and the claims of its caption."""

    objects: Mapping[str, PlacedObject]  # by noun
    mentions: tuple[tuple[str, tuple[str, ...]], ...]  # noun, adjectives
    relations: tuple[tuple[str, str, str], ...]  # noun, relation, noun

    def mirror(self) -> Facts:
        """Return the facts of the mirrored image and caption."""

        def move(one: PlacedObject) -> PlacedObject:
            return one._replace(centre=(1 - one.centre[0], one.centre[1]))  # the box is not needed for a claim

        return Facts(
            objects={noun: move(one) for noun, one in self.objects.items()},
            mentions=self.mentions,
            relations=tuple((one, MIRRORED.get(way, way), other) for one, way, other in self.relations),
        )

    def entails(self, picture: Facts) -> bool:
        """Return True if every claim of this caption is true of another image."""
        objects = picture.objects
        return all(
            noun in objects and all(word in objects[noun].spec.adjectives for word in adjectives)
            for noun, adjectives in self.mentions
        ) and all(related(objects[one], relation, objects[other]) for one, relation, other in self.relations)


def related(one: PlacedObject, relation: str, other: PlacedObject) -> bool:
    """Return True if the two centres satisfy the relation, with a margin."""
    x, y = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    return {"left of": -x, "right of": x, "above": -y, "below": y}[relation] > MIN_CENTRE_DISTANCE


def relations_of(one: PlacedObject, other: PlacedObject) -> list[str]:
    """The one or two relations that are true of two objects."""
    x, y = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    true = ["left of" if x < 0 else "right of"] if abs(x) > MIN_CENTRE_DISTANCE else []
    return [*true, "above" if y < 0 else "below"] if abs(y) > MIN_CENTRE_DISTANCE else true


def caption(rng: Random, placed: Sequence[PlacedObject], adjective_share: float = 0.2) -> tuple[str, Facts]:
    """Compose a sentence about three or four of the objects and their relations; return it with its claims."""
    count = 4 if len(placed) > 3 and rng.random() < 0.35 else 3
    template = rng.choice(FOUR if count == 4 else THREE)
    picked = dict(zip("abcd", rng.sample(placed, count), strict=False))
    adjectives = {
        letter: tuple(word for word in one.spec.adjectives if rng.random() < adjective_share)
        for letter, one in picked.items()
    }
    pairs = [field for field in _fields(template) if len(field) == 2]
    relations = {pair: rng.choice(relations_of(picked[pair[0]], picked[pair[1]])) for pair in pairs}
    wordings = {pair: rng.choice(RELATIONS[relation]) for pair, relation in relations.items()}

    def fill_template() -> str:
        first = {letter: one.spec.phrase(adjectives[letter]) for letter, one in picked.items()}
        later = {letter.upper(): f"the {one.spec.noun}" for letter, one in picked.items()}
        return template.format_map(first | later | wordings)

    text = fill_template()
    if text.count(" ") >= MAX_WORDS:
        adjectives, wordings = dict.fromkeys(picked, ()), relations
        text = fill_template()
    return text, Facts(
        objects={one.spec.noun: one for one in placed},
        mentions=tuple((one.spec.noun, adjectives[letter]) for letter, one in picked.items()),
        relations=tuple(
            (picked[pair[0]].spec.noun, relation, picked[pair[1]].spec.noun) for pair, relation in relations.items()
        ),
    )


def _fields(template: str) -> list[str]:
    return [part.split("}")[0] for part in template.split("{")[1:]]


def questions(rng: Random, placed: Sequence[PlacedObject], absent: ObjectSpec) -> list[tuple[str, str]]:
    """Questions about existence, number, relation and place, each with its answer."""
    one, other = rng.sample(placed, 2)
    true = rng.choice(relations_of(one, other))
    relation = true if rng.random() < 0.5 else OPPOSITE[true]
    there = rng.random() < 0.5
    pairs = [
        (f"is there {(one.spec if there else absent).phrase()}?", "yes" if there else "no"),
        ("how many objects are there?", str(len(placed))),
        (f"is the {one.spec.noun} {relation} the {other.spec.noun}?", "yes" if relation == true else "no"),
    ]
    beside = [third for third in placed if third is not other and related(third, true, other)]
    if len(beside) == 1:
        pairs.append((f"what is {true} the {other.spec.noun}?", one.spec.noun))
    return pairs


def texts(example: Example) -> list[str]:
    """List all texts of an image; vocabularies are trained on them."""
    answered = [text for pair in example.questions for text in pair]
    return [example.caption, *(region.phrase for region in example.regions), example.absent, *answered]


def references(example: Example) -> list[str]:
    """Five captions as in COCO, the image's own first; its own alone if it has fewer than three objects."""
    assert isinstance(example.facts, Facts)
    placed = list(example.facts.objects.values())
    if len(placed) < 3:
        return [example.caption]
    more = (caption(stream("reference", example.key, number), placed) for number in range(1, NUM_REFERENCES))
    return [example.caption, *(text for text, _ in more)]


def describes(caption: Example, picture: Example) -> bool:
    """Return True if every object and relation of the caption is in the other image."""
    assert isinstance(caption.facts, Facts)
    assert isinstance(picture.facts, Facts)
    return caption.facts.entails(picture.facts)


def mirror(example: Example) -> Example:
    """Return the example with the facts of its mirrored image and caption; image and caption stay."""
    assert isinstance(example.facts, Facts)
    return dataclasses.replace(example, facts=example.facts.mirror())
