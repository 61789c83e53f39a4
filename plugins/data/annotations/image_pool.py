"""All images of ``coco`` under one numbering: read when drawn, cached if all fit, counted if they are bad."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from core.types import Region
from plugins.data.annotations.image_source import ImageSource, Photo
from plugins.data.annotations.shared_images import SharedImages
from plugins.data.bad_records import LOG, BadRecord, BadRecords
from plugins.data.held_out import SPLITS

MAX_CACHE_BYTES = 512 * 2**20  # of decoded images in each process
MIN_ALLOWED_BAD = 3  # images that may be bad whatever the budget
MAX_DRAWS = 1000  # for one image
UNREAD, GOOD, BAD = range(3)


class ImagePool:
    """Images of several sources, each in one split; see SharedImages.

    Args:
        max_short_side: pixels; an image whose short side is longer is reduced to this when it is read.
        budget: share of the images read that may be bad.

    Raises:
        ValueError: no image of one of the sources can be used.
    """

    def __init__(self, sources: Sequence[ImageSource], max_short_side: int, budget: float):
        self.sources, self.max_short_side, self.budget = sources, max_short_side, budget
        for source in sources:
            source.probe(max_short_side)
        self.shared = SharedImages(sources)
        self.bad = BadRecords()
        self._state = np.zeros(len(self), np.uint8)
        self._logged: set[str] = set()  # kinds of images turned upright with boxes
        total_bytes = len(self) * max_short_side * max_short_side * 4  # 3 bytes a pixel, width 4/3 of height
        fits = total_bytes <= MAX_CACHE_BYTES
        self._cache: dict[int, Photo] | None = {} if fits else None

    def __len__(self) -> int:
        return self.shared.starts[-1]

    def find(self, number: int) -> tuple[ImageSource, int]:
        """Return an image's source, and its number there."""
        return self.shared.find(number)

    def numbers(self, split: str, having: Literal["captioned", "boxed"]) -> list[NDArray[np.int64]]:
        """Return the images of a split that have captions, or boxes: one array for each source."""
        return [
            source.in_split(split, getattr(source.records, having)) + start
            for source, start in zip(self.sources, self.shared.starts, strict=False)
        ]

    def distinct(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Select one number of each image: the first whose annotation file states its split, or the first.

        Captions that another source gives for the image are left out.
        """
        images = self.shared.image[numbers]
        if len(np.unique(images)) < len(numbers):
            places = map(self.find, numbers.tolist())
            lacks_split = np.array([index not in source.records.split for source, index in places])
            order = np.lexsort((numbers, lacks_split, images))
            numbers = np.sort(numbers[order[np.unique(images[order], return_index=True)[1]]])
        return numbers

    def shuffled(self, split: str) -> list[int]:
        """Return the captioned images of a split, each once, in an order by the seed and the paths."""

        def place(number: int) -> tuple[float, str]:
            source, index = self.find(number)
            path = source.path(source.records.names[index])
            return source.hash_fraction(path), path  # equal paths have equal fractions

        return sorted(self.distinct(np.concatenate(self.numbers(split, "captioned"))).tolist(), key=place)

    def name(self, number: int) -> str:
        """Return an image's name in its annotation file."""
        source, index = self.find(number)
        return source.records.names[index]

    def captions(self, number: int) -> list[str]:
        source, index = self.find(number)
        return source.records.captions_of(index)

    def absent(self, number: int, regions: tuple[Region, ...]) -> str:
        """Draw a class or phrase that is not in the image, by any of the sources that name it."""
        source, index = self.find(number)
        others = [self.find(other) for other in self.shared.records_of(number) if other != number] if regions else []
        return source.absent(index, regions, others)

    def photo(self, number: int) -> Photo | None:
        """Return an image, or None if it cannot be used.

        Raises:
            ValueError: more images than the budget allows cannot be used.
        """
        if self._cache is not None and number in self._cache:
            return self._cache[number]
        if self._state[number] == BAD:
            return None
        source, index = self.find(number)
        self.bad.tried += int(self._state[number] == UNREAD)
        try:
            photo = source.photo(index, self.max_short_side)
        except BadRecord as err:
            self._state[number] = BAD
            self._count(err)
            return None
        self._state[number] = GOOD
        if photo.turn_note and photo.regions and photo.turn_note[0] not in self._logged:
            self._logged.add(photo.turn_note[0])
            LOG.warning("%s. Others are not logged: patchbay verify counts them.", photo.turn_note[1])
        if self._cache is not None:
            self._cache[number] = photo
        return photo

    def _count(self, err: BadRecord) -> None:
        self.bad.add(err.kind, str(err))
        bad, tried = self.bad.count, self.bad.tried
        if bad > max(MIN_ALLOWED_BAD, self.budget * tried):
            raise ValueError(
                f"{bad} of {tried} images read cannot be used; budget={self.budget:g} allows "
                f"{max(MIN_ALLOWED_BAD, int(self.budget * tried))}. {self.bad}"
            )
        LOG.warning("%s. It is skipped.", err)

    def draw(self, numbers: Iterable[int], again: Callable[[], int]) -> Iterator[tuple[int, Photo]]:
        """Yield images by number; one that cannot be used is replaced by one that ``again`` draws.

        Raises:
            ValueError: too many images, or all that were drawn, cannot be used.
        """
        for number in numbers:
            photo = self.photo(number)
            for _ in range(MAX_DRAWS):
                if photo is not None:
                    break
                number = again()
                photo = self.photo(number)
            if photo is None:
                raise ValueError(f"none of {MAX_DRAWS} images drawn can be used. {self.bad}")
            yield number, photo

    def split_sizes(self) -> dict[str, int]:
        """Count the images with captions or boxes in each split; an image of several sources counts once."""
        records = {s: np.concatenate([*self.numbers(s, "captioned"), *self.numbers(s, "boxed")]) for s in SPLITS}
        return {split: len(np.unique(self.shared.image[numbers])) for split, numbers in records.items()}

    def verify(self) -> dict[str, Any]:
        """Read every image; return the counts of all that is skipped, and the first messages.

        The last messages are about images that training leaves out because they are held out in another source, and
        about images turned upright, one for each kind with their number.
        """
        bad, turns, examples = BadRecords(), Counter[str](), dict[str, str]()
        bad.merge(self.shared.bad)
        for source in self.sources:
            bad.merge(source.bad)
            for index in range(len(source.records.names)):
                try:
                    photo = source.photo(index, self.max_short_side)
                except BadRecord as err:
                    bad.add(err.kind, str(err))
                else:
                    for message in photo.left_out:
                        bad.add("box outside the picture", message)
                    if photo.turn_note:
                        kind, message = photo.turn_note
                        examples.setdefault(kind, message)
                        turns[kind] += 1
        notes = [self.shared.note] if self.shared.note else []
        notes += [f"{n} x {kind}. First: {examples[kind]}" for kind, n in turns.items()]
        return {
            "pictures": len(np.unique(self.shared.image)),
            "records": sum(source.bad.tried for source in self.sources),
            "splits": self.split_sizes(),
            "skipped": dict(bad.kinds),
            "messages": [*bad.messages, *notes],
        }


def share_out(size: int, weights: NDArray[np.float64], available: Sequence[int], rng: Generator) -> list[int]:
    """Draw the number of images of each source in a batch, by weight, at most as many as it has.

    Raises:
        ValueError: all sources together have fewer.
    """
    if size > sum(available):
        raise ValueError(f"a batch of {size} images needs as many to draw from; there are {sum(available)}")
    limits = np.array(available)
    counts = np.zeros(len(limits), np.int64)
    while (left := size - int(counts.sum())) > 0:
        open_ = np.where(counts < limits, weights, 0.0)
        counts = np.minimum(counts + rng.multinomial(left, open_ / open_.sum()), limits)
    return [int(count) for count in counts]
