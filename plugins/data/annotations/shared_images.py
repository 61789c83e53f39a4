"""Images that several records or sources name: which files are one image, and the one split that it is in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from plugins.data.annotations.image_source import ImageSource
from plugins.data.annotations.records import plain_path
from plugins.data.bad_records import LOG, BadRecord, BadRecords
from plugins.data.held_out import SPLITS
from plugins.data.image_files import MAX_BYTES, read_bytes

MAX_LINKS = 40  # from one link to the next, as on Linux

Ids = NDArray[np.uint64]


class SharedImages:
    """Gives each image one split over all sources, and changes ``split`` of the sources to it.

    Files are one image if they have the same real path: other folders, links and spellings do not matter. Each folder
    is listed once for that, and a file costs no call of its own unless it is a link. Files of one name in different
    sources are one image too if their content is equal and no other file of a source has both. They are compared only
    if one of them is held out: first by size, then as a whole. A copy under another name is not recognised.

    A split that an annotation file states applies to the image in all sources; of two, the later one of SPLITS.
    Without one, the shortest of an image's paths within the sources decides.

    Attributes:
        image: (records,) of all sources: the number of the first record of the same image.
        bad: images for which annotation files of several sources state different splits.
        note: a sentence about images that would train in one source and are held out in another; "": there are none.
    """

    def __init__(self, sources: Sequence[ImageSource]):
        self.sources = sources
        counts = [len(source.records.names) for source in sources]
        self.starts = [0, *accumulate(counts)]  # the first number of each source, and the number of records
        self._source = np.repeat(np.arange(len(sources)), np.diff(self.starts))  # (records,)
        self._first_split = np.concatenate([source.split for source in sources])  # (records,), of each source alone
        real = RealPaths()
        self._ids = _ids(real(source.file(i)) for source in sources for i in range(len(source.records.names)))
        split = self._settle()
        if len(sources) > 1 and self._join_copies(split):
            split = self._settle()
        _, first, inverse = np.unique(self._ids, return_index=True, return_inverse=True)
        self.image = first[inverse]
        for source, part in zip(sources, np.split(split, self.starts[1:-1]), strict=True):
            source.split = part
        self.note = self._describe(split)
        if self.note:
            LOG.warning("%s.", self.note)

    def records_of(self, number: int) -> list[int]:
        """Return all records of a record's image."""
        return [int(n) for n in np.flatnonzero(self.image == self.image[number])]

    def name(self, number: int) -> str:
        """Format a record's image for a message, with its source."""
        source, index = self.find(number)
        return f"{source.records.names[index]!r} of {source.where}"

    def find(self, number: int) -> tuple[ImageSource, int]:
        """Return a record's source, and its number there."""
        i = int(self._source[number])
        return self.sources[i], number - self.starts[i]

    def _path(self, number: int) -> str:
        source, index = self.find(number)
        return source.path(source.records.names[index])

    def _settle(self) -> NDArray[np.int8]:
        """Compute the split of each record, (records,), and collect contradictions."""
        split, self.bad = self._first_split.copy(), BadRecords()
        for members in _repetitions(self._ids):
            first_records: dict[str, int] = {}  # the first record that states a split
            for number in members.tolist():
                source, index = self.find(number)
                if index in source.records.split:
                    first_records.setdefault(source.records.split[index], number)
            if first_records:
                split[members] = max(SPLITS.index(name) for name in first_records)
            else:
                split[members] = self._first_split[
                    min(members.tolist(), key=lambda n: (len(self._path(n)), self._path(n)))
                ]
            if len(first_records) > 1:
                places = " and ".join(f"{name} as {self.name(number)}" for name, number in first_records.items())
                split_name = SPLITS[int(split[members[0]])]
                self.bad.add("image in two splits", f"an image is in {places}; only {split_name} counts")
        return split

    def _join_copies(self, split: NDArray[np.int8]) -> bool:
        """Give equal files of one name in different sources one id; return True if there are any."""
        names = _ids(os.path.basename(plain_path(name)) for source in self.sources for name in source.records.names)
        next_id: dict[int, int] = {}  # from one id towards that of the image

        def final(value: int) -> int:
            while value in next_id:
                value = next_id[value]
            return value

        for members in _repetitions(names):
            by_id = dict(zip(self._ids[members].tolist(), members.tolist(), strict=True))
            numbers = sorted(by_id.values())
            if len(numbers) < 2 or not split[numbers].any():
                continue
            for same_size in self._alike(numbers, split, _size):
                for copies in self._alike(same_size, split, _digest):
                    if len(set(self._source[copies])) == len(copies):  # else it is a placeholder, not a copy
                        finals = {final(value) for value in self._ids[copies].tolist()}
                        next_id |= {value: min(finals) for value in finals - {min(finals)}}
        values, inverse = np.unique(self._ids, return_inverse=True)
        places = np.searchsorted(values, np.array(list(next_id), np.uint64))
        values[places] = np.array([final(value) for value in next_id], np.uint64)
        self._ids = values[inverse]
        return bool(next_id)

    def _alike(self, numbers: list[int], split: NDArray[np.int8], of: Callable[[str], object]) -> Iterator[list[int]]:
        """Yield records of files that are equal in ``of``, from several sources and at least one of them held out."""
        groups: dict[object, list[int]] = {}
        if len(set(self._source[numbers])) < 2:
            return
        for number in numbers:
            source, index = self.find(number)
            groups.setdefault(of(source.file(index)), []).append(number)
        groups.pop(None, None)
        for group in groups.values():
            if len(set(self._source[group])) > 1 and split[group].any():
                yield group

    def _describe(self, split: NDArray[np.int8]) -> str:
        changes = np.flatnonzero((self._first_split == 0) & (split > 0))
        images = np.unique(self.image[changes])
        if not len(images):
            return ""
        number = int(changes[0])
        other = next(n for n in self.records_of(number) if self._first_split[n] == split[number])
        have = "images have" if len(images) > 1 else "image has"
        return (
            f"{len(images):,} held-out {have} records that would train, which are not used for training: "
            f"{self.name(number)} is {self.name(other)}, in {SPLITS[int(split[number])]}"
        )


class RealPaths:
    """Real paths of files; each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[str, tuple[str, frozenset[str]]] = {}  # real path, and names of the links in it

    def __call__(self, file: str) -> str:
        for _ in range(MAX_LINKS):
            folder, name = os.path.split(file)
            real, links = self._folder(folder)
            file = os.path.join(real, name)
            if name not in links:
                break
            file = os.path.join(real, os.readlink(file))
        return file

    def _folder(self, folder: str) -> tuple[str, frozenset[str]]:
        if folder not in self._folders:
            try:
                with os.scandir(folder or ".") as entries:
                    links = frozenset(entry.name for entry in entries if entry.is_symlink())
            except OSError:  # in a store, or not there
                links = frozenset()
            self._folders[folder] = os.path.realpath(folder), links
        return self._folders[folder]


def _ids(texts: Iterator[str]) -> Ids:
    """Hash texts to 64 bits, which needs less memory than the texts."""
    digests = b"".join(
        hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest() for text in texts
    )
    return np.frombuffer(digests, np.uint64).copy()


def _repetitions(values: Ids) -> Iterator[NDArray[np.int64]]:
    """Yield the places of each value that occurs more than once, in the order of the first ones."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=values[order[:1]] + np.uint64(1)))
    ends = np.append(starts[1:], len(order))
    several = np.flatnonzero(ends - starts > 1)
    for i in several[np.argsort(order[starts[several]])].tolist():
        yield order[starts[i] : ends[i]]


def _size(file: str) -> int | None:
    try:
        return os.path.getsize(file) or None
    except OSError:
        return None  # missing, or in a store, whose files are not compared


def _digest(file: str) -> bytes | None:
    try:
        return hashlib.blake2b(read_bytes(file, MAX_BYTES)).digest()
    except BadRecord:
        return None
