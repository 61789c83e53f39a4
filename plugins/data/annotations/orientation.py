"""Boxes of images that are turned upright by their EXIF orientation.

Boxes drawn by tools that ignore the orientation lie on the stored pixels, as in COCO; others lie on the upright image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from plugins.data.annotations.records import MAX_ASPECT_DIFFERENCE, Box
from plugins.data.bad_records import BadRecord
from plugins.data.image_files import UprightImage

MIRRORED_X, MIRRORED_Y, SWAPPED = (2, 3, 7, 8), (3, 4, 6, 7), (5, 6, 7, 8)  # EXIF orientations; swapped last
BOX_TOLERANCE = 1.0  # pixels by which a box that fits an image may exceed it

Size = tuple[float, float]  # width and height


class BoxFrame(NamedTuple):
    """The pixels in which an image's boxes are given, and by which EXIF orientation the boxes have to be turned."""

    size: Size
    orientation: int
    note: tuple[str, str] | None = None  # about a turned image: the kind under which it is counted, and a sentence


def box_frame(image: UprightImage, record_size: Size | None, boxes: Sequence[Box]) -> BoxFrame:
    """Decide whether the boxes of an image are in its stored pixels or in those of the upright image.

    The recorded size decides or, without one, the number of boxes that fit. If both fit equally, as for a square, the
    boxes are in stored pixels.

    Raises:
        BadRecord: the recorded size has other proportions than the image.
    """
    orientation = image.orientation
    stored: Size = image.stored_size
    upright = stored[::-1] if orientation in SWAPPED else stored
    if record_size is None:
        evidence = [sum(_fits(box, size) for box in boxes) for size in (stored, upright)]
        why = "only there do its boxes fit"
    else:
        evidence = [2 * (record_size == size) or int(_same_aspect(record_size, size)) for size in (stored, upright)]
        why = f"its record says {_text(record_size)}"
        if not any(evidence):
            also = f", {_text(upright)} upright" if upright != stored else ""
            raise BadRecord("size differs", f"has {_text(stored)} pixels{also}, and {why}: not the same proportions")
    if orientation == 1:
        return BoxFrame(record_size or stored, 1)
    fact = f"has EXIF orientation {orientation}: turned upright"
    if not boxes:
        return BoxFrame(record_size or stored, orientation, ("image turned upright", fact))
    if evidence[1] > evidence[0]:
        sentence = f"{fact}; its boxes were drawn on the upright image ({why})"
        return BoxFrame(record_size or upright, 1, ("image turned upright, without its boxes", sentence))
    if evidence[1] == evidence[0]:
        why = "assumed, as in COCO"
    sentence = f"{fact} with its boxes, which were drawn on the stored pixels ({why})"
    return BoxFrame(record_size or stored, orientation, ("image turned upright with its boxes", sentence))


def turn_box(box: Box, size: Size, orientation: int) -> Box:
    """Turn a box with its image.

    Args:
        size: of the image before it is turned.
        orientation: EXIF orientation, 1 to 8.
    """
    (x0, y0, x1, y1), (width, height) = box, size
    if orientation in MIRRORED_X:
        x0, x1 = width - x1, width - x0
    if orientation in MIRRORED_Y:
        y0, y1 = height - y1, height - y0
    return (y0, x0, y1, x1) if orientation in SWAPPED else (x0, y0, x1, y1)


def _fits(box: Box, size: Size) -> bool:
    return box[2] <= size[0] + BOX_TOLERANCE and box[3] <= size[1] + BOX_TOLERANCE


def _same_aspect(first: Size, second: Size) -> bool:
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= MAX_ASPECT_DIFFERENCE


def _text(size: Size) -> str:
    return f"{size[0]:g} x {size[1]:g}"
