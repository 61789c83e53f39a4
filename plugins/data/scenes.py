"""Embedded data: drawn scenes of coloured shapes, numbered and deterministic; no file and no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar

from numpy.random import Generator

from core import kinds
from core.hookspecs import hookimpl
from core.types import Batch, Example
from plugins.data.batching import CLASS_TEXT, BatchOptions, draw_pairs, make_batch
from plugins.data.drawing import captions, compositing, shapes
from plugins.data.drawing.scene_painter import CLASSES, Painter
from plugins.data.held_out import Cache, first_examples
from plugins.text.tokenizer import load_tokenizer, train_tokenizer
from registry.part import Between, Count, Fraction, NonNegativeInt

CORPUS = 2000  # training scenes whose texts make the vocabulary


class Scenes(kinds.Data):
    """3 to 5 of 10 shapes in 8 colours, 2 sizes and 3 textures on varied backgrounds, with captions, boxes, phrases.

    The combination of shape and colour tells an object apart in its scene. A quarter of the pairs of scenes 2k, 2k + 1
    are twins: they differ in nothing but the shapes. Splits: "validation" and "test" (other scenes, other backgrounds),
    "withheld" (as test; the first region of each scene is of one of 10 combinations that training never shows).
    Labelled pictures hold one object; their classes are the 70 combinations that training shows, their captions made
    from its labels. Scenes of several objects have no label.

    Args:
        image_size: side of the pictures in pixels.
        train_size: number of training scenes.
        box_fraction: share of the training scenes whose boxes may be learned from.
        labelled: share of the training scenes, pair by pair, with a labelled picture in their place.
        region_batch_size: pictures in the region batch of a step.
        text_length: greatest number of tokens of a text.
        mask: share of a caption's words that masked language modelling hides.
        seed: of the scenes; training draws them in an order of its own seed.
        vocabulary: a saved vocabulary; empty: a WordPiece vocabulary is made from the captions.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"regions": "region_batch_size", "boxes": "box_fraction"}
    classes = CLASSES

    def __init__(
        self,
        *,
        image_size: Annotated[int, Between(32, 1024)] = 64,
        train_size: Annotated[int, Between(1, 10_000_000)] = 60_000,
        box_fraction: Fraction = 0.05,
        labelled: Fraction = 0.0,
        region_batch_size: Count = 32,
        text_length: Count = 40,
        mask: Fraction = 0.15,
        seed: NonNegativeInt = 0,
        vocabulary: str = "",
    ):
        self.image_size, self.train_size, self.text_length = image_size, train_size, text_length
        self.labelled = labelled
        self.options = BatchOptions(region_batch_size, mask, classes=self.classes)
        self.boxed: Sequence[int] = [i for i in range(train_size) if compositing.chosen(box_fraction, seed, "boxes", i)]
        self._painter = Painter(image_size, seed)
        self._held_out: Cache = {split: [] for split in self.splits()}
        self._singles: Cache = {split: [] for split in self.splits()}
        self.tokenizer = load_tokenizer(vocabulary, text_length) if vocabulary else _made(seed, text_length)

    def batch(self, step: int, *, size: int, seed: int, reads: frozenset[str]) -> Batch:
        return make_batch(self, self.tokenizer, self.options, step, size=size, seed=seed, reads=reads)

    def splits(self) -> Sequence[str]:
        return ("validation", "test", "withheld")

    def held_out(self, split: str, count: int) -> Sequence[Example]:
        """As many scenes as asked for: there is no last one.

        Raises:
            ValueError: no such split.
        """
        return first_examples(self._held_out, split, count, self._painter.scene)

    def labelled_examples(self, split: str, count: int) -> Sequence[tuple[Example, str]]:
        """As many as asked for; of 70 classes, in "withheld" of the 10 others. A class is named as "red circle".

        Raises:
            ValueError: no such split.
        """
        examples = first_examples(self._singles, split, count, self._painter.single)
        return [(example, example.labels[0]) for example in examples]

    def references(self, example: Example) -> Sequence[str]:
        return captions.references(example)

    def describes(self, caption: Example, picture: Example) -> bool:
        return captions.describes(caption, picture)

    def draw(self, number: int) -> Example:
        """Training scene ``number``, or the labelled picture in its place."""
        single = compositing.chosen(self.labelled, self._painter.seed, "labelled", number // 2)
        return self._painter.single("train", number) if single else self._painter.scene("train", number)

    def examples(self, size: int, rng: Generator) -> list[Example]:
        return [self.draw(number) for number in draw_pairs(self.train_size, size, rng)]

    def boxed_example(self, number: int, rng: Generator) -> Example:
        return self.draw(number)


def _made(seed: int, length: int) -> kinds.Tokenizer:
    """The vocabulary of the first training scenes: the same at every size of picture and of training set."""
    painter = Painter(64, seed)
    examples = [painter.scene("train", number) for number in range(CORPUS)]
    classes = [CLASS_TEXT.format(label=shape) for shape in shapes.SHAPES]
    return train_tokenizer([*classes, *(text for example in examples for text in captions.texts(example))], length)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("scenes", Scenes)
