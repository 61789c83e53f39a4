"""Embedded data: scenes of coloured shapes, drawn by number, deterministic; no file and no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar

from numpy.random import Generator

from core import kinds
from core.hookspecs import hookimpl
from core.types import Batch, Example
from plugins.data.batching import CLASS_TEXT, BatchOptions, draw_pairs, make_batch
from plugins.data.drawing import captions, compositing, shapes
from plugins.data.drawing.scene_painter import CLASSES, TWIN_FRACTION, Painter
from plugins.data.held_out import Cache, first_examples
from plugins.text.tokenizer import load_tokenizer, train_tokenizer
from registry.part import Between, Count, Fraction, NonNegativeInt, Vocabulary

VOCABULARY_SCENES = 2000  # training scenes for the vocabulary


class Scenes(kinds.Data):
    """Scenes of 3 to 5 shapes on varied backgrounds, with captions, boxes and phrases.

    There are 10 shapes, 8 colours, 2 sizes and 3 textures. No two objects of a scene have the same shape and colour. A
    quarter of the pairs of scenes 2k, 2k + 1 are twins: they differ only in the shapes. A batch has both scenes of a
    pair, so that twins are hard negatives of each other. Splits: "validation" and "test"
    (other scenes, other backgrounds), "withheld" (as test; the first region of each scene has one of 10 combinations of
    shape and colour that never occur in training).
    Labelled images contain one object; their classes are the 70 combinations that occur in training, their captions are
    made from its labels. Scenes of several objects have no label.

    Args:
        image_size: side of the images in pixels.
        train_size: number of training scenes.
        box_fraction: share of the training scenes with boxes in the region batches.
        twins: share of the pairs of training scenes that are twins.
        labelled: share of the training scenes, pair by pair, replaced by a labelled image.
        region_batch_size: images in the region batch of a step.
        text_length: maximum number of tokens of a text.
        mask: share of a caption's words that are masked for masked language modelling.
        seed: of the scenes; `run.seed` decides their order in training.
        vocabulary: a saved vocabulary; empty: a WordPiece vocabulary is trained on the captions.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"regions": "region_batch_size", "boxes": "box_fraction"}
    classes = CLASSES

    def __init__(
        self,
        *,
        image_size: Annotated[int, Between(32, 1024)] = 64,
        train_size: Annotated[int, Between(1, 10_000_000)] = 60_000,
        box_fraction: Fraction = 0.05,
        twins: Fraction = TWIN_FRACTION,
        labelled: Fraction = 0.0,
        region_batch_size: Count = 32,
        text_length: Count = 40,
        mask: Fraction = 0.15,
        seed: NonNegativeInt = 0,
        vocabulary: Vocabulary = "",
    ):
        self.image_size, self.train_size, self.text_length = image_size, train_size, text_length
        self.labelled = labelled
        self.options = BatchOptions(region_batch_size, mask, classes=self.classes, mirror=captions.mirror)
        self.boxed: Sequence[int] = [i for i in range(train_size) if compositing.chosen(box_fraction, seed, "boxes", i)]
        self._painter = Painter(image_size, seed, twins)
        self._held_out: Cache = {split: [] for split in self.splits()}
        self._singles: Cache = {split: [] for split in self.splits()}
        self.tokenizer = load_tokenizer(vocabulary, text_length) if vocabulary else _train_tokenizer(seed, text_length)

    def batch(self, step: int, *, size: int, seed: int, reads: frozenset[str]) -> Batch:
        return make_batch(self, self.tokenizer, self.options, step, size=size, seed=seed, reads=reads)

    def splits(self) -> Sequence[str]:
        return ("validation", "test", "withheld")

    def held_out(self, split: str, count: int) -> Sequence[Example]:
        """Draw the first ``count`` scenes of a split; their number is unlimited.

        Raises:
            ValueError: no such split.
        """
        return first_examples(self._held_out, split, count, self._painter.scene)

    def labelled_examples(self, split: str, count: int) -> Sequence[tuple[Example, str]]:
        """Draw the first ``count`` labelled images and their classes, such as "red circle"; their number is unlimited.

        The splits have the 70 classes of training, except "withheld", which has the 10 others.

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
        """Draw training scene ``number``, or the labelled image in its place."""
        single = compositing.chosen(self.labelled, self._painter.seed, "labelled", number // 2)
        return self._painter.single("train", number) if single else self._painter.scene("train", number)

    def examples(self, size: int, rng: Generator) -> list[Example]:
        return [self.draw(number) for number in draw_pairs(self.train_size, size, rng)]

    def boxed_example(self, number: int, rng: Generator) -> Example:
        return self.draw(number)


def _train_tokenizer(seed: int, length: int) -> kinds.Tokenizer:
    """Train a vocabulary on the first training scenes: the same for all image sizes and sizes of the training set."""
    painter = Painter(64, seed)
    examples = [painter.scene("train", number) for number in range(VOCABULARY_SCENES)]
    classes = [CLASS_TEXT.format(label=shape) for shape in shapes.SHAPES]
    return train_tokenizer([*classes, *(text for example in examples for text in captions.texts(example))], length)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("scenes", Scenes)
