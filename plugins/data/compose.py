"""Pictures put together from things on a background, and what can truly be said of them.

Both ``scenes`` and ``cutouts`` end here: things are placed in jittered cells of a 3 x 3 grid, alpha-blended, and named
in a caption with relations between their centres. What a caption claims is kept as facts, so that its truth of any
other picture is known exactly. "left" and "right" occur in relations only: a flip swaps them as words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.types import Example

CELLS = 3  # cells across and down
JITTER = 0.07  # greatest shift of a centre from its cell's, as a share of the picture's side
MARGIN = 0.15  # least distance of two centres along an axis for a relation to be true; JITTER leaves one to every pair
FAINT = 26  # alpha (of 256) below which a pixel counts as not there
WORDS = 25  # a caption with more words is told again in the shortest way

RELATIONS = {  # wordings; the first is the relation's name
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
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


class Sprite(NamedTuple):
    """A picture with transparency, trimmed to what is visible and made ready for blending."""

    colour: NDArray[np.uint16]  # (3, h, w) colour x alpha, 0 to 255 x 256
    rest: NDArray[np.uint16]  # (h, w) 256 - alpha: the share of the background that shows


class Thing(NamedTuple):
    """What can stand in a picture; ``noun`` tells it apart from all others there."""

    noun: str  # "red circle"
    label: str  # its class: "circle"
    article: str = "a"
    adjectives: tuple[str, ...] = ()  # further words that are true of it, in their order; none starts with a vowel

    def named(self, adjectives: Sequence[str] = ()) -> str:
        """With its article: "an orange star", "a small orange star"."""
        article = "a" if adjectives and self.article == "an" else self.article
        return " ".join([article, *adjectives, self.noun] if article else [*adjectives, self.noun])


class Placed(NamedTuple):
    """A thing in its place."""

    thing: Thing
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels
    centre: tuple[float, float]  # x, y as shares of the picture


@dataclass(frozen=True)
class Facts:
    """What is in a picture, and what its caption claims."""

    things: Mapping[str, Placed]  # by noun
    named: tuple[tuple[str, tuple[str, ...]], ...]  # noun, adjectives
    relations: tuple[tuple[str, str, str], ...]  # noun, relation, noun

    def hold(self, picture: Facts) -> bool:
        """Whether every claim of this caption is true of another picture."""
        things = picture.things
        return all(
            noun in things and all(word in things[noun].thing.adjectives for word in adjectives)
            for noun, adjectives in self.named
        ) and all(related(things[one], relation, things[other]) for one, relation, other in self.relations)


def related(one: Placed, relation: str, other: Placed) -> bool:
    """Whether the relation is true by the two centres, with a margin."""
    x, y = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    return {"left of": -x, "right of": x, "above": -y, "below": y}[relation] > MARGIN


def relations_of(one: Placed, other: Placed) -> list[str]:
    """The one or two relations that are true of two things."""
    x, y = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    true = ["left of" if x < 0 else "right of"] if abs(x) > MARGIN else []
    return [*true, "above" if y < 0 else "below"] if abs(y) > MARGIN else true


def stream(*key: object) -> Random:
    """Random numbers that depend on the key alone, the same on every machine and Python."""
    return Random(" ".join(map(str, key)))


def fraction(*key: object) -> float:
    """A number in [0, 1) that the key's hash decides."""
    return int.from_bytes(hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=4).digest(), "big") / 2**32


def chosen(share: float, *key: object) -> bool:
    """Whether the key belongs to a share of all keys, decided by its hash."""
    return fraction(*key) < share


def make_sprite(rgba: NDArray[np.uint8]) -> Sprite:
    """Trim a picture (h, w, 4) to its visible part.

    Raises:
        ValueError: nothing of it is visible.
    """
    alpha = np.rint(rgba[..., 3] * (256 / 255)).astype(np.uint16)  # (h, w)
    alpha[alpha < FAINT] = 0
    down, across = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(down):
        raise ValueError("nothing of it is visible")
    window = np.s_[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
    alpha, colour = alpha[window], rgba[..., :3][window].astype(np.uint16)
    return Sprite(np.ascontiguousarray((colour * alpha[..., None]).transpose(2, 0, 1)), 256 - alpha)


def layout(rng: Random, count: int) -> list[tuple[float, float]]:
    """Centres in distinct cells, x and y as shares of the picture."""
    places = [divmod(cell, CELLS) for cell in rng.sample(range(CELLS * CELLS), count)]
    return [
        ((column + 0.5) / CELLS + rng.uniform(-JITTER, JITTER), (row + 0.5) / CELLS + rng.uniform(-JITTER, JITTER))
        for row, column in places
    ]


def paste(
    canvas: NDArray[np.uint8], things: Sequence[tuple[Thing, Sprite]], centres: Sequence[tuple[float, float]]
) -> list[Placed]:
    """Blend things into a square picture (3, S, S) in place. A thing larger than its jitter leaves room for is moved
    back towards the middle of its cell, so that things never overlap."""
    size = canvas.shape[1]
    placed = []
    for (thing, sprite), (x, y) in zip(things, centres, strict=True):
        height, width = sprite.rest.shape
        left, top = _inside(x, width, size), _inside(y, height, size)
        window = canvas[:, top : top + height, left : left + width]  # (3, h, w)
        window[:] = (window * sprite.rest + sprite.colour) >> 8
        box = (float(left), float(top), float(left + width), float(top + height))
        placed.append(Placed(thing, box, ((left + width / 2) / size, (top + height / 2) / size)))
    return placed


def _inside(centre: float, extent: int, size: int) -> int:
    """The first pixel of an extent around a centre, kept within the centre's cell."""
    cell = int(centre * CELLS)
    first, last = -(-cell * size // CELLS), (cell + 1) * size // CELLS - extent
    return max(first, min(last, round(centre * size - extent / 2)))


def caption(rng: Random, placed: Sequence[Placed], adjective_share: float = 0.2) -> tuple[str, Facts]:
    """A sentence that names three or four of the things, with relations, and what it claims."""
    count = 4 if len(placed) > 3 and rng.random() < 0.35 else 3
    template = rng.choice(FOUR if count == 4 else THREE)
    picked = dict(zip("abcd", rng.sample(placed, count), strict=False))
    adjectives = {
        letter: tuple(word for word in one.thing.adjectives if rng.random() < adjective_share)
        for letter, one in picked.items()
    }
    pairs = [field for field in _fields(template) if len(field) == 2]
    relations = {pair: rng.choice(relations_of(picked[pair[0]], picked[pair[1]])) for pair in pairs}
    wordings = {pair: rng.choice(RELATIONS[relation]) for pair, relation in relations.items()}

    def tell() -> str:
        first = {letter: one.thing.named(adjectives[letter]) for letter, one in picked.items()}
        later = {letter.upper(): f"the {one.thing.noun}" for letter, one in picked.items()}
        return template.format_map(first | later | wordings)

    text = tell()
    if text.count(" ") >= WORDS:
        adjectives, wordings = dict.fromkeys(picked, ()), relations
        text = tell()
    return text, Facts(
        things={one.thing.noun: one for one in placed},
        named=tuple((one.thing.noun, adjectives[letter]) for letter, one in picked.items()),
        relations=tuple(
            (picked[pair[0]].thing.noun, relation, picked[pair[1]].thing.noun) for pair, relation in relations.items()
        ),
    )


def _fields(template: str) -> list[str]:
    return [part.split("}")[0] for part in template.split("{")[1:]]


def questions(rng: Random, placed: Sequence[Placed], absent: Thing) -> list[tuple[str, str]]:
    """Existence, number, relation, and what stands where, each with its answer."""
    one, other = rng.sample(placed, 2)
    true = rng.choice(relations_of(one, other))
    asked = true if rng.random() < 0.5 else OPPOSITE[true]
    there = rng.random() < 0.5
    found = [
        (f"is there {(one.thing if there else absent).named()}?", "yes" if there else "no"),
        ("how many objects are there?", str(len(placed))),
        (f"is the {one.thing.noun} {asked} the {other.thing.noun}?", "yes" if asked == true else "no"),
    ]
    beside = [third for third in placed if third is not other and related(third, true, other)]
    if len(beside) == 1:
        found.append((f"what is {true} the {other.thing.noun}?", one.thing.noun))
    return found


def texts(example: Example) -> list[str]:
    """All that is said of a picture: what a vocabulary is made from."""
    asked = [text for pair in example.questions for text in pair]
    return [example.caption, *(region.phrase for region in example.regions), example.absent, *asked]


def first(made: dict[str, list[Example]], split: str, count: int, draw: Callable[[str, int], Example]) -> list[Example]:
    """The first ``count`` examples of a held-out split; ``made`` keeps what was drawn before.

    Raises:
        ValueError: no such split.
    """
    if split not in made:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(made)}")
    made[split] += [draw(split, number) for number in range(len(made[split]), count)]
    return made[split][:count]


def describes(caption: Example, picture: Example) -> bool:
    """Whether every object and relation that the caption names is in the picture."""
    assert isinstance(caption.facts, Facts)
    assert isinstance(picture.facts, Facts)
    return caption.facts.hold(picture.facts)
