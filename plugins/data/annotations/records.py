"""What annotation files say of the pictures of one folder, packed so that millions of records fit into memory."""

from __future__ import annotations

import reprlib
from array import array
from math import inf
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from plugins.data.bad_records import Fault

MOST_LETTERS = 2000  # of a caption or phrase
LEAST = 0.1  # pixels: what is left of a box has sides no shorter
FAR = 1e7  # pixels: no picture is as large
ASPECT = 0.02  # by how much two notions of one picture's proportions may differ

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


class BoxLabel(NamedTuple):
    """A box with what is said of it."""

    box: Box
    phrase: str
    label: str  # its class; "": it has none


class Records:
    """Pictures by number, with captions and boxes that may be added in any order; ``pack`` them before reading.

    ``sizes`` are the width and height that the boxes speak of, 0 where no file says them. ``crowds`` are classes that
    a picture holds without boxes of single objects. ``split`` is what a file itself says, for the pictures it names.
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
        self._said: dict[str, str] = {}  # each phrase and class is kept once
        self._captioned, self._boxed, self._corners = array("i"), array("i"), array("f")

    def begin_file(self) -> None:
        """From here on a name without a folder means the picture of that name in any folder, if there is only one."""
        self._bases = {}
        for name, number in self._number.items():
            base = name.rpartition("/")[2]
            self._bases[base] = -1 if base in self._bases else number

    def picture(self, name: str) -> int:
        """The number of a picture, new or known."""
        number = self._number.get(name, -1)
        if number < 0 and "/" not in name:
            number = self._bases.get(name, -1)
        if number < 0:
            number = self._number[name] = len(self.names)
            self.names.append(name)
        return number

    def size(self, number: int, width: float, height: float) -> None:
        """Note the size that boxes speak of.

        Raises:
            Fault: another file says another size.
        """
        known = self.sizes.setdefault(number, (width, height))
        if known != (width, height):
            was = f"{known[0]:g} x {known[1]:g}"
            raise Fault("size differs", f"is {width:g} x {height:g} here and {was} in another file", ".width")

    def add_caption(self, number: int, text: str) -> None:
        self._captioned.append(number)
        self.captions.append(text)

    def add_box(self, number: int, box: Box, phrase: str, label: str, place: str = "") -> None:
        """``box`` in pixels; is clipped where the picture's size is known.

        Raises:
            Fault: nothing of it is inside.
        """
        width, height = self.sizes.get(number, (inf, inf))
        self._corners.extend(clip(box, width, height, place))
        self._boxed.append(number)
        self.phrases.append(self._said.setdefault(phrase, phrase))
        self.labels.append(self._said.setdefault(label, label))

    def pack(self) -> None:
        """Order captions and boxes by picture, each picture's in the order of the files."""
        order, self._caption_start = _by_owner(self._captioned, len(self.names))
        self.captions = [self.captions[i] for i in order]
        order, self._box_start = _by_owner(self._boxed, len(self.names))
        self.boxes: NDArray[np.float32] = np.array(self._corners, np.float32).reshape(-1, 4)[order]  # (boxes, 4)
        self.phrases, self.labels = [self.phrases[i] for i in order], [self.labels[i] for i in order]
        self.captioned = np.flatnonzero(np.diff(self._caption_start))  # numbers of pictures
        self.boxed = np.flatnonzero(np.diff(self._box_start))
        self.classes = sorted(set(self.labels) - {""})
        del self._number, self._bases, self._said, self._captioned, self._boxed, self._corners

    def captions_of(self, number: int) -> list[str]:
        return self.captions[self._caption_start[number] : self._caption_start[number + 1]]

    def spoken(self, number: int) -> list[BoxLabel]:
        """Boxes in pixels of ``sizes``, or of the file where no size is known."""
        span = slice(self._box_start[number], self._box_start[number + 1])
        boxes = map(tuple, self.boxes[span].tolist())
        return [BoxLabel(*each) for each in zip(boxes, self.phrases[span], self.labels[span], strict=True)]


def _by_owner(owners: array[int], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The stable order by owner (n,), and where each owner's part starts (count + 1,)."""
    owner = np.array(owners, np.int64)
    return np.argsort(owner, kind="stable"), np.concatenate([[0], np.bincount(owner, minlength=count).cumsum()])


def clip(box: Box, width: float, height: float, place: str = "") -> Box:
    """The part of a box inside a picture.

    Raises:
        Fault: there is none.
    """
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    if x1 - x0 < LEAST or y1 - y0 < LEAST:
        corners = ", ".join(f"{side:g}" for side in box)
        picture = "the picture" if width == inf else f"the picture of {width:g} x {height:g}"
        raise Fault("box outside the picture", f"x0, y0, x1, y1 = {corners} lies outside {picture}", place)
    return x0, y0, x1, y1


def text_of(value: Any, what: str, place: str) -> str:
    """A caption or phrase, its white space made even.

    Raises:
        Fault: as ``name_of``.
    """
    return " ".join(name_of(value, what, place).split())


def name_of(value: Any, what: str, place: str) -> str:
    """A text as it stands, such as a file's name.

    Raises:
        Fault: not text, blank or too long.
    """
    if not isinstance(value, str):
        raise Fault(f"{what} is no text", f"expected text, found {shown(value)}", place)
    if not value.strip():
        raise Fault(f"empty {what}", f"is {'blank' if value else 'empty'}", place)
    if len(value) > MOST_LETTERS:
        raise Fault(f"{what} too long", f"has {len(value)} letters; at most {MOST_LETTERS} are accepted", place)
    try:
        value.encode()
    except UnicodeEncodeError as err:
        raise Fault(f"{what} is no text", f"holds half of a surrogate pair at letter {err.start}", place) from err
    return value


def box_of(sides: Any, place: str) -> Box:
    """x, y, width and height to corners.

    Raises:
        Fault: not four numbers, or without an area.
    """
    if not isinstance(sides, (list, tuple)) or len(sides) != 4 or not all(map(is_number, sides)):
        raise Fault("box without numbers", f"expected x, y, width, height in pixels, found {shown(sides)}", place)
    x, y, width, height = map(float, sides)
    if width < LEAST or height < LEAST:
        raise Fault("box without area", f"is {width:g} wide and {height:g} high; at least {LEAST:g} is needed", place)
    return x, y, x + width, y + height


def is_number(value: Any) -> TypeGuard[float]:
    """A plain number; not NaN, infinite or far beyond any picture."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -FAR < value < FAR


def shown(value: Any) -> str:
    """A value as an error shows it: a few entries of a long one."""
    return reprlib.repr(value)
