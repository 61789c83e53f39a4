"""Captions and boxes of the images of one folder, packed so that millions of records fit into memory."""

from __future__ import annotations

import reprlib
from array import array
from math import inf
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from plugins.data.bad_records import BadRecord
from plugins.data.held_out import SPLITS
from plugins.text.invisible import remove_invisible

MAX_LETTERS = 2000  # of a caption or phrase
MIN_BOX_PIXELS = 0.1  # shortest side of a box after clipping
MAX_COORDINATE = 1e7  # pixels; no image is as large
MAX_ASPECT_DIFFERENCE = 0.02  # relative, between the aspect ratios of a file and of its record

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


class BoxLabel(NamedTuple):
    """A box with its phrase and class."""

    box: Box
    phrase: str
    label: str  # its class; "": it has none


class Records:
    """Numbered images with captions and boxes, added in any order.

    Call ``pack`` after the last one, before reading them.

    ``sizes`` are the width and height that box coordinates refer to, where a file gives them. ``crowds`` are the
    classes of crowds in an image, which have no boxes of single objects. ``split`` is the split in a file,
    where it gives one.
    Names that differ only in their spelling, such as "a/b.png" and "./a//b.png", are one image; the first is stored.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sizes: dict[int, tuple[float, float]] = {}
        self.split: dict[int, str] = {}
        self.crowds: dict[int, set[str]] = {}
        self.captions: list[str] = []
        self.phrases: list[str] = []
        self.labels: list[str] = []
        self._number: dict[str, int] = {}
        self._bases: dict[str, int] = {}
        self._interned: dict[str, str] = {}  # each phrase and class is stored once
        self._split_places: dict[int, tuple[str, str]] = {}  # file and record that state an image's split
        self._captioned, self._boxed, self._corners = array("i"), array("i"), array("f")

    def begin_file(self) -> None:
        """Start a file: its names without a folder match images in any folder, if only one has that name."""
        self._bases = {}
        for name, number in self._number.items():
            base = name.rpartition("/")[2]
            self._bases[base] = -1 if base in self._bases else number

    def image_number(self, name: str) -> int:
        """Return the number of an image; a new name gets a new number."""
        path = plain_path(name)
        number = self._number.get(path, -1)
        if number < 0 and "/" not in path:
            number = self._bases.get(path, -1)
        if number < 0:
            number = self._number[path] = len(self.names)
            self.names.append(name)
        return number

    def set_split(self, number: int, split: str, file: str, record: str) -> None:
        """Store the split that a record states for an image.

        Args:
            split: one of SPLITS.
            record: its path in the file, such as "images[3]" or "line 4".

        Raises:
            BadRecord: an earlier record states another. The image is in the later one of SPLITS: it does not train.
        """
        earlier = self.split.setdefault(number, split)
        earlier_file, earlier_record = self._split_places.setdefault(number, (file, record))
        if split == earlier:
            return
        if SPLITS.index(split) > SPLITS.index(earlier):
            self.split[number], self._split_places[number] = split, (file, record)
        place = earlier_record if earlier_file == file else f"{earlier_record} of {earlier_file}"
        message = f"{self.names[number]!r} is in {split} here and in {earlier} in {place}; it is not used for training"
        raise BadRecord("image in two splits", message, ".split")

    def size(self, number: int, width: float, height: float) -> None:
        """Store the size that box coordinates refer to.

        Raises:
            BadRecord: another file gives another size.
        """
        known = self.sizes.setdefault(number, (width, height))
        if known != (width, height):
            was = f"{known[0]:g} x {known[1]:g}"
            raise BadRecord("size differs", f"is {width:g} x {height:g} here and {was} in another file", ".width")

    def add_caption(self, number: int, text: str) -> None:
        self._captioned.append(number)
        self.captions.append(text)

    def add_box(self, number: int, box: Box, phrase: str, label: str, place: str = "") -> None:
        """Add a box in pixels, clipped to the image if its size is known.

        Raises:
            BadRecord: no part of it is inside the image.
        """
        width, height = self.sizes.get(number, (inf, inf))
        self._corners.extend(clip(box, width, height, place))
        self._boxed.append(number)
        self.phrases.append(self._interned.setdefault(phrase, phrase))
        self.labels.append(self._interned.setdefault(label, label))

    def pack(self) -> None:
        """Order captions and boxes by image, those of one image in the order of the files."""
        order, self._caption_start = _by_owner(self._captioned, len(self.names))
        self.captions = [self.captions[i] for i in order]
        order, self._box_start = _by_owner(self._boxed, len(self.names))
        self.boxes: NDArray[np.float32] = np.array(self._corners, np.float32).reshape(-1, 4)[order]  # (boxes, 4)
        self.phrases, self.labels = [self.phrases[i] for i in order], [self.labels[i] for i in order]
        self.captioned = np.flatnonzero(np.diff(self._caption_start))  # numbers of images
        self.boxed = np.flatnonzero(np.diff(self._box_start))
        self.classes = sorted(set(self.labels) - {""})
        del self._number, self._bases, self._interned, self._captioned, self._boxed, self._corners, self._split_places

    def captions_of(self, number: int) -> list[str]:
        return self.captions[self._caption_start[number] : self._caption_start[number + 1]]

    def classes_in(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the sorted classes of the boxes of some images."""
        if len(numbers) == len(self.boxed):
            return self.classes
        spans = (slice(self._box_start[number], self._box_start[number + 1]) for number in numbers.tolist())
        return sorted({label for span in spans for label in self.labels[span]} - {""})

    def box_labels(self, number: int) -> list[BoxLabel]:
        """Return the boxes of an image, in pixels of ``sizes``, or of the image file if no size is known."""
        span = slice(self._box_start[number], self._box_start[number + 1])
        boxes = map(tuple, self.boxes[span].tolist())
        return [BoxLabel(*each) for each in zip(boxes, self.phrases[span], self.labels[span], strict=True)]


def plain_path(name: str) -> str:
    """Normalise the spelling of a path: "./a//b.png" and "a\\b.png" give "a/b.png". ".." stays: "a" may be a link."""
    if "\\" in name or "./" in name or "//" in name:
        parts = name.replace("\\", "/").split("/")
        return "/".join(part for i, part in enumerate(parts) if part not in ("", ".") or (i == 0 and not part))
    return name


def _by_owner(owners: array[int], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the stable order by owner (n,), and the start of each owner's part (count + 1,)."""
    owner = np.array(owners, np.int64)
    return np.argsort(owner, kind="stable"), np.concatenate([[0], np.bincount(owner, minlength=count).cumsum()])


def clip(box: Box, width: float, height: float, place: str = "") -> Box:
    """Clip a box to an image.

    Raises:
        BadRecord: no part of it is inside.
    """
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    if x1 - x0 < MIN_BOX_PIXELS or y1 - y0 < MIN_BOX_PIXELS:
        corners = ", ".join(f"{side:g}" for side in box)
        image = "the image" if width == inf else f"the image of {width:g} x {height:g}"
        raise BadRecord("box outside the picture", f"x0, y0, x1, y1 = {corners} lies outside {image}", place)
    return x0, y0, x1, y1


def text_of(value: Any, what: str, place: str) -> str:
    """Check a caption or phrase; white space becomes single spaces, invisible characters are removed.

    Raises:
        BadRecord: as ``name_of``.
    """
    text = " ".join(remove_invisible(name_of(value, what, place)).split())
    if not text:
        raise BadRecord(f"empty {what}", f"{value[:20]!a} has no visible character", place)
    return text


def name_of(value: Any, what: str, place: str) -> str:
    """Check a text that is not changed, such as a file name.

    Raises:
        BadRecord: not text, blank or too long.
    """
    if not isinstance(value, str):
        raise BadRecord(f"{what} is no text", f"expected text, found {short_repr(value)}", place)
    if not value.strip():
        raise BadRecord(f"empty {what}", f"is {'blank' if value else 'empty'}", place)
    if len(value) > MAX_LETTERS:
        raise BadRecord(f"{what} too long", f"has {len(value)} letters; at most {MAX_LETTERS} are accepted", place)
    try:
        value.encode()
    except UnicodeEncodeError as err:
        raise BadRecord(f"{what} is no text", f"holds half of a surrogate pair at letter {err.start}", place) from err
    return value


def box_of(sides: Any, place: str) -> Box:
    """Convert x, y, width and height to corners.

    Raises:
        BadRecord: not four numbers, or without an area.
    """
    if not isinstance(sides, (list, tuple)) or len(sides) != 4 or not all(map(is_number, sides)):
        message = f"expected x, y, width, height in pixels, found {short_repr(sides)}"
        raise BadRecord("box without numbers", message, place)
    x, y, width, height = map(float, sides)
    if width < MIN_BOX_PIXELS or height < MIN_BOX_PIXELS:
        raise BadRecord(
            "box without area", f"is {width:g} wide and {height:g} high; at least {MIN_BOX_PIXELS:g} is needed", place
        )
    return x, y, x + width, y + height


def is_number(value: Any) -> TypeGuard[float]:
    """Return True for a plain number that is not NaN, infinite or far outside any image."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_COORDINATE < value < MAX_COORDINATE


def short_repr(value: Any) -> str:
    """Format a value for an error message; a long one is shortened."""
    return reprlib.repr(value)
