"""Painter of ``scenes``: objects, their places, background and texts of each numbered image."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray

from core.types import Example, Region
from plugins.data.drawing import captions, compositing, shapes
from plugins.data.drawing.captions import Facts
from plugins.data.drawing.compositing import ObjectSpec, PlacedObject, Sprite
from plugins.text.prompts import label_caption

TWIN_FRACTION = 0.25  # fraction of the pairs of scenes 2k, 2k + 1 that differ only in their shapes
BACKGROUNDS = {"train": (0, 96), "validation": (96, 120), "test": (120, 144), "withheld": (120, 144)}
CLASS_STRIDE = 61  # between held-out classes: coprime to 70 and 10, and the first few differ in shape and colour

Combination = tuple[str, str]  # shape, colour
COLOURS = tuple(shapes.COLOURS)
# 10 of the 80: one colour of each shape, each colour at most twice
WITHHELD = tuple((shape, COLOURS[(3 * i + 1) % len(COLOURS)]) for i, shape in enumerate(shapes.SHAPES))
TRAINING = tuple((shape, colour) for shape in shapes.SHAPES for colour in COLOURS if (shape, colour) not in WITHHELD)
CLASSES = tuple(f"{colour} {shape}" for shape, colour in TRAINING)
TRAINING_SHAPES = {colour: [shape for shape, other in TRAINING if other == colour] for colour in COLOURS}


class Painter:
    """Painter of the numbered scenes of one seed at one size; caches shapes and backgrounds.

    Args:
        twins: fraction of the pairs of training scenes that are twins; of held-out ones TWIN_FRACTION are.
    """

    def __init__(self, image_size: int, seed: int, twins: float = TWIN_FRACTION):
        self.image_size, self.seed, self.twins = image_size, seed, twins
        self._sprites: dict[tuple[str, str, str, str], tuple[ObjectSpec, Sprite]] = {}
        self._backgrounds: dict[int, NDArray[np.uint8]] = {}

    def scene(self, split: str, number: int) -> Example:
        """Paint a scene of 3 to 5 objects, with caption, regions and questions."""
        rng = compositing.stream("scene", self.seed, split, number // 2)
        twins = split != "withheld" and rng.random() < (self.twins if split == "train" else TWIN_FRACTION)
        if not twins:
            rng = compositing.stream("scene", self.seed, split, number // 2, number % 2)
        count = rng.randint(3, 5)
        canvas = self.canvas(rng, rng.randrange(*BACKGROUNDS[split]))
        centres = compositing.layout(rng, count)
        combinations = _combinations(rng, count, number % 2 if twins else None, split == "withheld")
        placed = compositing.paste(canvas, [self._object(rng, *combination) for combination in combinations], centres)
        caption, facts = captions.caption(rng, placed)
        absent, _ = self._object(rng, *rng.choice([other for other in _classes(split) if other not in combinations]))
        return Example(
            key=f"{split} scene {number}",
            image=torch.from_numpy(canvas),
            caption=caption,
            regions=tuple(Region(one.box, _phrase(rng, one.spec), one.spec.label) for one in placed),
            absent=_phrase(rng, absent),
            questions=(*captions.questions(rng, placed, absent), *_questions(rng, placed, combinations)),
            facts=facts,
        )

    def single(self, split: str, number: int) -> Example:
        """Paint one object, captioned by its labels. Classes are random in training and in turn if held out."""
        rng = compositing.stream("single", self.seed, split, number)
        canvas = self.canvas(rng, rng.randrange(*BACKGROUNDS[split]))
        classes = _classes(split)
        shape, colour = rng.choice(classes) if split == "train" else classes[CLASS_STRIDE * number % len(classes)]
        placed = compositing.paste(canvas, [self._object(rng, shape, colour)], compositing.layout(rng, 1))
        (one,) = placed
        absent, _ = self._object(rng, *rng.choice([other for other in classes if other != (shape, colour)]))
        return Example(
            key=f"{split} single {number}",
            image=torch.from_numpy(canvas),
            caption=label_caption(rng, [one.spec.noun, one.spec.label]),
            regions=(Region(one.box, _phrase(rng, one.spec), one.spec.label),),
            absent=_phrase(rng, absent),
            questions=tuple(_questions(rng, placed, [(shape, colour)])),
            facts=Facts(objects={one.spec.noun: one}, mentions=((one.spec.noun, ()),), relations=()),
            labels=(one.spec.noun,),
        )

    def _object(self, rng: Random, shape: str, colour: str) -> tuple[ObjectSpec, Sprite]:
        key = (shape, colour, rng.choice(("small", "large")), rng.choice(shapes.TEXTURES))
        if key not in self._sprites:
            article = "an" if colour[0] in "aeiou" else "a"
            spec = ObjectSpec(f"{colour} {shape}", shape, article, adjectives=key[2:])
            self._sprites[key] = spec, shapes.draw_shape(*key, self.image_size)
        return self._sprites[key]

    def canvas(self, rng: Random, number: int) -> NDArray[np.uint8]:
        """Copy a random crop of a background, (3, S, S)."""
        size = self.image_size
        if number not in self._backgrounds:
            self._backgrounds[number] = shapes.draw_background(number, size + size // 2)
        left, top = rng.randint(0, size // 2), rng.randint(0, size // 2)
        return self._backgrounds[number][:, top : top + size, left : left + size].copy()


def _classes(split: str) -> tuple[Combination, ...]:
    return WITHHELD if split == "withheld" else TRAINING


def _combinations(rng: Random, count: int, twin: int | None, withheld: bool) -> list[Combination]:
    """Draw distinct combinations. Twins 0 and 1 have the same colours in the same order, and no common combination."""
    picked: list[Combination] = [rng.choice(WITHHELD)] if withheld else []
    used = set(picked)
    while len(picked) < count:
        colour = rng.choice(COLOURS)
        free = [shape for shape in TRAINING_SHAPES[colour] if (shape, colour) not in used]
        if len(free) < 2:
            continue
        pair = [(shape, colour) for shape in rng.sample(free, 2)]
        used.update(pair[:1] if twin is None else pair)
        picked.append(pair[twin or 0])
    return picked


def _phrase(rng: Random, spec: ObjectSpec) -> str:
    """Short description of an object: "red circle", "a small red circle", "the striped red circle"."""
    adjectives = [word for word in spec.adjectives if rng.random() < 0.25]
    wording = rng.random()
    if wording < 0.4:
        return spec.phrase(adjectives)
    return " ".join((["the"] if wording < 0.7 else []) + [*adjectives, spec.noun])


def _questions(
    rng: Random, placed: Sequence[PlacedObject], combinations: Sequence[Combination]
) -> list[tuple[str, str]]:
    """Questions about colour, shape and numbers, each with its answer."""
    pairs = []
    shape, colour = rng.choice(combinations)
    named, dyed = [other for other, _ in combinations], [other for _, other in combinations]
    if named.count(shape) == 1:
        pairs.append((f"what colour is the {shape}?", colour))
    if dyed.count(colour) == 1:
        pairs.append((f"what shape is the {colour} object?", shape))
    pairs.append((f"how many {colour} objects are there?", str(dyed.count(colour))))
    queried = rng.choice(tuple(shapes.SHAPES))
    plural = queried + ("es" if queried.endswith("s") else "s")
    return [*pairs, (f"how many {plural} are there?", str(named.count(queried)))]
