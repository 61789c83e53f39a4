"""Photo cut-outs on photo backgrounds, composed from a user's folders, with captions, boxes and phrases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from core import kinds
from core.hookspecs import hookimpl
from core.types import Batch, Example, Region
from plugins.data.batching import CLASS_TEXT, BatchOptions, draw_pairs, make_batch
from plugins.data.drawing import captions, compositing
from plugins.data.drawing.compositing import PlacedObject
from plugins.data.drawing.cutout_files import (
    OBJECT_SIDES,
    head,
    read_background,
    read_objects,
    split_backgrounds,
    split_objects,
)
from plugins.data.held_out import SPLITS, Cache, first_examples
from plugins.text.tokenizer import load_tokenizer, train_tokenizer
from registry.part import Between, Count, Fraction, NonNegativeInt, Vocabulary

VOCABULARY_IMAGES = 4000  # training images for the vocabulary


class Cutouts(kinds.Data):
    """Images of 3 to 5 cut-outs on a part of a photo.

    A caption names 3 or 4 objects of an image with relations.
    Objects are split by caption, backgrounds by file, both by the seed. Splits: "validation" and "test" (objects as in
    training, each with its own backgrounds), "withheld" (backgrounds of "test"; the first region of each image is
    an object whose caption does not occur in training).

    Args:
        objects: folder of transparent PNGs, each with a caption in a .txt of the same name; subfolders are included.
        backgrounds: folder of JPEG or PNG photos; subfolders are included.
        image_size: side of the images in pixels.
        train_size: number of training images.
        box_fraction: share of the training images with boxes in the region batches.
        region_batch_size: images in the region batch of a step.
        text_length: maximum number of tokens of a text.
        mask: share of a caption's words that are masked for masked language modelling.
        seed: of the splits and the images; `run.seed` decides their order in training.
        vocabulary: a saved vocabulary; empty: a WordPiece vocabulary is trained on the training captions.

    Raises:
        ValueError: a folder is missing or has too few files, or a file in it cannot be used; names it.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"regions": "region_batch_size", "boxes": "box_fraction"}

    def __init__(
        self,
        *,
        objects: str = "",
        backgrounds: str = "",
        image_size: Annotated[int, Between(32, 1024)] = 64,
        train_size: Annotated[int, Between(1, 10_000_000)] = 60_000,
        box_fraction: Fraction = 0.05,
        region_batch_size: Count = 32,
        text_length: Count = 40,
        mask: Fraction = 0.15,
        seed: NonNegativeInt = 0,
        vocabulary: Vocabulary = "",
    ):
        self.image_size, self.train_size, self.text_length = image_size, train_size, text_length
        self.options, self.seed = BatchOptions(region_batch_size, mask, mirror=captions.mirror), seed
        self.boxed: Sequence[int] = [i for i in range(train_size) if compositing.chosen(box_fraction, seed, "boxes", i)]
        self.cutouts = read_objects(objects, image_size)
        self.train_nouns, self.withheld_nouns = split_objects(self.cutouts, seed, objects)
        self.backgrounds = split_backgrounds(backgrounds, seed)
        self._canvases = {
            file: read_background(file, image_size) for files in self.backgrounds.values() for file in files
        }
        self._held_out: Cache = {split: [] for split in self.splits()}
        self.tokenizer = load_tokenizer(vocabulary, text_length) if vocabulary else self._train_tokenizer(text_length)

    def batch(self, step: int, *, size: int, seed: int, reads: frozenset[str]) -> Batch:
        return make_batch(self, self.tokenizer, self.options, step, size=size, seed=seed, reads=reads)

    def splits(self) -> Sequence[str]:
        return ("validation", "test", "withheld")

    def held_out(self, split: str, count: int) -> Sequence[Example]:
        """Draw the first ``count`` images of a split; their number is unlimited.

        Raises:
            ValueError: no such split.
        """
        return first_examples(self._held_out, split, count, self._draw)

    def verify(self) -> dict[str, Any]:
        """Count the files, all of which were read: objects with captions, and backgrounds by split."""
        objects = sum(len(cutout.sprites) for cutout in self.cutouts.values()) // len(OBJECT_SIDES)
        splits = {split: len(self.backgrounds[split]) for split in SPLITS}
        note = (
            f"splits: {sum(splits.values())} backgrounds; captions withheld from training: {len(self.withheld_nouns)}"
        )
        return {
            "pictures": objects + sum(splits.values()),
            "records": objects,
            "splits": splits,
            "skipped": {},
            "messages": [note],
        }

    def references(self, example: Example) -> Sequence[str]:
        return captions.references(example)

    def describes(self, caption: Example, picture: Example) -> bool:
        return captions.describes(caption, picture)

    def draw(self, number: int) -> Example:
        """Draw training image ``number``."""
        return self._draw("train", number)

    def examples(self, size: int, rng: Generator) -> list[Example]:
        return [self.draw(number) for number in draw_pairs(self.train_size, size, rng)]

    def boxed_example(self, number: int, rng: Generator) -> Example:
        return self.draw(number)

    def _draw(self, split: str, number: int) -> Example:
        rng = compositing.stream("cutouts", self.seed, split, number)
        canvas = self._canvas(rng, split)
        nouns = self._nouns(rng, split)
        objects = [(self.cutouts[noun].spec, rng.choice(self.cutouts[noun].sprites)) for noun in nouns]
        placed = compositing.paste(canvas, objects, compositing.layout(rng, len(objects)))
        return self._example(rng, f"{split} picture {number}", split, canvas, placed)

    def _example(
        self, rng: Random, key: str, split: str, canvas: NDArray[np.uint8], placed: Sequence[PlacedObject]
    ) -> Example:
        caption, facts = captions.caption(rng, placed)
        heads = {head(one.spec.noun) for one in placed}
        others = [
            noun
            for noun in (self.withheld_nouns if split == "withheld" else self.train_nouns)
            if noun not in facts.objects
        ]
        absent = self.cutouts[rng.choice([noun for noun in others if head(noun) not in heads] or others)].spec
        return Example(
            key=key,
            image=torch.from_numpy(canvas),
            caption=caption,
            regions=tuple(Region(one.box, one.spec.phrase(), one.spec.label) for one in placed),
            absent=absent.phrase(),
            questions=tuple(captions.questions(rng, placed, absent)),
            facts=facts,
        )

    def _nouns(self, rng: Random, split: str) -> list[str]:
        """Draw 3 to 5 nouns with different last words: next to a little penguin, "a penguin" would be ambiguous."""
        count = rng.randint(3, 5)
        picked = [rng.choice(self.withheld_nouns)] if split == "withheld" else []
        for noun in rng.sample(self.train_nouns, len(self.train_nouns)):
            if len(picked) < count and head(noun) not in map(head, picked):
                picked.append(noun)
        return picked

    def _canvas(self, rng: Random, split: str) -> NDArray[np.uint8]:
        """Copy a random part of a background, (3, S, S)."""
        whole, size = self._canvases[rng.choice(self.backgrounds[split])], self.image_size
        top, left = rng.randint(0, whole.shape[1] - size), rng.randint(0, whole.shape[2] - size)
        return whole[:, top : top + size, left : left + size].copy()

    def _train_tokenizer(self, length: int) -> kinds.Tokenizer:
        """Train a vocabulary on texts of training images that are not drawn: the same for all image sizes."""
        texts = [CLASS_TEXT.format(label=noun) for noun in self.train_nouns]
        nothing = np.zeros((3, 1, 1), np.uint8)
        for number in range(VOCABULARY_IMAGES):
            rng = compositing.stream("cutouts", self.seed, "vocabulary", number)
            nouns = self._nouns(rng, "train")
            centres = compositing.layout(rng, len(nouns))
            placed = [
                PlacedObject(self.cutouts[n].spec, (0, 0, 1, 1), centre)
                for n, centre in zip(nouns, centres, strict=True)
            ]
            texts += captions.texts(self._example(rng, "", "train", nothing, placed))
        return train_tokenizer(texts, length)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("cutouts", Cutouts)
