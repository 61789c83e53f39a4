"""Embedded data: drawn scenes of coloured shapes, numbered and deterministic; no file and no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Annotated

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from core import kinds
from core.hookspecs import hookimpl
from core.part import Between, Count, Natural, Share
from core.types import Batch, Example, Region
from plugins.data import compose, shapes, telling
from plugins.data.batching import CLASS_TEXT, draw_pairs, make_batch
from plugins.data.compose import Placed, Sprite, Thing
from plugins.data.prompts import label_caption
from plugins.data.telling import Facts
from plugins.data.tokenizer import load_tokenizer, train_tokenizer

TWINS = 0.25  # share of the pairs of scenes 2k, 2k + 1 that differ in nothing but their shapes
BACKGROUNDS = {"train": (0, 96), "validation": (96, 120), "test": (120, 144), "withheld": (120, 144)}
CORPUS = 2000  # training scenes whose texts make the vocabulary
TURN = 61  # from one held-out class to the next: coprime to 70 and 10, and the first few differ in shape and colour

Combination = tuple[str, str]  # shape, colour
COLOURS = tuple(shapes.COLOURS)
# 10 of the 80: one colour of each shape, each colour at most twice
WITHHELD = tuple((shape, COLOURS[(3 * i + 1) % len(COLOURS)]) for i, shape in enumerate(shapes.SHAPES))
SEEN = tuple((shape, colour) for shape in shapes.SHAPES for colour in COLOURS if (shape, colour) not in WITHHELD)
SEEN_SHAPES = {colour: [shape for shape, other in SEEN if other == colour] for colour in COLOURS}


class Scenes(kinds.Data):
    """3 to 5 of 10 shapes in 8 colours, 2 sizes and 3 textures on varied backgrounds, with captions, boxes, phrases.

    The combination of shape and colour tells an object apart in its scene. A quarter of the pairs of scenes 2k, 2k + 1
    are twins: they differ in nothing but the shapes. Splits: "validation" and "test" (other scenes, other backgrounds),
    "withheld" (as test; the first region of each scene is of one of 10 combinations that training never shows).
    Labelled pictures hold one object; their classes are the combinations, their captions made from its labels.

    Args:
        image_size: side of the pictures in pixels.
        train_size: number of training scenes.
        boxes: share of the training scenes whose boxes may be learned from.
        labelled: share of the training scenes, pair by pair, with a labelled picture in their place.
        regions: pictures in the region batch of a step.
        text_length: greatest number of tokens of a text.
        mask: share of a caption's words that masked language modelling hides.
        seed: of the scenes; training draws them in an order of its own seed.
        vocabulary: a saved vocabulary; empty: a WordPiece vocabulary is made from the captions.
    """

    def __init__(
        self,
        *,
        image_size: Annotated[int, Between(32, 1024)] = 64,
        train_size: Annotated[int, Between(1, 10_000_000)] = 60_000,
        boxes: Share = 0.05,
        labelled: Share = 0.0,
        regions: Count = 32,
        text_length: Count = 40,
        mask: Share = 0.15,
        seed: Natural = 0,
        vocabulary: str = "",
    ):
        self.image_size, self.train_size, self.text_length = image_size, train_size, text_length
        self.regions, self.mask, self.labelled = regions, mask, labelled
        self.boxed: Sequence[int] = [i for i in range(train_size) if compose.chosen(boxes, seed, "boxes", i)]
        self._painter = Painter(image_size, seed)
        self._held_out: dict[str, list[Example]] = {split: [] for split in self.splits()}
        self._singles: dict[str, list[Example]] = {split: [] for split in self.splits()}
        self.tokenizer = load_tokenizer(vocabulary, text_length) if vocabulary else _made(seed, text_length)

    def batch(self, step: int, *, size: int, seed: int, reads: frozenset[str]) -> Batch:
        return make_batch(
            self, self.tokenizer, step, size=size, seed=seed, reads=reads, regions=self.regions, mask=self.mask
        )

    def splits(self) -> Sequence[str]:
        return ("validation", "test", "withheld")

    def held_out(self, split: str, count: int) -> Sequence[Example]:
        """As many scenes as asked for: there is no last one.

        Raises:
            ValueError: no such split.
        """
        return compose.first(self._held_out, split, count, self._painter.scene)

    def labelled_examples(self, split: str, count: int) -> Sequence[tuple[Example, str]]:
        """As many as asked for; of 70 classes, in "withheld" of the 10 others. A class is named as "red circle".

        Raises:
            ValueError: no such split.
        """
        examples = compose.first(self._singles, split, count, self._painter.single)
        return [(example, next(iter(example.facts.things))) for example in examples]

    def references(self, example: Example) -> Sequence[str]:
        return telling.references(example)

    def describes(self, caption: Example, picture: Example) -> bool:
        return telling.describes(caption, picture)

    def draw(self, number: int) -> Example:
        """Training scene ``number``, or the labelled picture in its place."""
        single = compose.chosen(self.labelled, self._painter.seed, "labelled", number // 2)
        return self._painter.single("train", number) if single else self._painter.scene("train", number)

    def examples(self, size: int, rng: Generator) -> list[Example]:
        return [self.draw(number) for number in draw_pairs(self.train_size, size, rng)]

    def boxed_example(self, number: int, rng: Generator) -> Example:
        return self.draw(number)


class Painter:
    """Draws the numbered scenes of one seed at one size; keeps the shapes and backgrounds that it has drawn."""

    def __init__(self, image_size: int, seed: int):
        self.image_size, self.seed = image_size, seed
        self._sprites: dict[tuple[str, str, str, str], tuple[Thing, Sprite]] = {}
        self._backgrounds: dict[int, NDArray[np.uint8]] = {}

    def scene(self, split: str, number: int) -> Example:
        rng = compose.stream("scene", self.seed, split, number // 2)
        twins = split != "withheld" and rng.random() < TWINS
        if not twins:
            rng = compose.stream("scene", self.seed, split, number // 2, number % 2)
        count = rng.randint(3, 5)
        canvas = self._canvas(rng, rng.randrange(*BACKGROUNDS[split]))
        centres = compose.layout(rng, count)
        combinations = _combinations(rng, count, number % 2 if twins else None, split == "withheld")
        placed = compose.paste(canvas, [self._object(rng, *combination) for combination in combinations], centres)
        caption, facts = telling.caption(rng, placed)
        absent, _ = self._object(rng, *rng.choice([other for other in _classes(split) if other not in combinations]))
        return Example(
            key=f"{split} scene {number}",
            image=torch.from_numpy(canvas),
            caption=caption,
            regions=tuple(Region(one.box, _phrase(rng, one.thing), one.thing.label) for one in placed),
            absent=_phrase(rng, absent),
            questions=(*telling.questions(rng, placed, absent), *_questions(rng, placed, combinations)),
            facts=facts,
        )

    def single(self, split: str, number: int) -> Example:
        """One object at any place, captioned by its labels. Training draws its class; held out, they take turns."""
        rng = compose.stream("single", self.seed, split, number)
        canvas = self._canvas(rng, rng.randrange(*BACKGROUNDS[split]))
        classes = _classes(split)
        shape, colour = rng.choice(classes) if split == "train" else classes[TURN * number % len(classes)]
        placed = compose.paste(canvas, [self._object(rng, shape, colour)], compose.layout(rng, 1))
        (one,) = placed
        absent, _ = self._object(rng, *rng.choice([other for other in classes if other != (shape, colour)]))
        return Example(
            key=f"{split} single {number}",
            image=torch.from_numpy(canvas),
            caption=label_caption(rng, [one.thing.noun, one.thing.label]),
            regions=(Region(one.box, _phrase(rng, one.thing), one.thing.label),),
            absent=_phrase(rng, absent),
            questions=tuple(_questions(rng, placed, [(shape, colour)])),
            facts=Facts(things={one.thing.noun: one}, named=((one.thing.noun, ()),), relations=()),
        )

    def _object(self, rng: Random, shape: str, colour: str) -> tuple[Thing, Sprite]:
        key = (shape, colour, rng.choice(("small", "large")), rng.choice(shapes.TEXTURES))
        if key not in self._sprites:
            article = "an" if colour[0] in "aeiou" else "a"
            thing = Thing(f"{colour} {shape}", shape, article, adjectives=key[2:])
            self._sprites[key] = thing, shapes.draw_shape(*key, self.image_size)
        return self._sprites[key]

    def _canvas(self, rng: Random, number: int) -> NDArray[np.uint8]:
        """A place of a background, (3, S, S), free to be drawn on."""
        size = self.image_size
        if number not in self._backgrounds:
            self._backgrounds[number] = shapes.draw_background(number, size + size // 2)
        left, top = rng.randint(0, size // 2), rng.randint(0, size // 2)
        return self._backgrounds[number][:, top : top + size, left : left + size].copy()


def _classes(split: str) -> tuple[Combination, ...]:
    return WITHHELD if split == "withheld" else SEEN


def _combinations(rng: Random, count: int, twin: int | None, withheld: bool) -> list[Combination]:
    """Distinct combinations. Twins 0 and 1 share the colours in order, and no combination."""
    picked: list[Combination] = [rng.choice(WITHHELD)] if withheld else []
    used = set(picked)
    while len(picked) < count:
        colour = rng.choice(COLOURS)
        free = [shape for shape in SEEN_SHAPES[colour] if (shape, colour) not in used]
        if len(free) < 2:
            continue
        pair = [(shape, colour) for shape in rng.sample(free, 2)]
        used.update(pair[:1] if twin is None else pair)
        picked.append(pair[twin or 0])
    return picked


def _phrase(rng: Random, thing: Thing) -> str:
    """As a person would point it out: "red circle", "a small red circle", "the striped red circle"."""
    adjectives = [word for word in thing.adjectives if rng.random() < 0.25]
    wording = rng.random()
    if wording < 0.4:
        return thing.named(adjectives)
    return " ".join((["the"] if wording < 0.7 else []) + [*adjectives, thing.noun])


def _questions(rng: Random, placed: Sequence[Placed], combinations: Sequence[Combination]) -> list[tuple[str, str]]:
    """Colour, shape and numbers, each with its answer."""
    found = []
    shape, colour = rng.choice(combinations)
    named, dyed = [other for other, _ in combinations], [other for _, other in combinations]
    if named.count(shape) == 1:
        found.append((f"what colour is the {shape}?", colour))
    if dyed.count(colour) == 1:
        found.append((f"what shape is the {colour} object?", shape))
    found.append((f"how many {colour} objects are there?", str(dyed.count(colour))))
    asked = rng.choice(tuple(shapes.SHAPES))
    plural = asked + ("es" if asked.endswith("s") else "s")
    return [*found, (f"how many {plural} are there?", str(named.count(asked)))]


def _made(seed: int, length: int) -> kinds.Tokenizer:
    """The vocabulary of the first training scenes: the same at every size of picture and of training set."""
    painter = Painter(64, seed)
    examples = [painter.scene("train", number) for number in range(CORPUS)]
    classes = [CLASS_TEXT.format(label=shape) for shape in shapes.SHAPES]
    return train_tokenizer([*classes, *(text for example in examples for text in telling.texts(example))], length)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("scenes", Scenes)
