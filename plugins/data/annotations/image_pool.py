"""All pictures of ``coco`` under one numbering: read when drawn, kept where all fit, counted where they are bad."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from plugins.data.annotations.image_source import Collection, Photo
from plugins.data.bad_records import LOG, Fault, Faults

MOST_KEPT = 512 * 2**20  # bytes of decoded pictures in each process
ALWAYS = 3  # pictures may be bad, whatever the budget
TRIES = 1000  # draws for one picture
UNSEEN, GOOD, BAD = range(3)


class Album:
    """Pictures of several collections.

    Args:
        room: pixels; a picture whose short side is longer is brought down to this when it is read.
        budget: share of the pictures tried that may be bad.

    Raises:
        ValueError: of some collection no picture can be used.
    """

    def __init__(self, collections: Sequence[Collection], room: int, budget: float):
        self.collections, self.room, self.budget = collections, room, budget
        counts = [len(collection.records.names) for collection in collections]
        self.starts = [0, *accumulate(counts)]  # the first number of each collection, and how many there are
        self.faults = Faults()
        self._state = np.zeros(self.starts[-1], np.uint8)
        keeps = self.starts[-1] * room * room * 4 <= MOST_KEPT  # of 3 bytes a pixel, a third longer than high
        self._kept: dict[int, Photo] | None = {} if keeps else None
        for collection in collections:
            collection.probe(room)

    def __len__(self) -> int:
        return self.starts[-1]

    def find(self, number: int) -> tuple[Collection, int]:
        """A picture's collection, and its number there."""
        i = bisect_right(self.starts, number) - 1
        return self.collections[i], number - self.starts[i]

    def numbers(self, split: str, having: Literal["captioned", "boxed"]) -> list[NDArray[np.int64]]:
        """The pictures of a split that have captions, or boxes: one array for each collection."""
        return [
            collection.in_split(split, getattr(collection.records, having)) + start
            for collection, start in zip(self.collections, self.starts, strict=False)
        ]

    def shuffled(self, split: str) -> list[int]:
        """The captioned pictures of a split in an order that depends on the seed and the names alone."""

        def place(number: int) -> tuple[float, str]:
            name = self.name(number)
            return self.find(number)[0].lot(name), name  # files of one name in two folders draw the same number

        return sorted(np.concatenate(self.numbers(split, "captioned")).tolist(), key=place)

    def name(self, number: int) -> str:
        """As its annotation file has it."""
        collection, own = self.find(number)
        return collection.records.names[own]

    def captions(self, number: int) -> list[str]:
        collection, own = self.find(number)
        return collection.records.captions_of(own)

    def photo(self, number: int) -> Photo | None:
        """A picture, or None where it cannot be used.

        Raises:
            ValueError: more pictures than the budget allows cannot be used.
        """
        if self._kept is not None and number in self._kept:
            return self._kept[number]
        if self._state[number] == BAD:
            return None
        collection, own = self.find(number)
        self.faults.tried += int(self._state[number] == UNSEEN)
        try:
            photo = collection.photo(own, self.room)
        except Fault as fault:
            self._state[number] = BAD
            self._count(fault)
            return None
        self._state[number] = GOOD
        if self._kept is not None:
            self._kept[number] = photo
        return photo

    def _count(self, fault: Fault) -> None:
        self.faults.add(fault.kind, str(fault))
        bad, tried = self.faults.count, self.faults.tried
        if bad > max(ALWAYS, self.budget * tried):
            raise ValueError(
                f"{bad} of {tried} pictures tried cannot be used; budget={self.budget:g} allows "
                f"{max(ALWAYS, int(self.budget * tried))}. {self.faults}"
            )
        LOG.warning("%s. It is passed over.", fault)

    def draw(self, numbers: Iterable[int], again: Callable[[], int]) -> Iterator[tuple[int, Photo]]:
        """Pictures by number; for one that cannot be used another, which ``again`` draws and which may be there twice.

        Raises:
            ValueError: as ``photo``, or nothing usable was drawn.
        """
        for number in numbers:
            photo = self.photo(number)
            for _ in range(TRIES):
                if photo is not None:
                    break
                number = again()
                photo = self.photo(number)
            if photo is None:
                raise ValueError(f"none of {TRIES} pictures drawn can be used. {self.faults}")
            yield number, photo

    def verify(self) -> dict[str, Any]:
        """Read every picture; the counts of all that is skipped, and the first messages."""
        faults = Faults()
        for collection in self.collections:
            faults.merge(collection.faults)
            for own in range(len(collection.records.names)):
                try:
                    left_out = collection.photo(own, self.room).left_out
                except Fault as fault:
                    faults.add(fault.kind, str(fault))
                else:
                    for message in left_out:
                        faults.add("box outside the picture", message)
        return {
            "pictures": len(self),
            "records": sum(collection.faults.tried for collection in self.collections),
            "skipped": dict(faults.kinds),
            "messages": faults.messages,
        }


def share_out(size: int, weights: NDArray[np.float64], available: Sequence[int], rng: Generator) -> list[int]:
    """How many of ``size`` things each source gives: at random by weight, none more than it has.

    Raises:
        ValueError: all together have fewer.
    """
    if size > sum(available):
        raise ValueError(f"a batch of {size} pictures needs as many to draw from; there are {sum(available)}")
    room = np.array(available)
    counts = np.zeros(len(room), np.int64)
    while (left := size - int(counts.sum())) > 0:
        open_ = np.where(counts < room, weights, 0.0)
        counts = np.minimum(counts + rng.multinomial(left, open_ / open_.sum()), room)
    return [int(count) for count in counts]
