"""Images with annotation files in the formats of COCO, Visual Genome, Conceptual Captions and SBU, mixed by weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, sqrt
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from core import kinds
from core.files import paths
from core.hookspecs import hookimpl
from core.types import Batch, DataSpec, Example, Region
from plugins.data.annotations.image_pool import ImagePool, share_out
from plugins.data.annotations.image_source import ImageSource, Photo, SourceFiles
from plugins.data.annotations.vocabulary import (
    assumed_size,
    check_vocabulary,
    open_vocabulary,
    train_vocabulary,
    warn_of_unknown_captions,
)
from plugins.data.augment import random_crop, squared
from plugins.data.batching import BatchOptions, make_batch
from plugins.data.held_out import SPLITS, Cache, first_examples
from plugins.data.randaugment import rand_augment
from registry.part import Between, Count, Fraction, NonNegativeInt, Vocabulary, parameters

MIN_CROP_AREA = {"light": 0.5, "strong": 0.2}  # share of an image's area


class Coco(kinds.Data):
    """Captioned images with boxes, from annotation files in the public formats, which are recognised.

    Captions: COCO's, Karpathy's dataset_coco.json with its splits, Visual Genome's region_descriptions.json, pairs of
    {image, caption} as JSON, JSON lines, CSV or TSV. Boxes: COCO's instances, Visual Genome's region_descriptions.json
    and objects.json.

    Splits: "validation" and "test" if a file or the seed assigns images to them; and "train", the first training
    images, which are not held out and measure the fit to the training data. Their images are whole, resized to a
    square. An image is in one split, whatever sources, links and spellings of its path name it, with its boxes and
    captions; it is evaluated once. Splits are drawn by the path within the source. ``SharedImages`` has the details.

    A bad record is skipped when the files are read. A bad image is replaced by another when it is drawn. Both are
    counted and logged; if their share is above the budget, it is an error.

    Args:
        sources: each {images, captions, boxes, weight}: a folder, two lists of files, and the weight in a batch.
        image_size: side of the images in pixels.
        text_length: maximum number of tokens of a text.
        region_batch_size: images in the region batch of a step.
        mask: share of a caption's words that are masked for masked language modelling.
        augment: light: crops of half the area or more, flips, brightness and contrast; strong, as in ALBEF and mPLUG:
            crops of a fifth or more, flips, RandAugment.
        held_out: share of the images for validation, and as much for test, if no file gives their split.
        budget: share of a file's records, and of the images drawn, that may be bad.
        seed: of the splits; `run.seed` decides the order of training.
        vocabulary: a saved vocabulary; empty: a WordPiece vocabulary is trained on the training texts.
        vocabulary_size: number of pieces that `patchbay check` assumes while the vocabulary is missing; 0: BERT's
            30,522, or 8,000 for one to be trained. Training needs the vocabulary, and uses its number of pieces.

    Raises:
        ValueError: a file or folder is missing, cannot be used or has too few records; names it.
    """

    renamed_settings: ClassVar[Mapping[str, str]] = {"regions": "region_batch_size"}

    # arguments: a recipe sets each of them, and the public names of the settings are frozen
    def __init__(
        self,
        *,
        sources: list[SourceFiles],
        image_size: Annotated[int, Between(32, 1024)] = 256,
        text_length: Count = 25,
        region_batch_size: Count = 32,
        mask: Fraction = 0.15,
        augment: Literal["light", "strong"] = "light",
        held_out: Annotated[float, Between(0, 0.4)] = 0.02,
        budget: Fraction = 0.01,
        seed: NonNegativeInt = 0,
        vocabulary: Vocabulary = "",
        vocabulary_size: NonNegativeInt = 0,
    ):
        self.image_size, self.text_length, self.augment = image_size, text_length, augment
        self.options = BatchOptions(region_batch_size, mask, shade=0.2 if augment == "light" else 0.0)
        if not sources:
            raise ValueError("sources: the list is empty; name at least one {images, captions, boxes}")
        check_vocabulary(vocabulary)
        image_sources = [ImageSource(s, f"sources[{i}]", seed, held_out, budget) for i, s in enumerate(sources)]
        max_short_side = ceil(
            image_size / sqrt(MIN_CROP_AREA[augment])
        )  # the smallest square crop has image_size pixels
        self.pool = ImagePool(image_sources, max_short_side, budget)
        self.boxed: Sequence[int] = np.concatenate(self.pool.numbers("train", "boxed")).tolist()
        self._training = self.pool.numbers("train", "captioned")
        orders = {split: self.pool.shuffled(split) for split in SPLITS[1:]}
        if not any(map(len, self._training)):
            sizes = ", ".join(f"{split} {len(order)}" for split, order in orders.items())
            raise ValueError(f"sources: no image with a caption is left for training: {sizes}")
        self._weights = _weights(sources, [len(numbers) for numbers in self._training])
        self._orders: dict[str, list[int]] = {split: order for split, order in orders.items() if order}
        self._orders["train"] = self.pool.distinct(np.concatenate(self._training)).tolist()
        self._held_out: Cache = {split: [] for split in self._orders}
        self.tokenizer = (
            open_vocabulary(vocabulary, vocabulary_size, text_length)
            if vocabulary
            else train_vocabulary(image_sources, vocabulary_size, text_length)
        )
        warn_of_unknown_captions(image_sources, self.tokenizer)

    @classmethod
    def spec(cls, settings: Mapping[str, Any], reads: frozenset[str]) -> DataSpec:
        """Find the sizes without reading images; annotation files are read only to train a vocabulary."""
        given = {name: parameter.default for name, (_, parameter) in parameters(cls).items()} | dict(settings)
        sources: list[SourceFiles] = given["sources"]
        absent = [fault for i, source in enumerate(sources) for fault in source.absent(f"data.sources[{i}]")]
        length, vocabulary, size = given["text_length"], given["vocabulary"], given["vocabulary_size"]
        splits: Sequence[str] = ()
        if vocabulary and paths.exists(vocabulary):
            pieces = open_vocabulary(vocabulary, size, length).vocabulary
        elif vocabulary or absent:
            pieces, note = assumed_size(vocabulary, size)
            absent.append(note)
        else:
            data = cls(**settings)
            pieces, splits = data.tokenizer.vocabulary, data.splits()
        return DataSpec(
            given["image_size"],
            length,
            pieces,
            masked=max(1, ceil(given["mask"] * length)),
            regions=given["region_batch_size"],
            splits=tuple(splits),
            absent=tuple(absent),
        )

    def batch(self, step: int, *, size: int, seed: int, reads: frozenset[str]) -> Batch:
        """Make a step's batch.

        Raises:
            ValueError: there are fewer than ``size`` images, or more bad ones than the budget allows.
        """
        return make_batch(self, self.tokenizer, self.options, step, size=size, seed=seed, reads=reads)

    def splits(self) -> Sequence[str]:
        return tuple(self._orders)

    def held_out(self, split: str, count: int) -> Sequence[Example]:
        """Return the first ``count`` usable examples of a split.

        Raises:
            ValueError: no such split, or too many images cannot be used.
        """
        sizes = {name: len(order) for name, order in self._orders.items()}
        return first_examples(self._held_out, split, count, self._held_out_example, sizes)

    def references(self, example: Example) -> Sequence[str]:
        return tuple(example.facts)

    def describes(self, caption: Example, picture: Example) -> bool:
        """Return True if the caption is one of the image's own."""
        return caption.caption in picture.facts

    def examples(self, size: int, rng: Generator) -> list[Example]:
        """Draw crops of training images, each with one of its captions."""
        drawn = self.pool.draw(self._mix(size, rng), lambda: self._mix(1, rng)[0])
        return [self._view(number, photo, rng) for number, photo in drawn]

    def boxed_example(self, number: int, rng: Generator) -> Example:
        ((index, photo),) = self.pool.draw([number], lambda: self.boxed[int(rng.integers(len(self.boxed)))])
        return Example(self.pool.name(index), photo.image, "", photo.regions)

    def verify(self) -> dict[str, Any]:
        """Read every image; return ``{pictures, records, splits {split: count}, skipped {kind: count}, messages}``."""
        return self.pool.verify()

    def _mix(self, size: int, rng: Generator) -> list[int]:
        """Draw the numbers of different training images, from each source by its weight."""
        counts = share_out(size, self._weights, [len(numbers) for numbers in self._training], rng)
        drawn = [
            numbers[rng.choice(len(numbers), count, replace=False)]
            for numbers, count in zip(self._training, counts, strict=True)
            if count
        ]
        return [int(number) for number in rng.permutation(np.concatenate(drawn))]

    def _view(self, number: int, photo: Photo, rng: Generator) -> Example:
        image = random_crop(photo.image, rng, self.image_size, MIN_CROP_AREA[self.augment])  # (3, S, S)
        if self.augment == "strong":
            image = rand_augment(image, rng)
        captions = self.pool.captions(number)
        return Example(self.pool.name(number), image, captions[rng.integers(len(captions))], facts=tuple(captions))

    def _held_out_example(self, split: str, index: int) -> Example | None:
        """Return a whole image, resized to a square, with its first caption, its boxes, and all captions as facts.

        Return None if the image cannot be used.
        """
        number = self._orders[split][index]
        photo = self.pool.photo(number)
        if photo is None:
            return None
        height, width = photo.image.shape[-2:]
        across, down, side = self.image_size / width, self.image_size / height, float(self.image_size)

        def scaled(region: Region) -> Region:
            x0, y0, x1, y1 = region.box
            box = (x0 * across, y0 * down, min(x1 * across, side), min(y1 * down, side))
            return Region(box, region.phrase, region.label)

        captions = self.pool.captions(number)
        return Example(
            key=self.pool.name(number),
            image=squared(photo.image, self.image_size),
            caption=captions[0],
            regions=tuple(map(scaled, photo.regions)),
            absent=self.pool.absent(number, photo.regions),
            facts=tuple(captions),
        )


def _weights(sources: Sequence[SourceFiles], counts: Sequence[int]) -> NDArray[np.float64]:
    """Compute the weight of each source in a batch: 0 without training captions.

    Raises:
        ValueError: some sources have a weight and others do not.
    """
    given = [source.weight for source, count in zip(sources, counts, strict=True) if count]
    if any(given) and not all(given):
        raise ValueError(
            f"sources: the weights are {', '.join(f'{w:g}' for w in given)}; give every source one, or none"
        )
    return np.array([(s.weight or n) if n else 0 for s, n in zip(sources, counts, strict=True)], np.float64)


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("coco", Coco)
